"""batch and transaction: many interactions in one Bundle, each for itself or all or nothing.

``POST [base]``. Source: R4 http §3.1.0.11. A batch runs each entry as the request it stands for. A transaction is put
together first (`http.bundled`) and stored by one commit; its reads run after it. Both in the order that R4 sets:
DELETE, POST, PUT and PATCH, GET; answers stand in the order of the entries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Invalid
from fhirserver.http.bundled import Entry, Outcome, Parsed, entries_of, fault_of, named, shell
from fhirserver.http.changes import Changes
from fhirserver.http.conditions import repeated
from fhirserver.http.inner import Room, outcome_of
from fhirserver.http.labels import labelled
from fhirserver.http.limits import body_of
from fhirserver.http.negotiation import must_be_json, prefer
from fhirserver.http.respond import content_type, json_answer
from fhirserver.http.server import Server, bearer
from fhirserver.http.writing import validated
from fhirserver.policy.gate import Scoped

_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}


async def transaction(request: Request, server: Server) -> ASGIApp:
    """A batch-response (always 200), or a transaction-response; a transaction that fails is one OperationOutcome
    that names the entry, and has stored nothing."""
    scoped = await server.gate.admit(bearer(request), interaction="transaction")
    must_be_json(request)
    media_type = content_type(request, request.query_params.get("_format"))
    raw = await body_of(request, server)
    parsed = entries_of(raw, most=server.max_entries)
    if parsed.kind == "batch":
        await _check_frame(raw, parsed)
        outcomes = await _batch(request, server, parsed)
    else:
        await _check(raw, parsed)
        outcomes = await repeated(lambda: _transaction(request, server, scoped, parsed))
    bundle = {
        "resourceType": "Bundle",
        "type": f"{parsed.kind}-response",
        **(labelled((), bound=True, notice=True) if any(each.noticed for each in outcomes) else {}),
        **({"entry": [each.entry() for each in outcomes]} if outcomes else {}),
    }
    return json_answer(msgspec.json.encode(bundle), media_type)


async def _batch(request: Request, server: Server, parsed: Parsed) -> list[Outcome]:
    """Each entry as a request of its own, with what the gate says to each."""
    async with Room() as room:
        outcomes = {entry.number: await outcome_of(request, entry, room) for entry in _ordered(parsed.entries)}
    return [outcomes[number] for number in range(len(parsed.entries))]


async def _check_frame(raw: bytes, parsed: Parsed) -> None:
    """Fault INVALID for a Bundle that is not valid, whatever its resources are: of a ``request`` that is there twice
    nobody knows which one is meant."""
    await asyncio.sleep(0)
    rest = shell(raw, parsed.entries, patches=False)
    await asyncio.sleep(0)
    validated(rest, "Bundle")


async def _check(raw: bytes, parsed: Parsed) -> None:
    """Fault INVALID, with every issue, for a Bundle or a resource in it that is not valid.

    Ten thousand resources take seconds, so each is looked at by itself and others are served meanwhile.
    """
    await asyncio.sleep(0)
    rest = shell(raw, parsed.entries)
    await asyncio.sleep(0)
    try:
        validated(rest, "Bundle")
    except Invalid:
        await asyncio.to_thread(validated, raw, "Bundle")
    for entry in parsed.entries:
        await asyncio.sleep(0)
        try:
            if entry.stores is not None:
                validated(entry.stores, None)
        except Invalid as fault:
            await asyncio.to_thread(validated, raw, "Bundle")
            raise named(fault, entry) from fault


async def _transaction(request: Request, server: Server, scoped: Scoped, parsed: Parsed) -> list[Outcome]:
    changes = Changes(server.fhir_base(request), scoped, most=server.max_body, now=server.clock())
    for entry in _ordered(parsed.entries):
        with fault_of(entry):
            await changes.take(entry)
        await asyncio.sleep(0)
    await changes.finish()
    with changes.naming_entries():
        records = await scoped.write(changes.changes, conditions=changes.conditions)
    outcomes = await changes.outcomes(records, representation=prefer(request).returned == "representation")
    async with Room() as room:
        for entry in parsed.entries:
            if entry.method in ("GET", "HEAD"):
                outcomes[entry.number] = await outcome_of(request, entry, room)
            elif entry.number not in outcomes:  # a conditional delete that found nothing
                outcomes[entry.number] = Outcome(status=204)
    return [outcomes[number] for number in range(len(parsed.entries))]


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (_ORDER[entry.method], entry.number))
