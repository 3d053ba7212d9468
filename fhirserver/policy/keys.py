"""The installation's own secrets: signing key, page-token key and pepper, in one private file made on first use.

Whoever comes first writes a complete file under another name and links it into place; `link` refuses a name that
exists, so two processes that start at once end up with the same keys and nobody ever reads half a file.
"""

from __future__ import annotations

import fcntl
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


class EarlierKey(msgspec.Struct, frozen=True):
    """A key that signs no longer: its public half in PEM, and until when (milliseconds since 1970) it verifies."""

    kid: str
    public_key: str
    until: int


class Keys(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The keys of one installation.

    ``issuer`` is the fixed `iss` and `aud` of its tokens (not the base URL, which may change). ``private_key`` is the
    ES256 key in PEM, ``kid`` its name in token headers. ``page_key`` (32 bytes) seals page tokens, ``pepper``
    (32 bytes) keys the hashes of identifying values. ``earlier``: keys that tokens may still be signed with.
    """

    issuer: str
    kid: str
    private_key: str
    page_key: bytes
    pepper: bytes
    earlier: tuple[EarlierKey, ...] = ()

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

    @cached_property
    def _verifying(self) -> dict[str, tuple[ec.EllipticCurvePublicKey, int | None]]:
        earlier = {key.kid: (_public(key.public_key), key.until) for key in self.earlier}
        return {**earlier, self.kid: (self.verifying_key, None)}

    def verifying(self, now: int) -> dict[str, ec.EllipticCurvePublicKey]:
        """The keys that tokens may be signed with now (milliseconds since 1970), by name."""
        return {kid: key for kid, (key, until) in self._verifying.items() if until is None or now < until}

    def __repr__(self) -> str:
        return f"Keys(issuer={self.issuer!r}, kid={self.kid!r})"


def _public(pem: str) -> ec.EllipticCurvePublicKey:
    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TypeError("not a P-256 key")
    return key


def _signing_key() -> str:
    """A fresh one in PEM."""
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def make_keys() -> Keys:
    """Fresh keys."""
    return Keys(
        issuer=f"urn:fhirserver:{secrets.token_hex(16)}",
        kid=secrets.token_hex(8),
        private_key=_signing_key(),
        page_key=secrets.token_bytes(_KEY_BYTES),
        pepper=secrets.token_bytes(_KEY_BYTES),
    )


def load_keys(path: Path) -> Keys:
    """The keys in the file ``path``, which is created (0600, with its folder) if there is none.

    ValueError, in a sentence that quotes nothing of the file, when others may read it or it is not a key file.
    """
    if not path.exists():
        _create(path)
    return read_keys(path)


def read_keys(path: Path) -> Keys:
    """The same of a file that must be there: OSError where it is not."""
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ValueError(f"The key file {path} may be read by others (mode {mode:04o}); run `chmod 600 {path}`.")
        raw = file.read()
    try:
        keys = msgspec.json.decode(raw, type=Keys)
        usable = bool(keys.verifying(0))
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


def rotate(path: Path, now: int, *, keep: int) -> Keys:
    """Put a fresh signing key into the file; tokens of the earlier one verify for ``keep`` milliseconds more (0: no
    longer). One rotation at a time; whoever reads meanwhile reads the file as it was or as it will be."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = load_keys(path)
        public = keys.verifying_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        earlier = [*keys.earlier, EarlierKey(keys.kid, public.decode(), now + keep)] if keep else []
        fresh = msgspec.structs.replace(
            keys,
            kid=secrets.token_hex(8),
            private_key=_signing_key(),
            earlier=tuple(key for key in earlier if now < key.until),
        )
        temporary = _written(path, fresh)
        os.replace(temporary, path)
        os.fsync(folder)
    finally:
        os.close(folder)
    return fresh


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _written(path, make_keys())
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        _sync_folder(path.parent)
    finally:
        temporary.unlink()


def _written(path: Path, keys: Keys) -> Path:
    """A complete private file beside ``path`` that holds these keys."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(keys), indent=1))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
