"""`fhirserver token`: a signed bearer token for operators and tests."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fhirserver.cli import session
from fhirserver.cli.console import StoreUrl, say, show
from fhirserver.cli.person import bare

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.gate import Scoped

HOUR = 3600
YEAR = 365 * 24 * HOUR


class As(StrEnum):
    """The class of a caller; the values of `CallerClass`, kept here so that `--help` needs no policy."""

    THIRD_PARTY = "third-party"
    MEMBER = "member"
    OPERATOR = "operator"
    PATIENT = "patient"


def token(
    org: Annotated[
        str | None, typer.Option(help="The organisation it acts for; needed for members and third parties.")
    ] = None,
    as_: Annotated[As, typer.Option("--as", help="The caller's class.")] = As.THIRD_PARTY,
    scope: Annotated[
        str | None,
        typer.Option(help="SMART scopes; read and search of everything the class may reach unless given."),
    ] = None,
    role: Annotated[str | None, typer.Option(help="A role such as ORG_ADMIN.")] = None,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The Patient of a patient's token.")] = None,
    purpose: Annotated[str | None, typer.Option(help="The purpose of use, such as T-TRTMNT.")] = None,
    reason: Annotated[
        str, typer.Option(help="With --purpose BTG (break-glass): the number of the emergency, for the audit trail.")
    ] = "",
    expires: Annotated[int, typer.Option(metavar="SECONDS", help="How long it is good for.")] = HOUR,
    store: StoreUrl = None,
) -> None:
    """Print a bearer token, alone on standard output; its issuance is audited."""
    _check(as_, org, patient, expires)
    text = session.run(
        store,
        lambda runtime: issue(
            runtime,
            org,
            as_=as_,
            scope=scope,
            role=role,
            patient=patient,
            purpose=purpose,
            reason=reason,
            expires=expires,
        ),
    )
    show(text)
    whose = f" for {org}" if org else ""
    say(f"Class {as_.value}{whose}, good for {expires} s.")


def _check(as_: As, org: str | None, patient: str | None, expires: int) -> None:
    if org is None and as_ in (As.THIRD_PARTY, As.MEMBER):
        raise ValueError(f"A {as_.value} token needs --org; `fhirserver org list` shows the organisations.")
    if as_ is As.PATIENT and patient is None:
        raise ValueError("A patient token needs --patient.")
    if as_ is not As.PATIENT and patient is not None:
        raise ValueError(f"--patient goes with --as patient only, not with --as {as_.value}.")
    if expires < 1 or expires > YEAR:
        raise ValueError(f"--expires must be 1 to {YEAR} seconds, not {expires}.")
    if as_ is As.OPERATOR and expires > HOUR:
        raise ValueError(f"An operator token lives at most {HOUR} seconds, not {expires}.")


async def issue(
    runtime: Runtime,
    org: str | None,
    *,
    as_: As,
    scope: str | None = None,
    role: str | None = None,
    patient: str | None = None,
    purpose: str | None = None,
    reason: str = "",
    expires: int = HOUR,
) -> str:
    """A signed token, audited before it is given; ValueError for an unknown organisation, patient or scope."""
    from fhirserver.policy.principal import OPERATOR_ORGANIZATION, CallerClass, Principal
    from fhirserver.policy.scopes import Scopes

    if as_ is As.OPERATOR and not runtime.settings.operator_tokens:
        raise ValueError("Operator tokens are switched off (FHIRSERVER_OPERATOR_TOKENS).")
    scoped = session.operator(runtime, "token")
    if patient is not None:
        patient, org = await _patient(scoped, patient, org)
    organization = await session.known_organization(scoped, org or OPERATOR_ORGANIZATION)
    usual = "patient/*.rs" if as_ in (As.THIRD_PARTY, As.PATIENT) else "system/*.rs"
    principal = Principal(
        subject=session.who(),
        organization=organization,
        caller=CallerClass(as_.value),
        scopes=Scopes(usual if scope is None else _scope(scope)),
        until=runtime.clock() + expires * 1000,
        patient=patient,
        purpose=purpose,
        role=role,
    )
    return await runtime.gate.issue(principal, reason=reason)


async def _patient(scoped: Scoped, patient: str, org: str | None) -> tuple[str, str]:
    """The Patient's id and the organisation of the token: the custodian unless ``org`` says another."""
    from fhirserver.core.model import Key, parse_facts

    id = bare(patient, "Patient")
    record = await session.find(scoped, Key("Patient", id))
    if record is None:
        raise ValueError(f"There is no Patient {id!r} here.")
    return id, org or parse_facts(record.facts).custodian


def _scope(text: str) -> str:
    """The scopes, if each of them allows something; ValueError naming the first that does not."""
    from fhirserver.policy.scopes import Scopes

    contexts = ("patient", "user", "system")
    for word in text.split() or [text]:
        if not any(Scopes(word).allowed(letter, contexts).named for letter in "cruds"):
            raise ValueError(f"The scope {word!r} allows nothing here; patient/*.rs and system/Observation.r do.")
    return text
