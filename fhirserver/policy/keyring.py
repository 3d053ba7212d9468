"""The key file as it is now: a running server takes a rotation up by itself, within a second.

A key that is unknown makes it look at once, so that the first token of a new key is good everywhere.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fhirserver.policy.keys import Keys, read_keys

EVERY = 1_000
"""Milliseconds between two looks at the file."""

_log = logging.getLogger("fhirserver.policy")


class Keyring:
    """The keys of an installation. ``path``: their file; None where there is none to look at."""

    def __init__(self, keys: Keys, path: Path | None = None) -> None:
        self.held = keys
        self.generation = 0
        self._path = path
        self._looked = 0
        self._mark: tuple[int, int, int] | None = None

    def current(self, now: int, *, at_once: bool = False) -> Keys:
        """The keys; the file is looked at once a second, or ``at_once``. Where it cannot be read, the last ones."""
        if self._path is not None and (at_once or abs(now - self._looked) >= EVERY):
            self._looked = now
            mark = _mark(self._path)
            if mark is not None and mark != self._mark:
                self._read(self._path, mark)
        return self.held

    def verifying(self, kid: str, now: int) -> ec.EllipticCurvePublicKey | None:
        """The key of this name that tokens may be signed with; None when there is none."""
        key = self.current(now).verifying(now).get(kid)
        return key if key is not None else self.current(now, at_once=True).verifying(now).get(kid)

    def _read(self, path: Path, mark: tuple[int, int, int]) -> None:
        try:
            keys = read_keys(path)
        except (OSError, ValueError) as error:
            _log.error("the key file cannot be read again: %s", type(error).__name__)
            return
        self._mark = mark
        if keys.issuer != self.held.issuer:
            _log.error("the key file is another installation's now; its keys are not taken up")
        elif keys != self.held:
            self.held = keys
            self.generation += 1


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What tells one content of the file from another; None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
