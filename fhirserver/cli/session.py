"""One command's session: settings from the command line and the environment, the store opened and closed around it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from fhirserver import config
from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.core.model import Key, Record, parse_facts

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.gate import Scoped

Result = TypeVar("Result")


def settings(store: str | None, **given: object) -> config.Settings:
    """The settings of this command; ValueError in one sentence when one cannot be understood."""
    return config.load(store=store, **given)


def run(store: str | None, work: Callable[[Runtime], Awaitable[Result]], *, upkeep: bool = False) -> Result:
    """Open the store (the first command makes it and its key file), do ``work``, close it.

    A setting that is missing is told before anything is made. ``upkeep``: a stale search index does not matter.
    """
    chosen = settings(store)
    path, _ = chosen.store_path, chosen.keys_path
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)

    async def inside() -> Result:
        from fhirserver import app

        async with app.opened(chosen, upkeep=upkeep) as runtime:
            return await work(runtime)

    try:
        return asyncio.run(inside())
    except Unavailable as fault:
        raise Unavailable(_why(fault, chosen)) from fault


_CREDENTIALS = frozenset({18, 8000})
_RIGHTS = 13
"""What MongoDB says: user or password is wrong (in its own servers and in Atlas); the user may not do this."""


def _why(fault: Unavailable, chosen: config.Settings) -> str:
    """What somebody at the command line can do about a store that is away; a server tells its callers less."""
    if fault.message != Unavailable().message:
        return fault.message
    code = getattr(fault.__cause__, "code", None)
    if code in _CREDENTIALS:
        remedy = "does not accept the user and password of its URL"
    elif code == _RIGHTS:
        remedy = "does not let the user of its URL do this; docs/mongodb.md has the role that it needs"
    elif chosen.store_path is None:
        remedy = "cannot be reached; is it up, and are host, port and replicaSet of its URL right?"
    else:
        remedy = "is not available; try again"
    return f"The store {chosen.store_place} {remedy}"


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
