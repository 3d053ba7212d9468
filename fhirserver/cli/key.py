"""`fhirserver key`: the installation's own keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fhirserver.cli import session
from fhirserver.cli.console import StoreUrl, say, show, show_table
from fhirserver.cli.token import YEAR

if TYPE_CHECKING:
    from fhirserver.app import Runtime

app = typer.Typer(help="The installation's own keys.", no_args_is_help=True)


@app.command()
def rotate(
    drop: Annotated[
        bool, typer.Option("--drop", help="Tokens of earlier keys end at once: for a key that has become known.")
    ] = False,
    store: StoreUrl = None,
) -> None:
    """Sign with a fresh key from now on; tokens of the earlier one are good until they expire. Running servers that
    share the key file take it up within a second. Prints the name of the new key."""
    show(session.run(store, lambda runtime: _rotate(runtime, drop=drop)))
    say("Copy the key file to servers that do not share it." if not drop else "All tokens given so far have ended.")


@app.command("list")
def list_(store: StoreUrl = None) -> None:
    """List the keys that tokens are verified with; none of them is shown."""
    show_table(("KEY", "SIGNS", "VERIFIES UNTIL"), session.run(store, _every))


async def _rotate(runtime: Runtime, *, drop: bool) -> str:
    from fhirserver.policy.keys import rotate

    await runtime.gate.record(session.who(), "key rotate", {"key": runtime.keys.kid, "drop": drop})
    return rotate(runtime.settings.keys_path, runtime.clock(), keep=0 if drop else YEAR * 1000).kid


async def _every(runtime: Runtime) -> list[tuple[str, str, str]]:
    from datetime import UTC, datetime

    now = runtime.clock()
    earlier = [
        (key.kid, "no", datetime.fromtimestamp(key.until // 1000, UTC).isoformat())
        for key in runtime.keys.earlier
        if now < key.until
    ]
    return [(runtime.keys.kid, "yes", "it is rotated"), *reversed(earlier)]
