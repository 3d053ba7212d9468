"""`fhirserver person`: which Patients are one human."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fhirserver.cli import session
from fhirserver.cli.console import StoreUrl, say

if TYPE_CHECKING:
    from fhirserver.app import Runtime

app = typer.Typer(help="Which Patients are one human.", no_args_is_help=True)

Person = Annotated[str, typer.Argument(metavar="PERSON", help="The Person's id.")]
Patients = Annotated[list[str], typer.Argument(metavar="PATIENT...", help="The Patients' ids.")]


def bare(reference: str, kind: str) -> str:
    """The id in ``Patient/1`` or ``1``; ValueError when it names another type."""
    type_, found, id = reference.rpartition("/")
    if found and type_ != kind:
        raise ValueError(f"{reference!r} is no {kind}.")
    if not id:
        raise ValueError(f"A {kind} id is missing.")
    return id


@app.command()
def link(person: Person, patients: Patients, store: StoreUrl = None) -> None:
    """Link Patients to a Person (which is made if it is not there)."""
    _change(person, patients, store, linked=True)


@app.command()
def unlink(person: Person, patients: Patients, store: StoreUrl = None) -> None:
    """Take Patients off a Person; each gets a Person of its own."""
    _change(person, patients, store, linked=False)


def _change(person: str, patients: list[str], store: str | None, *, linked: bool) -> None:
    who, which = bare(person, "Person"), [bare(patient, "Patient") for patient in patients]

    async def work(runtime: Runtime) -> None:
        from fhirserver.policy import persons

        scoped = session.operator(runtime, "person link" if linked else "person unlink")
        await (persons.link if linked else persons.unlink)(scoped, who, which)

    session.run(store, work)
    say(f"Person/{who}: {', '.join('Patient/' + id for id in which)} {'linked' if linked else 'unlinked'}.")
