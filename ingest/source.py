"""Find and open what is to be ingested: files, directories, standard input, plain or compressed.

Compression is told by a file's first bytes, never by its name; names only decide which files of a directory
are taken (`SUFFIXES`). Standard input and pipes are copied to a temporary file, because everything is read twice.
"""

from __future__ import annotations

import bz2
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import IO, Literal, NamedTuple, cast

from isal import igzip
from isal.igzip_lib import IsalError

from fhirserver.core.errors import Fault, Kind

SUFFIXES = (".json", ".ndjson", ".jsonl")
"""What is taken from a directory, each also with ``.gz`` or ``.bz2`` behind it."""

_TAKEN = re.compile(r".*\.(?:json|ndjson|jsonl)(?:\.gz|\.bz2)?", re.IGNORECASE | re.DOTALL).fullmatch
_LINES = re.compile(r".*\.(?:ndjson|jsonl)(?:\.gz|\.bz2)?", re.IGNORECASE | re.DOTALL).fullmatch
_WAIT = 0.2
"""Seconds between two looks at whether to go on waiting for a pipe."""
_FOREIGN = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xfd7zXZ": "compressed with xz; only gzip and bzip2 are understood",
    b"(\xb5/\xfd": "compressed with zstd; only gzip and bzip2 are understood",
    b"\xff\xfe": "not UTF-8 (it begins like UTF-16)",
    b"\xfe\xff": "not UTF-8 (it begins like UTF-16)",
}


class Unreadable(Exception):
    """A file cannot be read at all; the message says why and names no path."""


class Source(NamedTuple):
    """One file to ingest; ``name`` is what people gave (`_shown`), ``size`` the bytes on disk."""

    name: str
    path: Path
    size: int

    @property
    def lines(self) -> bool:
        """Whether its name promises one resource per line."""
        return _LINES(self.name) is not None


def find(paths: Sequence[Path | Literal["-"]], spool: Path, check: Callable[[], None] = lambda: None) -> list[Source]:
    """All files behind ``paths``, directories in the order of their names; ``-`` and pipes are copied into
    ``spool``. While that waits for somebody to write, ``check`` is called several times a second; it may raise.

    Raises Fault(BAD_REQUEST) for a path that is not there, is neither file nor directory, or a directory that
    holds nothing to ingest: before anything is read.
    """
    found: list[Source] = []
    for path in paths:
        if path == "-":
            # None where the process was started without one, as by some schedulers.
            if cast(object, sys.stdin) is None:
                raise Fault(Kind.BAD_REQUEST, "Standard input (-) is closed.")
            found.append(_copy("-", _pieces(sys.stdin.buffer, check), spool / f"input-{len(found)}"))
            continue
        if path.is_fifo():
            # Opened without waiting for a writer, who may never come.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
                found.append(_copy(str(path), _pieces(pipe, check), spool / f"input-{len(found)}"))
        elif path.is_dir():
            inside = list(_walk(path))
            if not inside:
                names = ", ".join(SUFFIXES)
                raise Fault(Kind.BAD_REQUEST, f"There is nothing to ingest in {path} (files named {names}).")
            found += inside
        elif path.exists():
            if not path.is_file():
                raise Fault(Kind.BAD_REQUEST, f"{path} is neither a file nor a directory.")
            found.append(Source(_shown(path), path, path.stat().st_size))
        else:
            raise Fault(Kind.BAD_REQUEST, f"{path} does not exist.")
    return found


def _walk(top: Path) -> Iterator[Source]:
    """What is to be taken from ``top``; links to folders are not followed (they may lead in a circle).

    What cannot be looked at is given, too, so that it ends among the rejects and is not missing without a word.
    """
    closed: list[OSError] = []
    for folder, below, files in os.walk(top, onerror=closed.append):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder) / name
            if name.startswith(".") or not _TAKEN(name):
                continue
            try:
                if path.is_file():
                    yield Source(_shown(path), path, path.stat().st_size)
            except PermissionError:
                yield Source(_shown(path), path, 0)
    for error in closed:
        yield Source(_shown(Path(error.filename)), Path(error.filename), 0)


def _shown(path: Path) -> str:
    """The path for people; a name that is not UTF-8 cannot stand in a report as it is."""
    return os.fsencode(path).decode(errors="replace")


def _copy(name: str, pieces: Iterator[bytes], target: Path) -> Source:
    with target.open("xb") as out:
        out.writelines(pieces)
    return Source(name, target, target.stat().st_size)


def _pieces(stream: IO[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    """What the stream gives, never waiting long for it: a thread that waits for ever in a read cannot be ended."""
    try:
        number = stream.fileno()
    except OSError:  # it is in memory
        yield stream.read()
        return
    while True:
        check()
        if select([number], [], [], _WAIT)[0]:
            piece = os.read(number, 1 << 20)
            if not piece:
                return
            yield piece


class Stream:
    """An open source: `read` gives plain bytes, `done` says how many bytes of the file have been used."""

    def __init__(self, file: IO[bytes], plain: IO[bytes]) -> None:
        self._file = file
        self._plain = plain

    @property
    def done(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, ``b""`` at the end; raises Unreadable when decompression or the disk fails."""
        try:
            return self._plain.read(size)
        except EOFError:
            raise Unreadable("the compressed data ends too early") from None
        except (OSError, IsalError) as error:  # type: ignore[misc]  # declared as a variable in isal's stub
            raise Unreadable(f"the file cannot be read ({type(error).__name__})") from None


@contextmanager
def opened(source: Source) -> Iterator[Stream]:
    """The source, decompressed; raises Unreadable for a form that is not understood."""
    try:
        file = source.path.open("rb")
    except OSError as error:
        what = "folder" if os.path.isdir(source.path) else "file"
        raise Unreadable(f"the {what} cannot be opened ({error.strerror})") from None
    with file:
        head = file.read(6)
        file.seek(0)
        for magic, reason in _FOREIGN.items():
            if head.startswith(magic):
                raise Unreadable(reason)
        if head.startswith(b"\x1f\x8b"):
            plain: IO[bytes] = igzip.open(file, "rb")  # type: ignore[no-untyped-call]  # isal annotates its C part only
        elif head.startswith(b"BZh"):
            plain = cast(IO[bytes], bz2.BZ2File(file))
        else:
            plain = file
        try:
            yield Stream(file, plain)
        finally:
            if plain is not file:
                plain.close()
