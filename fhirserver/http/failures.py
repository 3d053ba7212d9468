"""A defect as the log may have it: what failed and where, never what it said.

The message of an exception quotes what was being worked on: a name, a record number, a line of a chart. Types, files
and lines tell where the defect is, and the request's id tells which request met it.
"""

from __future__ import annotations

import traceback
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])


def trace(error: BaseException) -> str:
    """The exception, and those that led to it, each with the lines it came through."""
    told, seen = [], set[int]()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        told.append(_one(each))
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\ncaused by ".join(told)


def _one(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"  {frame.filename.removeprefix(_ROOT).lstrip('/')}:{frame.lineno} {frame.name}" for frame in frames]
    return "\n".join([f"{type(error).__module__}.{type(error).__qualname__}", *lines])
