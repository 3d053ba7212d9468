"""The rows of an organisation that very many patients have given consent to, against one that few have."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from fhirserver.cli.bench.row import Row, Tell
from fhirserver.cli.bench.searched import Size, ratio, served
from fhirserver.cli.bench.searches import CODE, Kind
from fhirserver.cli.bench.site import READER, Site
from fhirserver.cli.bench.turns import in_turns
from fixtures.consents import consenting

AT_ONCE = 50_000
"""Patients in one file."""

KINDS = (Kind("Patient?", lambda _: ("Patient", {})), CODE)


def measure(sites: Mapping[int, Site], size: Size, tell: Tell) -> Iterator[Row]:
    """Searches of a third party, with as many patients' consents as each store has patients."""
    for count, site in sites.items():
        began = time.perf_counter()
        for first in range(0, count, AT_ONCE):
            numbers = range(first, min(count, first + AT_ONCE))
            site.ingest(consenting(numbers, READER), "--trust-consents", "--no-persons")
        site.place.settle()
        tell(f"{count:,} patients with a consent each loaded in {time.perf_counter() - began:.0f} s")
    with served(sites.values()) as runnings:
        for kind in KINDS:
            tell(f"{kind.name} under consents")
            asks = [[kind.ask(number) for number in range(size.rounds)] for _ in sites]
            answers = in_turns([running.reader for running in runnings], asks, seconds=size.seconds)
            name = f"consents, {max(sites):,} to {min(sites):,}: {kind.name}"
            yield ratio(name, dict(zip(sites, answers, strict=True)), 1.5, 1.2)
