"""What a purge leaves behind: in the ledger the seqs it took, so that `verify` can tell a purge from a loss."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

PREFIX = "purged/"
"""Names of the ledger entries, one for each transaction that removed versions."""

_decode = msgspec.json.Decoder(list[tuple[int, int]]).decode


def ranges(seqs: Iterable[int]) -> list[tuple[int, int]]:
    """Seqs as (first, last) of each stretch without a gap."""
    found: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if found and seq == found[-1][1] + 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


def gaps(values: Iterable[bytes]) -> list[tuple[int, int]]:
    """All stretches that these entries hold, in order."""
    return sorted(each for value in values for each in _decode(value))
