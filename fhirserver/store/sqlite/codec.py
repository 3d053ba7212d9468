"""Packed forms: the row of a Record, the index entries of a version, the hash of a term."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

Meta = tuple[int, str, int, int, int, int, bool, int, int, bytes, int, int]
"""type id, id, version, seq, ended, updated, deleted, facts id, supports id, digest, size, blob id (0: in line)."""


class Entries(msgspec.Struct, frozen=True, array_like=True):
    """The index rows of one version, exactly as they stand in the tables (names as their ids).

    ``terms`` are the 8-byte hashes, sorted and joined, so that a snapshot can look for one with `instr`. ``present``
    stands in no table.
    """

    compartments: tuple[int, ...] = ()
    terms: bytes = b""
    texts: tuple[tuple[int, str], ...] = ()
    spans: tuple[tuple[int, float, float], ...] = ()
    sorts: tuple[tuple[int, str | float], ...] = ()
    present: tuple[int, ...] = ()

    def hashes(self) -> tuple[int, ...]:
        """The terms as the signed integers that the table holds."""
        return struct.unpack(f">{len(self.terms) // 8}q", self.terms)


pack = msgspec.msgpack.Encoder().encode
_metas = msgspec.msgpack.Decoder(list[Meta]).decode
_entries = msgspec.msgpack.Decoder(list[tuple[int, Entries]]).decode


class Term(NamedTuple):
    """A term's hash as the integer of the table and as the bytes of `Entries.terms`."""

    number: int
    raw: bytes


@lru_cache(maxsize=1 << 16)
def hash_term(text: str) -> Term:
    """64 bits of BLAKE2b; among ten million terms a collision has odds of one in 400,000."""
    raw = blake2b(text.encode(), digest_size=8).digest()
    return Term(int.from_bytes(raw, "big", signed=True), raw)


def understood(decode: Callable[[bytes], T], data: bytes) -> T:
    """What was written by us, decoded; what cannot be decoded is damage like any other, and no fault of the caller."""
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise sqlite3.DatabaseError("a packed value is damaged") from error


def unpack_metas(count: int, packed: bytes) -> list[Meta]:
    """``count`` packed Metas, concatenated by SQL."""
    return understood(_metas, b"\xdd" + count.to_bytes(4, "big") + packed)


def unpack_entries(count: int, packed: bytes) -> list[tuple[int, Entries]]:
    """``count`` packed (seq, Entries) pairs, concatenated by SQL."""
    return understood(_entries, b"\xdd" + count.to_bytes(4, "big") + packed)


def joined(values: Iterable[int]) -> str:
    """Integers as a JSON array for `json_each`."""
    return "[" + ",".join(map(str, values)) + "]"
