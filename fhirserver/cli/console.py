"""What commands print: words for people on standard error, results on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
import typer

StoreUrl = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="The store; FHIRSERVER_STORE or sqlite:///data/fhir.db unless given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def say(message: str) -> None:
    """A line for people."""
    sys.stderr.write(message + "\n")


def show(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_json(value: object) -> None:
    """The result as one indented JSON document."""
    show(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def show_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The result in aligned columns; as wide as it needs to be, so that `grep` and `cut` can be used on it."""
    lines = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    for line in (tuple(titles), *lines):
        show("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
