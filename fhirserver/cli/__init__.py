"""The command line, `fhirserver COMMAND`: one module per group of commands, and one place that reports mistakes.

A command prints what a program would read (a secret, a list, JSON) on standard output and words for people on
standard error. Every mistake ends as one sentence and a non-zero exit: 2 for a command that was written wrongly, 1
for one that could not be done. The modules import what they need inside their functions, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys

import typer

from fhirserver.cli import audit, bench, client, consent, demo, ingest, key, org, person, purge, serve, token, upkeep
from fhirserver.core.errors import Fault

app = typer.Typer(
    name="fhirserver",
    help="A FHIR R4 server with a streaming, consent-aware $everything.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(ingest.ingest)
app.command()(demo.demo)
app.add_typer(org.app, name="org")
app.add_typer(person.app, name="person")
app.command()(token.token)
app.add_typer(client.app, name="client")
app.add_typer(key.app, name="key")
app.add_typer(consent.app, name="consent")
app.add_typer(audit.app, name="audit")
app.command()(upkeep.check)
app.command()(upkeep.stats)
app.command()(upkeep.reindex)
app.command()(upkeep.relabel)
app.command()(purge.purge)
app.command()(bench.bench)


def main() -> None:
    """Run the command in `sys.argv` and exit; whatever goes wrong is told in one sentence."""
    _open_standard_streams()
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:
            sys.stderr.write("fhirserver: stopped.\n")
    except Exception as failure:
        sentence, code = explain(failure)
        if not sentence:
            raise
        if sentence != _SAID:
            sys.stderr.write(f"fhirserver: {sentence}\n")
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


def _open_standard_streams() -> None:
    """Give a process that was started without standard output or error (as a daemon) somewhere to write."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as the process lives


_INTERRUPTED = 130
"""What a command that Ctrl-C ended gives (128 and the signal's number)."""
_SAID = "\0"
"""Stands for a failure whose explanation has been printed already (the help of a command without arguments)."""


def explain(failure: Exception) -> tuple[str, int]:
    """One sentence for a failure, and the exit code; an empty sentence for one that is a defect of ours."""
    code = getattr(failure, "exit_code", None)
    if code is not None and hasattr(failure, "format_message"):
        message = str(failure.format_message()).strip()
        if not message or type(failure).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{message}\n" if message else "")
            return _SAID, 2
        return _line(message.replace("Value error, ", "")), int(code)
    if isinstance(failure, typer.Abort):
        return "stopped.", _INTERRUPTED
    if isinstance(failure, Fault):
        return _line(failure.message), 1
    if isinstance(failure, OSError):
        what = failure.strerror or str(failure)
        return (f"{failure.filename}: {what}." if failure.filename else _line(what)), 1
    if isinstance(failure, ValueError):
        return _line(str(failure)), 1
    return "", 1


def _line(message: str) -> str:
    text = " ".join(message.split())
    return text if text.endswith((".", "?", "!", ")")) else text + "."
