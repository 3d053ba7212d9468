"""The installation's own secrets: signing key, page-token key and pepper, in one private file made on first use.

Whoever comes first writes a complete file under another name and links it into place; `link` refuses a name that
exists, so two processes that start at once end up with the same keys and nobody ever reads half a file.
"""

from __future__ import annotations

import os
import secrets
import stat
from functools import cached_property
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_KEY_BYTES = 32


class Keys(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The keys of one installation.

    ``issuer`` is the fixed `iss` and `aud` of its tokens (not the base URL, which may change). ``private_key`` is the
    ES256 key in PEM, ``kid`` its name in token headers. ``page_key`` (32 bytes) seals page tokens, ``pepper``
    (32 bytes) keys the hashes of identifying values.
    """

    issuer: str
    kid: str
    private_key: str
    page_key: bytes
    pepper: bytes

    @cached_property
    def signing_key(self) -> ec.EllipticCurvePrivateKey:
        """The private half, parsed."""
        key = serialization.load_pem_private_key(self.private_key.encode(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TypeError("not a P-256 key")
        return key

    @cached_property
    def verifying_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self.signing_key.public_key()

    def __repr__(self) -> str:
        return f"Keys(issuer={self.issuer!r}, kid={self.kid!r})"


def make_keys() -> Keys:
    """Fresh keys."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Keys(
        issuer=f"urn:fhirserver:{secrets.token_hex(16)}",
        kid=secrets.token_hex(8),
        private_key=pem.decode(),
        page_key=secrets.token_bytes(_KEY_BYTES),
        pepper=secrets.token_bytes(_KEY_BYTES),
    )


def load_keys(path: Path) -> Keys:
    """The keys in the file ``path``, which is created (0600, with its folder) if there is none.

    ValueError, in a sentence that quotes nothing of the file, when others may read it or it is not a key file.
    """
    if not path.exists():
        _create(path)
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ValueError(f"The key file {path} may be read by others (mode {mode:04o}); run `chmod 600 {path}`.")
        raw = file.read()
    try:
        keys = msgspec.json.decode(raw, type=Keys)
        usable = keys.verifying_key is not None
    except (msgspec.MsgspecError, ValueError, TypeError, UnsupportedAlgorithm):
        usable = False
    if (
        not usable
        or len(keys.page_key) != _KEY_BYTES
        or len(keys.pepper) < _KEY_BYTES
        or not (keys.issuer and keys.kid)
    ):
        raise ValueError(f"The key file {path} is not one that this server wrote; restore it from a backup.")
    return keys


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(make_keys()), indent=1))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
