#!/usr/bin/env bash
# Makes the secrets of compose.yaml, once: mongo-secrets.sh FOLDER_OF_MONGOD FOLDER_OF_THE_SERVER.
# What is there already is kept, so that it may run at every start.
set -euo pipefail
umask 077

mongod=$1 server=$2
mongod_user=${MONGOD_USER:-mongodb}
server_user=${SERVER_USER:-10001} # the user of the server's image

random() { # letters and digits only, so that a URL can hold them
    head -c "$1" /dev/urandom | base64 --wrap=0 | tr -d '+/='
}

make() { # make FILE CONTENT: whole or not at all
    [ -e "$1" ] && return
    printf '%s' "$2" >"$1.new"
    mv "$1.new" "$1"
}

make "$mongod/keyfile" "$(random 500)"
make "$mongod/root-password" "$(random 30)"
make "$mongod/server-password" "$(random 30)"
make "$server/store-url" \
    "mongodb://fhirserver:$(cat "$mongod/server-password")@mongo:27017/fhirserver?replicaSet=rs0&authSource=admin"

chmod 0400 "$mongod"/* "$server"/*
chown -R "$mongod_user" "$mongod"
chown -R "$server_user" "$server"
chmod 0500 "$mongod" "$server"
