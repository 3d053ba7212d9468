"""JSON Web Keys of other parties: public keys in, the one that verifies a signature out.

Source: RFC 7517 (JWK), RFC 7518 §6 (EC, RSA), RFC 8037 (Ed25519). Which algorithms a key can stand for follows from the
key; which of them count is said by whoever verifies, never by the token.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Collection, Iterable
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

MOST_KEYS = 32
"""Keys of a set that are looked at."""

_RSA_BITS = range(2048, 8193)
_LARGEST_EXPONENT = 1 << 33
_CURVES: dict[str, tuple[type[ec.EllipticCurve], str]] = {
    "P-256": (ec.SECP256R1, "ES256"),
    "P-384": (ec.SECP384R1, "ES384"),
}
_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members that only a private or a shared key has."""

Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Unverified(Exception):
    """A token whose signature says nothing; ``unknown_kid``: none of the keys at hand has its name."""

    def __init__(self, *, unknown_kid: bool = False) -> None:
        super().__init__("the signature is not verified")
        self.unknown_kid = unknown_kid


class VerifyingKey(msgspec.Struct, frozen=True):
    """A public key, its name, and the algorithms it can verify."""

    kid: str
    algorithms: frozenset[str]
    key: Any


def read_keys(jwks: object) -> tuple[VerifyingKey, ...]:
    """The keys of a set that can verify a signature here; the others are left out.

    ValueError, quoting nothing of it, for what is no set of keys, or where two keys of one kind share a name.
    """
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not all(isinstance(each, dict) for each in keys):
        raise ValueError('A JWK Set is a JSON object with "keys", a list of objects (RFC 7517).')
    found = [key for each in keys[:MOST_KEYS] if (key := _key(each)) is not None]
    if len({(key.kid, algorithm) for key in found for algorithm in key.algorithms}) < sum(
        len(key.algorithms) for key in found
    ):
        raise ValueError("Two keys of the JWK Set have the same kid.")
    return tuple(found)


def holds_secrets(jwks: object) -> bool:
    """Whether a private or a shared key is among these: nothing to be handed to others."""
    keys = jwks.get("keys", ()) if isinstance(jwks, dict) else ()
    return any(isinstance(each, dict) and not _SECRET.isdisjoint(each) for each in keys)


def verified(token: str, keys: Iterable[VerifyingKey], algorithms: Collection[str]) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a token that one of these keys has signed by one of these algorithms; else Unverified."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unverified from None
    kid, algorithm = header.get("kid"), header.get("alg")
    # An extension that must be understood (RFC 7515 §4.1.11) is not.
    if not isinstance(kid, str) or not isinstance(algorithm, str) or algorithm not in algorithms or "crit" in header:
        raise Unverified
    named = [key for key in keys if key.kid == kid]
    fitting = [key for key in named if algorithm in key.algorithms]
    if not fitting:
        raise Unverified(unknown_kid=not named)
    try:
        return header, jwt.PyJWS().decode(token, fitting[0].key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError):
        raise Unverified from None


def as_jwk(kid: str, key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """A P-256 key as the JWK that others verify our tokens with."""
    numbers = key.public_numbers()
    x, y = (urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": kid}


def _key(jwk: dict[str, Any]) -> VerifyingKey | None:
    """The key, if it is a public one for signatures, of a kind and size that count here."""
    kid, use, operations = jwk.get("kid"), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not kid or use != "sig" or not _SECRET.isdisjoint(jwk):
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key, algorithms = _public(jwk)
    except (KeyError, TypeError, ValueError, NotBase64, UnsupportedAlgorithm):
        return None
    algorithms &= {jwk["alg"]} if isinstance(jwk.get("alg"), str) else algorithms
    return VerifyingKey(kid, algorithms, key) if algorithms else None


def _public(jwk: dict[str, Any]) -> tuple[Public, frozenset[str]]:
    if jwk["kty"] == "RSA":
        modulus, exponent = _number(jwk["n"]), _number(jwk["e"])
        if modulus.bit_length() not in _RSA_BITS or exponent >= _LARGEST_EXPONENT:
            raise ValueError("an RSA key of a size that does not count")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key(), frozenset({"RS256", "RS384"})
    if jwk["kty"] == "EC":
        curve, algorithm = _CURVES[jwk["crv"]]
        numbers = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), curve())
        return numbers.public_key(), frozenset({algorithm})
    if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"])), frozenset({"EdDSA"})
    raise ValueError("a kind of key that does not count")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(text: str) -> int:
    return int.from_bytes(_bytes(text), "big")
