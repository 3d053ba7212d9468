"""`fhirserver purge`: remove a chart or one resource with all its versions, for ever."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show_json

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.core.model import Key
    from fhirserver.policy.purge import Purge, Purgeable

_REFERENCE = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9.\-]{1,64})")
_SHOWN = 20


def purge(
    patient: Annotated[str | None, typer.Option(help="The id of the Patient whose chart goes.")] = None,
    resource: Annotated[str | None, typer.Option(metavar="TYPE/ID", help="One resource instead.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreUrl = None,
    json: AsJson = False,
) -> None:
    """Remove a patient's chart, or one resource, for ever: every version, index entries, bodies, native documents. What
    is also about somebody else stays and is named. Asks first; interrupted, it goes on when it is run again. The audit
    trail keeps the ids. An embedded store's file is written anew, which needs its size in free space three times."""
    if (patient is None) == (resource is None):
        raise typer.BadParameter("Give --patient ID or --resource TYPE/ID.")
    key = _key(f"Patient/{patient}" if resource is None else resource)

    async def work(runtime: Runtime) -> dict[str, Any]:
        purging = runtime.gate.purge(subject=session.subject())
        found = await purging.chart(key.id) if patient is not None else await purging.resource(key)
        if not found.keys and not await purging.due:
            raise ValueError(f"There is nothing of {key} in the store.")
        if not yes:
            await asyncio.to_thread(_ask, found, key)  # the store's connection lives on while somebody thinks
        done = await _purged(purging, found)
        late = await purging.chart(key.id) if patient is not None else await purging.resource(key)
        return {**done, "written_meanwhile": [str(each) for each in late.keys]}

    done = session.run(store, work, upkeep=True)
    if json:
        show_json(done)
    say(f"{sum(done['removed'].values())} resources ({done['versions']} versions) are gone.")
    if late := done["written_meanwhile"]:
        say(f"{len(late)} resources were written meanwhile; run it again, and stop who writes them.")
    for told, keys in (("is about others too and was left", done["kept"]), ("refers to it still", done["referring"])):
        for each in keys[:_SHOWN]:
            say(f"{each} {told}.")
        if len(keys) > _SHOWN:
            say(f"... and {len(keys) - _SHOWN} more; --json names all.")


def _key(reference: str) -> Key:
    from fhirserver.core.definitions import RESOURCE_TYPES
    from fhirserver.core.model import Key

    match = _REFERENCE.fullmatch(reference)
    if match is None or match[1] not in RESOURCE_TYPES:
        raise typer.BadParameter("A resource is named TYPE/ID, such as Observation/123.")
    return Key(match[1], match[2])


def _ask(found: Purgeable, key: Key) -> None:
    """Go on only when the id is typed again."""
    for type_, count in found.types.items():
        say(f"{count:8} {type_}")
    say(f"{len(found.keys)} resources with all their versions will be gone for ever; backups are yours to deal with.")
    if typer.prompt(f"Type {key.id} to go on", default="", show_default=False, err=True) != key.id:
        raise typer.Abort


async def _purged(purging: Purge, found: Purgeable) -> dict[str, Any]:
    versions = await purging.run(found)
    return {
        "removed": found.types,
        "versions": versions,
        "kept": [str(each) for each in found.kept],
        "referring": [str(each) for each in found.referring],
    }
