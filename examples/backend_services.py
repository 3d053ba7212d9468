"""A client of SMART Backend Services in a page: makes a key, asks for a token, reads.

    python examples/backend_services.py key KEYFILE                    makes the key; prints the JWK Set to register
    python examples/backend_services.py get KEYFILE BASE CLIENT PATH   reads [BASE]/PATH as CLIENT

Needs PyJWT and cryptography, which the server needs, too.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

SCOPES = "system/*.rs"
KID = "first"


def make_key(path: str) -> dict[str, Any]:
    """A fresh private key in the file, readable by its owner only; its public half as a JWK Set."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    public = jwt.get_algorithm_by_name("ES384").to_jwk(key.public_key(), as_dict=True)
    return {"keys": [{**public, "kid": KID, "alg": "ES384", "use": "sig"}]}


def fetch(url: str, form: dict[str, str] | None = None, token: str = "") -> Any:
    """JSON by GET, or by POST of a form."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:  # noqa: S310  the user's own URL
        return json.load(answer)


def token(key: Any, base: str, client: str) -> str:
    """An access token: the discovery document says where, a signed assertion says who asks."""
    endpoint = fetch(f"{base}/.well-known/smart-configuration")["token_endpoint"]
    claims = {"iss": client, "sub": client, "aud": endpoint, "exp": int(time.time()) + 240, "jti": str(uuid.uuid4())}
    form = {
        "grant_type": "client_credentials",
        "scope": SCOPES,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode(claims, key, algorithm="ES384", headers={"kid": KID}),
    }
    return str(fetch(endpoint, form)["access_token"])


def main(words: list[str]) -> None:
    if len(words) == 2 and words[0] == "key":
        told = make_key(words[1])
    elif len(words) == 5 and words[0] == "get":
        _, file, base, client, path = words
        with open(file, "rb") as pem:
            key = load_pem_private_key(pem.read(), None)
        told = fetch(f"{base}/{path}", token=token(key, base, client))
    else:
        sys.exit(__doc__)
    json.dump(told, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except urllib.error.HTTPError as refused:
        sys.exit(f"{refused.status}: {refused.read().decode()}")
