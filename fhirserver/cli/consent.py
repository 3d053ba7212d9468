"""`fhirserver consent`: what a patient opens to an organisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show_json, show_table
from fhirserver.cli.person import bare

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.explain import Explanation
    from fhirserver.policy.gate import Scoped

app = typer.Typer(help="Consents.", no_args_is_help=True)

Person = Annotated[str | None, typer.Option("--person", metavar="ID", help="Every Patient this Person links now.")]
Patient = Annotated[str | None, typer.Option("--patient", metavar="ID", help="This Patient alone.")]
Organization = Annotated[str, typer.Option("--org", metavar="ORG", help="The organisation it is about.")]
Project = Annotated[str | None, typer.Option("--project", metavar="ID", help="Only for this project of theirs.")]


@app.command()
def grant(
    org: Organization,
    person: Person = None,
    patient: Patient = None,
    project: Project = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="The last day or moment it is good for.")
    ] = None,
    types: Annotated[
        str | None, typer.Option("--types", metavar="A,B", help="Only these resource types; all usual ones else.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B", help="Restricted labels that are opened, too, such as HIV."),
    ] = None,
    store: StoreUrl = None,
) -> None:
    """Open charts to an organisation: writes one Consent for each Patient."""
    only, also = _listed("--types", types), _listed("--labels", labels)
    _check(person, patient, project, until, only, also)

    async def work(runtime: Runtime) -> int:
        from fhirserver.policy.consenting import grant_consent

        scoped, patients = await _patients(runtime, "consent grant", person, patient, org)
        await grant_consent(scoped, patients, org, project=project, until=until, types=only, labels=also)
        return len(patients)

    count = session.run(store, work)
    say(f"{_whose(person, patient)} opened to {org} ({count} Patient{'s' if count > 1 else ''}).")


@app.command()
def revoke(
    org: Organization,
    person: Person = None,
    patient: Patient = None,
    project: Project = None,
    store: StoreUrl = None,
) -> None:
    """Close charts to an organisation, or to one project of it; counts from the next request on."""
    _check(person, patient, project)

    async def work(runtime: Runtime) -> int:
        from fhirserver.policy.consenting import revoke_consent

        scoped, patients = await _patients(runtime, "consent revoke", person, patient, org)
        await revoke_consent(scoped, patients, org, project=project)
        return len(patients)

    count = session.run(store, work)
    say(f"{_whose(person, patient)} closed to {org} ({count} Patient{'s' if count > 1 else ''}).")


@app.command()
def explain(
    resource: Annotated[str, typer.Option("--resource", metavar="TYPE/ID", help="What is, or is not, shown.")],
    org: Annotated[str, typer.Option("--org", metavar="ORG", help="The organisation that asks.")],
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="CODE", help="What it asks for (TREAT).")] = None,
    as_: Annotated[str, typer.Option("--as", help="member or third-party.")] = "third-party",
    scope: Annotated[
        str | None, typer.Option("--scope", help="Its scopes; read and search of everything else.")
    ] = None,
    store: StoreUrl = None,
    json: AsJson = False,
) -> None:
    """Tell why a resource is, or is not, shown to an organisation."""
    from fhirserver.core.definitions import RESOURCE_TYPES
    from fhirserver.core.model import MAX_TIME, Key
    from fhirserver.policy.principal import CallerClass, Principal
    from fhirserver.policy.scopes import Scopes

    key = Key.parse(resource)
    if key.type not in RESOURCE_TYPES or not key.id:
        raise ValueError(f"{resource!r} names no resource; Observation/1 does.")
    if as_ not in ("member", "third-party"):
        raise ValueError("--as is member or third-party.")
    usual = "patient/*.rs" if as_ == "third-party" else "system/*.rs"

    async def work(runtime: Runtime) -> Explanation:
        scoped = session.operator(runtime, "consent explain")
        await session.known_organization(scoped, org)
        asker = Principal(
            subject="explain", organization=org, caller=CallerClass(as_), scopes=Scopes(scope or usual),
            purpose=purpose, until=MAX_TIME,
        )  # fmt: skip
        return await runtime.gate.explain(key, asker, scoped)

    found = session.run(store, work)
    if json:
        show_json({"shown": found.shown, "reasons": list(found.reasons)})
        return
    say(f"{key} is {'' if found.shown else 'not '}shown to {org}.")
    for reason in found.reasons:
        say(f"  {reason}")


@app.command("list")
def list_(
    person: Person = None,
    patient: Patient = None,
    org: Annotated[str | None, typer.Option("--org", metavar="ORG", help="Only those that name it.")] = None,
    store: StoreUrl = None,
    json: AsJson = False,
) -> None:
    """List consents, the inactive ones too."""
    if person is not None and patient is not None:
        raise ValueError("Give --person or --patient, not both.")

    async def work(runtime: Runtime) -> list[dict[str, Any]]:
        from fhirserver.policy.consenting import list_consents, patients_of

        scoped = session.operator(runtime, "consent list")
        patients: tuple[str, ...] = ()
        if person is not None:
            patients = await patients_of(scoped, bare(person, "Person"))
        elif patient is not None:
            patients = (bare(patient, "Patient"),)
        detail = {"type": "Consent", **({"org": org} if org else {})}
        async with scoped.disclosure(interaction="consent-list", patients=patients, detail=detail) as note:
            found = list_consents(scoped, patients=patients, organization=org)
            rows = [_plain(record.id, resource, counts) async for record, resource, counts in found]
            note.count = len(rows)
            note.complete()
        return rows

    rows = session.run(store, work)
    if json:
        show_json(rows)
    else:
        titles = ("ID", "PATIENT", "ORGANIZATION", "DECISION", "STATUS", "COUNTS", "UNTIL", "TYPES", "LABELS")
        show_table(titles, ([_cell(value) for value in row.values()] for row in rows))


def _check(
    person: str | None,
    patient: str | None,
    project: str | None = None,
    until: str | None = None,
    types: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> None:
    """ValueError in one sentence for options that say nothing, too much, or what is not there."""
    from fhirserver.app import wall_clock
    from fhirserver.core.dates import interval
    from fhirserver.core.definitions import RESOURCE_TYPES
    from fhirserver.policy.vocabulary import labels as known

    if (person is None) == (patient is None):
        raise ValueError("Say whose consent it is: --person ID or --patient ID, one of them.")
    unknown = [type_ for type_ in types if type_ not in RESOURCE_TYPES]
    if unknown:
        raise ValueError(f"--types: {unknown[0]!r} is no resource type of R4.")
    known().named(labels)
    if project is not None and not project.strip():
        raise ValueError("--project names no project; without it, the consent is about all of them.")
    if until is not None:
        try:
            _, end = interval(until)
        except ValueError as failure:
            raise ValueError(f"--until: {until!r} {failure}.") from None
        if end < wall_clock():
            raise ValueError(f"--until: {until} is over, so that nothing would be opened.")


async def _patients(
    runtime: Runtime, purpose: str, person: str | None, patient: str | None, org: str
) -> tuple[Scoped, tuple[str, ...]]:
    """The grant to write under and the Patients it is about; the organisation must be known."""
    from fhirserver.policy.consenting import patients_of

    scoped = session.operator(runtime, purpose)
    await session.known_organization(scoped, org)
    if person is not None:
        return scoped, await patients_of(scoped, bare(person, "Person"))
    return scoped, (bare(patient or "", "Patient"),)


async def open_person(runtime: Runtime, person: str, org: str, *, types: tuple[str, ...] = ()) -> None:
    """Grant for good what is not granted so yet; doing it again writes nothing."""
    from fhirserver.policy.consenting import grant_consent, list_consents

    scoped, patients = await _patients(runtime, "consent grant", person, None, org)
    opened = {
        row["patient"]
        async for record, resource, counts in list_consents(scoped, patients=patients, organization=org)
        if (row := _plain(record.id, resource, counts))["status"] == "active"
        and (row["decision"], row["counts"], row["until"], set(row["types"])) == ("permit", True, "", set(types))
    }
    missing = [patient for patient in patients if patient not in opened]
    if missing:
        await grant_consent(scoped, missing, org, types=types)


def _plain(id: str, consent: dict[str, Any], counts: bool) -> dict[str, Any]:
    """A Consent as one row: only its root rule, as this command writes it."""
    rule = consent.get("provision", {})
    actors = [actor.get("reference", {}).get("reference", "") for actor in rule.get("actor", ())]
    return {
        "id": id,
        "patient": consent.get("patient", {}).get("reference", "").removeprefix("Patient/"),
        "organization": ",".join(actor.removeprefix("Organization/") for actor in actors),
        "decision": rule.get("type", ""),
        "status": consent.get("status", ""),
        "counts": counts,
        "until": rule.get("period", {}).get("end", ""),
        "types": [coding.get("code", "") for coding in rule.get("class", ())],
        "labels": [coding.get("code", "") for coding in rule.get("securityLabel", ())],
    }


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, list) else str(value)


def _listed(option: str, text: str | None) -> tuple[str, ...]:
    """The parts of ``A,B``; a list that is given and empty must not count as none given, which opens the most."""
    parts = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and not parts:
        raise ValueError(f"{option} names nothing; leave it out or name some.")
    return parts


def _whose(person: str | None, patient: str | None) -> str:
    return f"Person/{bare(person, 'Person')}" if person else f"Patient/{bare(patient or '', 'Patient')}"
