"""Every row of search, in the order of the table, each over stores of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fhirserver.cli.bench import consented, indexed, searched
from fhirserver.cli.bench.row import Row, Tell
from fhirserver.cli.bench.searched import FULL, FULL_ON_ENGINE, QUICK, Size
from fhirserver.cli.bench.site import Site
from fhirserver.cli.bench.stores import Engine, Place


def size(
    place: Place, *, quick: bool, patients: Sequence[int] | None = None, consents: Sequence[int] | None = None
) -> Size:
    """What is measured there; ValueError for sizes that there is nothing to compare between."""
    chosen = QUICK if quick else FULL_ON_ENGINE if isinstance(place, Engine) else FULL
    if patients:
        chosen = chosen._replace(patients=_ordered("--patients", patients))
    if consents:
        chosen = chosen._replace(consents=() if not any(consents) else _ordered("--consents", consents))
    return chosen


def _ordered(option: str, counts: Sequence[int]) -> tuple[int, ...]:
    if len(set(counts)) < 2 or min(counts) < 1:
        raise ValueError(f"{option} is given twice or more, with different positive numbers.")
    return tuple(sorted(set(counts)))


def measure(place: Place, folder: Path, size: Size, tell: Tell) -> Iterator[Row]:
    """Every row; stores are made and removed part by part."""
    with _sites(place, folder, "charts", size.patients) as sites:
        yield from searched.measure(dict(zip(size.patients, sites, strict=True)), size, tell)
    if size.consents:
        with _sites(place, folder, "consents", size.consents) as sites:
            yield from consented.measure(dict(zip(size.consents, sites, strict=True)), size, tell)
    with _sites(place, folder, "index", (size.indexed,)) as sites:
        yield from indexed.measure(sites[0], size, tell)


@contextmanager
def _sites(place: Place, folder: Path, name: str, counts: Sequence[int]) -> Iterator[list[Site]]:
    """A site with an empty store for each count, gone afterwards."""
    with ExitStack() as stack:
        sites = []
        for count in counts:
            below = folder / f"{name}-{count}"
            below.mkdir()
            stack.callback(shutil.rmtree, below)
            another = place.another(below)
            stack.callback(another.remove)
            sites.append(Site(below, another))
        yield sites
