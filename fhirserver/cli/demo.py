"""`fhirserver demo`: three made-up people at two hospitals, a third party, and a server to ask."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from fhirserver import config
from fhirserver.cli import serve, session
from fhirserver.cli.console import StoreUrl, say, show

if TYPE_CHECKING:
    from fhirserver.app import Runtime

STORE = "sqlite:///data/demo.db"
KEYS = Path("data/demo.keys.json")
"""The keys of a demo whose store is not a file and whose keys nobody named."""
ENVIRONMENT = Path("data/demo.env")
DAY = 24 * 3600

ORGANIZATIONS = (
    ("Northfield Clinic", "northfield-clinic"),
    ("Riverton Hospital", "riverton-hospital"),
    ("CareBridge", "carebridge"),
)
FILES: tuple[tuple[str, str | None], ...] = (
    ("directory.ndjson", None),
    ("northfield-clinic.ndjson", "northfield-clinic"),
    ("riverton-hospital.json", "riverton-hospital"),
    ("persons.ndjson", None),
)
"""What is loaded, and who its custodian is (None: the operator)."""

READER = "carebridge"
PERSON = "amara-okafor"
OPENED: tuple[tuple[str, tuple[str, ...]], ...] = (
    (PERSON, ()),
    ("elias-lindqvist", ("AllergyIntolerance", "Immunization", "Patient")),
)
"""Who consents to `READER`, and to which types (none named: all)."""


class Tokens(NamedTuple):
    """Bearer tokens for the demo."""

    reader: str
    member: str
    operator: str


def demo(
    port: Annotated[
        int | None, typer.Option(help="The port; PORT in the environment is read, too.", show_default="8000")
    ] = None,
    store: StoreUrl = None,
) -> None:
    """Load the demo's charts into data/demo.db (or the store that is named; nothing in it is removed), print a curl
    line that works, and serve until Ctrl-C."""
    if port is None and os.environ.get("PORT"):
        port = _port(os.environ["PORT"])
    settings = session.settings(store or _named() or STORE, port=port)
    if settings.store_path is None and not settings.keys_file:
        os.environ[_KEYS_FILE] = str(KEYS.absolute())
    with serve.listen(settings.host, settings.port) as listening:
        settings = session.settings(settings.store, port=listening.getsockname()[1])
        tokens = session.run(settings.store, prepare)
        _write_environment(settings, tokens)
        _explain(settings, tokens)
        serve.run(settings, listening=listening)


_KEYS_FILE = config.PREFIX + "KEYS_FILE"


def _named() -> str | None:
    """The store that the environment names, itself or by a file."""
    names = (config.PREFIX + "STORE", config.PREFIX + "STORE_FILE")
    return config.load().store if any(name in os.environ for name in names) else None


def _port(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"PORT must be a whole number, not {text!r}.")
    return int(text)


async def prepare(runtime: Runtime) -> Tokens:
    """Load what is not there yet; fresh tokens."""
    from fhirserver.cli import consent, ingest, org, token

    for name, id in ORGANIZATIONS:
        await org.write(runtime, org.describe(name, id=id))
    for file, custodian in FILES:
        report = await ingest.load(runtime, [str(fixtures() / file)], organization=custodian, persons=False)
        if report.rejected:
            raise ValueError(f"The demo's own {file} was not accepted; see {report.rejects}.")
    for person, types in OPENED:
        await consent.open_person(runtime, person, READER, types=types)
    return Tokens(
        reader=await token.issue(runtime, READER, as_=token.As.THIRD_PARTY, expires=30 * DAY),
        member=await token.issue(runtime, "northfield-clinic", as_=token.As.MEMBER, expires=30 * DAY),
        operator=await token.issue(runtime, None, as_=token.As.OPERATOR),
    )


def fixtures() -> Path:
    """The folder of the demo's charts."""
    import fixtures as package

    return Path(package.__file__).parent / "demo"


def _write_environment(settings: config.Settings, tokens: Tokens) -> None:
    """Write what examples and shells need; readable by its owner only, since it holds tokens."""
    values = {
        "BASE_URL": settings.root,
        "FHIR_BASE": settings.base,
        "STORE": settings.store,
        "PERSON": PERSON,
        "TOKEN": tokens.reader,
        "MEMBER_TOKEN": tokens.member,
        "OPERATOR_TOKEN": tokens.operator,
    }
    lines = [f"{name}={_quoted(value)}\n" for name, value in values.items()]
    if _KEYS_FILE in os.environ:
        lines.append(f"export {_KEYS_FILE}={_quoted(os.environ[_KEYS_FILE])}\n")
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    ENVIRONMENT.unlink(missing_ok=True)
    descriptor = os.open(ENVIRONMENT, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.writelines(lines)


def _quoted(text: str) -> str:
    """As a shell reads it back."""
    return "'" + text.replace("'", "'\\''") + "'"


def curl(settings: config.Settings, token: str) -> str:
    """A line to paste: the whole chart of the demo's first person. Single quotes keep `$everything` from the shell."""
    return f"curl -sS -H 'Authorization: Bearer {token}' '{settings.base}/Person/{PERSON}/$everything'"


def _explain(settings: config.Settings, tokens: Tokens) -> None:
    say(
        "\nAmara Okafor is a patient of two hospitals and consents that CareBridge sees all of it.\n"
        f"{ENVIRONMENT} holds the tokens for examples/everything.sh. CareBridge's token:\n"
    )
    show(tokens.reader)
    say("\nHer whole chart, as CareBridge (paste this into another terminal):\n")
    show(curl(settings, tokens.reader))
    say("")
