"""Seal and open page tokens: where a walk stands, never who may go on.

A token is AES-256-GCM over a small JSON array, so it can neither be read nor forged nor used with another request:
the request's fixed parameters and the client go in as associated data. Every page is admitted anew; the token only
carries the digest of the grant that page 1 was made under, so that a walk whose view has changed can be told to
start again instead of mixing two views.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fhirserver.core.errors import Fault, Kind

NONCE_BYTES = 12


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The next entry: the part of the answer it is in, and the seq (or list index) before it."""

    part: int
    after: int


class Page(msgspec.Struct, frozen=True, array_like=True):
    """One place in one walk over one snapshot.

    ``offset`` counts the entries before this page; ``at`` is None where the place is still to be found from it.
    ``as_of`` and ``time`` (milliseconds) are the snapshot, ``total`` the entries of the whole walk (None where the
    caller is not told). ``view`` is the digest of the grant, ``expires`` is in milliseconds since 1970. ``query``: the
    parameters of a request whose links must not show them. ``place``: of a walk through the audit trail, the last row.
    """

    as_of: int
    time: int
    total: int | None
    offset: int
    at: Position | None
    view: str
    expires: int
    query: str = ""
    place: tuple[int, str] | None = None


_DECODE = msgspec.json.Decoder(Page).decode


def binding(client: str, request: str) -> bytes:
    """What a token is bound to: the client and the request's path and fixed parameters, in canonical form."""
    return blake2b(f"{client}\n{request}".encode(), digest_size=16).digest()


def seal(page: Page, *, key: bytes, nonce: bytes, bound: bytes) -> str:
    """The token for a URL. ``key``: 32 bytes shared by all workers; ``nonce``: 12 fresh random bytes."""
    sealed = AESGCM(key).encrypt(nonce, msgspec.json.encode(page), bound)
    return urlsafe_b64encode(nonce + sealed).rstrip(b"=").decode()


def open_sealed(token: str, *, key: bytes, bound: bytes, now: int) -> Page:
    """The page behind a token; a forged or foreign one is a 400 naming `_page`, an expired one a 410."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        page = _DECODE(AESGCM(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound))
    except (InvalidTag, ValueError) as error:
        raise Fault(
            Kind.BAD_REQUEST, "_page is not a page of this request; use the links of the answer unchanged."
        ) from error
    if page.expires <= now:
        raise Fault(Kind.EXPIRED, "This page has expired; start the walk again.")
    return page
