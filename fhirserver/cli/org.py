"""`fhirserver org`: the organisations that data belongs to and that consents name."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import msgspec
import typer

from fhirserver.cli import session, upkeep
from fhirserver.cli.console import AsJson, StoreUrl, say, show, show_json, show_table
from fhirserver.core.sensitive import PROGRAM as PART2

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.gate import Scoped

SLUG_SYSTEM = "urn:fhirserver:tenant"
"""`Organization.identifier.system` of the slug by which the HealthXfer API names a tenant."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

app = typer.Typer(help="Organisations.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    id: Annotated[str | None, typer.Option("--id", help="Its logical id; from the name unless given.")] = None,
    slug: Annotated[str | None, typer.Option("--slug", help="Makes it a HealthXfer tenant of this name.")] = None,
    part2_program: Annotated[
        bool, typer.Option("--part2-program", help="It is a substance use disorder program under 42 CFR Part 2.")
    ] = False,
    store: StoreUrl = None,
) -> None:
    """Add an organisation; prints its id."""
    resource = describe(name, id=id, slug=slug, part2_program=part2_program)

    async def work(runtime: Runtime) -> str:
        status = await write(runtime, resource)
        if part2_program and not await runtime.gate.labelled():
            # Third parties wait until what it holds already carries the label, too.
            with upkeep.counted("relabel") as progress:
                await runtime.gate.upkeep(subject=session.subject()).relabel(progress)
        return status

    status = session.run(store, work)
    show(str(resource["id"]))
    say(f"{name}: {status}.")


@app.command("list")
def list_(store: StoreUrl = None, json: AsJson = False) -> None:
    """List the organisations."""
    found = session.run(store, every)
    if json:
        show_json(found)
    else:
        show_table(("ID", "NAME", "SLUG", "PART 2"), [(*list(row.values())[:3], row["part2"] or "") for row in found])


def describe(
    name: str, *, id: str | None = None, slug: str | None = None, part2_program: bool = False
) -> dict[str, Any]:
    """The Organization resource; ValueError in one sentence for a name, id or slug that cannot be one."""
    from fhirserver.core.lexical import is_id

    name = " ".join(name.split())
    if not name:
        raise ValueError("An organisation needs a name.")
    if id is not None and not is_id(id):
        raise ValueError(f"{id!r} cannot be an id: 1 to 64 letters, digits, '-' and '.'.")
    if slug is not None and not _SLUG.fullmatch(slug):
        raise ValueError(f"{slug!r} cannot be a slug: lower-case letters, digits and '-', at most 63.")
    resource: dict[str, Any] = {"resourceType": "Organization", "id": id or _slugified(name) or str(uuid4())}
    if slug:
        resource["identifier"] = [{"system": SLUG_SYSTEM, "value": slug}]
    resource["active"] = True
    if part2_program:
        resource["type"] = [{"coding": [PART2], "text": PART2["display"]}]
    resource["name"] = name
    return resource


def _slugified(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-")


async def write(runtime: Runtime, resource: dict[str, Any]) -> str:
    """Store the Organization under the operator's custody: "added", "updated" or "is there already".

    One that is there keeps what ``resource`` does not mention: adding it again must not take its slug, or that it is a
    Part 2 program. ValueError when the id belongs to an organisation of another name, or the slug to another.
    """
    from fhirserver.core.model import Key, parse_facts
    from fhirserver.policy.gate import OPERATOR_ORGANIZATION, Put

    scoped = session.operator(runtime, "org add")
    await _check_slug(scoped, resource)
    there = await session.find(scoped, Key("Organization", resource["id"]))
    if there is not None:
        if parse_facts(there.facts).custodian != OPERATOR_ORGANIZATION:
            raise ValueError(f"Organization/{resource['id']} came with somebody's data; choose another id with --id.")
        body = msgspec.json.decode(await scoped.whole(there))
        if body.get("name") != resource["name"]:
            raise ValueError(f"The id {resource['id']!r} belongs to {body.get('name')!r}; choose another with --id.")
        resource = _completed(body, resource)
        if resource == {name: value for name, value in body.items() if name != "meta"}:
            return "is there already"
    raw = msgspec.json.encode(resource)
    (loaded,) = await scoped.load([Put(resource=resource, raw=raw, id=resource["id"])])
    if loaded.status == "rejected":
        raise ValueError(loaded.reason)
    return "added" if there is None else "updated"


async def _check_slug(scoped: Scoped, resource: dict[str, Any]) -> None:
    """ValueError when another organisation is the tenant of this name."""
    from fhirserver.core.model import Query

    for identifier in resource.get("identifier", ()):
        term = f"Organization|identifier={identifier['system']}|{identifier['value']}"
        async for batch in scoped.scan(Query(types=frozenset({"Organization"}), terms=((term,),))):
            for record in batch:
                if record.id != resource["id"]:
                    raise ValueError(f"The slug {identifier['value']!r} belongs to {record.id!r}; choose another.")


def _completed(there: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What is there, with the slug and the program of ``given`` where it names them."""
    found = {name: value for name, value in there.items() if name != "meta"}
    if "identifier" in given:
        others = [held for held in found.get("identifier", ()) if held.get("system") != SLUG_SYSTEM]
        found["identifier"] = given["identifier"] + others
    kinds = found.get("type", [])
    if "type" in given and not any(_is_part2(kind) for kind in kinds):
        found["type"] = given["type"] + kinds
    return found


def _is_part2(kind: dict[str, Any]) -> bool:
    return any(coding.get("code") == PART2["code"] for coding in kind.get("coding", ()))


async def every(runtime: Runtime) -> list[dict[str, Any]]:
    """Every organisation that the operator keeps, as id, name, slug, part2."""
    from fhirserver.core.model import Query, parse_facts
    from fhirserver.policy.gate import OPERATOR_ORGANIZATION

    scoped = session.operator(runtime, "org list")
    found = []
    async for batch in scoped.scan(Query(types=frozenset({"Organization"}))):
        for record in batch:
            if parse_facts(record.facts).custodian != OPERATOR_ORGANIZATION:
                continue
            resource = msgspec.json.decode(record.body or b"{}")
            slugs = [held["value"] for held in resource.get("identifier", ()) if held.get("system") == SLUG_SYSTEM]
            found.append(
                {
                    "id": record.id,
                    "name": resource.get("name", ""),
                    "slug": slugs[0] if slugs else "",
                    "part2": any(_is_part2(kind) for kind in resource.get("type", ())),
                }
            )
    return found
