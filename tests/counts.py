"""How many examples a property gets: few by default, ten times as many under FHIRSERVER_PROOF=1 (`make proof`)."""

from __future__ import annotations

import os

PROOF = "FHIRSERVER_PROOF" in os.environ


def examples(count: int) -> int:
    """``count``, or ten times as many for the proof."""
    return count * 10 if PROOF else count
