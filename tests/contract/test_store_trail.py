"""What every store promises of its audit trail: a chain that tells of damage, reads by index, and what is dropped."""

from __future__ import annotations

import asyncio
from random import Random

from fhirserver.core.model import AuditRow
from fhirserver.core.trail import BEGIN, Entry, TrailQuery
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, derive, draft


def row(name: str, at: int = START, **more: object) -> AuditRow:
    fields = {"organization": "o", "subject": "s", "interaction": "read", "outcome": "intent", **more}
    return AuditRow(id=name, at=at, **fields)  # type: ignore[arg-type]


async def told(store: Store) -> list[str]:
    return [sentence async for sentence in store.verify(derive)]


async def entries(store: Store, after: str = "") -> list[Entry]:
    return [each async for batch in store.audit.entries(after) for each in batch]


async def found(store: Store, **wanted: object) -> list[str]:
    """The ids of every page of two rows, put together."""
    ids: list[str] = []
    after: tuple[int, str] | None = None
    while True:
        page = await store.audit.find(TrailQuery(**wanted, after=after, limit=2))  # type: ignore[arg-type]
        if not page:
            return ids
        ids += [each.row.id for each in page]
        after = page[-1].row.at, page[-1].place


async def test_every_row_has_a_link_and_places_lead_on(store: Store) -> None:
    await store.audit.append([row("a"), row("b")])
    await store.commit([draft("Observation/a")], audit=[row("c")])
    await store.audit.append([row("d")])
    await store.commit([], audit=[row("e")])
    there = await entries(store)
    assert [each.row.id for each in there] == list("abcde")
    assert len({each.link for each in there} - {b"", BEGIN}) == 5
    for at, each in enumerate(there):
        assert await entries(store, each.place) == there[at + 1 :]
    assert await told(store) == []


async def test_many_at_once_are_one_chain(store: Store) -> None:
    async def one(at: int) -> None:
        if at % 3:
            await store.audit.append([row(f"{at}-a"), row(f"{at}-b")])
        else:
            await store.commit([draft(f"Observation/{at}")], audit=[row(f"{at}-a"), row(f"{at}-b")])

    await asyncio.gather(*map(one, range(120)))
    assert len(await entries(store)) == 240
    assert await told(store) == []


async def test_a_commit_that_fails_leaves_no_row_and_no_gap(store: Store) -> None:
    await store.commit([draft("Observation/a")], audit=[row("a")])
    outcomes = await asyncio.gather(
        *(store.commit([draft("Observation/a", if_version=1)], audit=[row(f"b{at}")]) for at in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    await store.commit([draft("Observation/z")], audit=[row("z")])
    assert len(await entries(store)) == 3
    assert await told(store) == []


async def test_the_trail_is_asked_by_organisation_patient_and_time_in_both_orders(store: Store) -> None:
    random = Random(7)  # noqa: S311 - a fixed sequence
    rows = [
        row(f"{at:03}", START + random.randrange(8), organization=f"o{at % 2}", patients=(f"p{at % 3}", f"q{at}"))
        for at in range(40)
    ]
    for at in range(0, 40, 5):
        await store.audit.append(rows[at : at + 5])
    for organization in (None, "o1", "no"):
        for patient in (None, "p2", "no"):
            for since, until in ((None, None), (START + 2, None), (None, START + 6), (START + 3, START + 4)):
                wanted = [
                    each
                    for each in rows
                    if organization in (None, each.organization)
                    and (patient is None or patient in each.patients)
                    and (since is None or each.at >= since)
                    and (until is None or each.at < until)
                ]
                ordered = [each.id for each in sorted(wanted, key=lambda each: (each.at, each.id))]
                asked = {"organization": organization, "patient": patient, "since": since, "until": until}
                assert await found(store, **asked, oldest_first=True) == ordered
                assert await found(store, **asked) == ordered[::-1]


async def test_the_rows_of_an_event_are_found_by_it(store: Store) -> None:
    await store.audit.append([row("a"), row("b"), row("c", outcome="denied")])
    await store.audit.append([row("d", intent="b", outcome="complete")])
    assert [each.row.id for each in await store.audit.events(["b"])] == ["b", "d"]
    assert [each.row.id for each in await store.audit.events(["a", "b", "no", "c", "a"])] == ["a", "b", "c", "d"]
    assert await store.audit.events([]) == []


async def test_what_is_dropped_leaves_a_chain_that_fits(store: Store, clock: Clock) -> None:
    for day in range(6):
        clock.now = START + day * 1000
        await store.audit.append([row(f"{day}-{at}", clock.now, patients=("p",)) for at in range(3)])
        await store.commit([draft(f"Observation/{day}")], audit=[row(f"{day}-c", clock.now)])
    before = await entries(store)
    assert await store.audit.drop(START) == 0
    assert await store.audit.drop(START + 2500) == 12
    assert await entries(store) == before[12:]
    assert await found(store, patient="p") == [f"{day}-{at}" for day in (5, 4, 3) for at in (2, 1, 0)]
    assert await store.audit.events(["0-0"]) == []
    assert await told(store) == []
    assert await store.audit.drop(START + 99_999) == 12
    assert await entries(store) == []
    await store.audit.append([row("after")])
    await store.commit([draft("Observation/0")], audit=[row("after too")])
    assert [each.row.id for each in await entries(store)] == ["after", "after too"]
    assert await told(store) == []


async def test_settled_rows_are_a_beginning_of_the_trail(store: Store, clock: Clock) -> None:
    await store.audit.append([row("old")])
    clock.now += 10 * 60_000
    await store.audit.append([row("new")])
    settled = [each.row.id async for batch in store.audit.entries(settled=True) for each in batch]
    assert settled in (["old"], ["old", "new"])
