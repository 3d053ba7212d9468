// The server's user in compose.yaml, with no more than its role (mongo-role.js) allows.
db.getSiblingDB("admin").createUser({
  user: "fhirserver",
  pwd: require("fs").readFileSync("/secrets/server-password", "utf8"),
  roles: ["fhirserverStore"],
});
