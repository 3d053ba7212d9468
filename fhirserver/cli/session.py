"""One command's session: settings from the command line and the environment, the store opened and closed around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from fhirserver import config
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Record, parse_facts

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.gate import Scoped

Result = TypeVar("Result")


def settings(store: str | None, **given: object) -> config.Settings:
    """The settings of this command; ValueError in one sentence when one cannot be understood."""
    return config.load(store=store, **given)


def run(store: str | None, work: Callable[[Runtime], Awaitable[Result]]) -> Result:
    """Open the store (the first command makes it and its key file), do ``work``, close it."""
    chosen = settings(store)
    path = chosen.store_path
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)

    async def inside() -> Result:
        from fhirserver import app

        async with app.opened(chosen) as runtime:
            return await work(runtime)

    return asyncio.run(inside())


def who() -> str:
    """Who is at the command line, for the audit trail."""
    return f"command:{os.environ.get('USER') or os.getuid()}"


def subject() -> str:
    """Who runs this command, for the audit trail."""
    return f"command:{os.environ.get('USER') or os.getuid()}"


def operator(runtime: Runtime, purpose: str, *, organization: str | None = None) -> Scoped:
    """The audited system grant under which a command works; ``organization`` is whose behalf it writes on."""
    from fhirserver.policy.principal import OPERATOR_ORGANIZATION

    return runtime.gate.system(
        subject=who(),
        organization=organization or OPERATOR_ORGANIZATION,
        purpose=purpose,
    )


async def known_organization(scoped: Scoped, id: str) -> str:
    """``id``, if the operator keeps such an Organization (or it is its own); ValueError naming the remedy if not.

    One that somebody imported among its data is nobody this installation has agreed with.
    """
    from fhirserver.policy.principal import OPERATOR_ORGANIZATION

    if id == OPERATOR_ORGANIZATION:
        return id
    record = await find(scoped, Key("Organization", id))
    if record is not None and parse_facts(record.facts).custodian == OPERATOR_ORGANIZATION:
        return id
    raise ValueError(f"There is no organisation {id!r} here; `fhirserver org add NAME --id {id}` makes it.")


async def find(scoped: Scoped, key: Key) -> Record | None:
    """The current record, or None when there is none that the grant shows."""
    try:
        return await scoped.read(key)
    except Fault as fault:
        if fault.kind in (Kind.NOT_FOUND, Kind.GONE, Kind.FORBIDDEN):
            return None
        raise
