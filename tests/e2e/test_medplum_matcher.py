"""Another judge of the oracle: the search matcher of `@medplum/core`, where it reads R4 as the oracle does.

It knows tokens (regardless of case; `CodeableConcept.text` is one), references as they are written, `:missing`, `:not`,
and of dates `gt lt sa eb` by comparing text. The worlds are tamed to what both read alike, and the searches chosen.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fhirserver.core.definitions import search_parameters
from tests.oracle.evaluate import evaluate
from tests.oracle.kinds import KINDS
from tests.oracle.queries import Asker
from tests.oracle.tables import NOW
from tests.oracle.worlds import encoder, world_of

VERSION = "4.5.2"
SEARCHES = 200
UNTYPED = ("identifier", "telecom", "phone", "email", "requisition")
"""Parameters whose elements it does not know for what they are without the definitions of the types."""
PATIENCE = 120
"""Seconds for the registry."""


def medplum(folder: Path) -> Path:
    """The module: the one MEDPLUM_CORE names, or fetched by npm; where neither is to be had, a line and a skip."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("node and npm are not here; @medplum/core was not asked.")
        pytest.skip("node and npm are not here")
    if "MEDPLUM_CORE" in os.environ:
        return Path(os.environ["MEDPLUM_CORE"])
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    try:
        subprocess.run([*command, f"@medplum/core@{VERSION}"], check=True, capture_output=True, timeout=PATIENCE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        print("The npm registry does not give @medplum/core; it was not asked.")
        pytest.skip("the npm registry does not give @medplum/core")
    return folder / "node_modules/@medplum/core/dist/esm/index.mjs"


def tame(world: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without versions in references, zones, codings without a code, and codes that differ in case or are texts."""
    text = encoder.encode(world).decode()
    text = re.sub(r"/_history/\d+", "", text)
    text = re.sub(r"(T[\d:.]+)[+-]\d\d:\d\d\"", r'\1Z"', text)
    text = re.sub(r'{("system":"[^"]*",?)?("display":"[^"]*")?}', r'{"code":"none"}', text)
    text = text.replace('"code":"A"', '"code":"b"').replace('"text":"a"', '"text":"other"')
    text = text.replace('"value":"Ab"', '"value":"ab"').replace("Peter@example", "peter@example")
    tamed: list[dict[str, Any]] = json.loads(text)
    return tamed


def search(type_: str, name: str, value: str) -> dict[str, Any] | None:
    """The matcher's own form of one parameter; None where the two read R4 differently, or one does not read it."""
    code, _, modifier = name.partition(":")
    parameter = search_parameters(type_).get(code)
    if parameter is None or re.search(r"[\\]|\|(,|$)|\bA\b", value) or code in ("_list", "_lastUpdated", *UNTYPED):
        return None
    if re.search(r"\bas\b", parameter.expression):
        return None
    operator = modifier
    if parameter.type == "date" and not modifier and value[:2] in ("gt", "lt", "sa", "eb") and "," not in value:
        operator, value = value[:2], value[2:]
    elif parameter.type == "token" and modifier in ("", "not"):
        operator = modifier or "eq"
    elif (
        parameter.type == "reference" and not modifier and all(re.match(r"[A-Z]\w+/\w+$", v) for v in value.split(","))
    ):
        operator = "eq"
    elif modifier != "missing":
        return None
    return {"resourceType": type_, "filters": [{"code": code, "operator": operator, "value": value}]}


@pytest.mark.slow
def test_another_matcher_agrees_with_the_oracle(tmp_path: Path) -> None:
    module = medplum(tmp_path)
    world = tame(world_of([(type_, seed) for seed in range(6) for type_ in [*KINDS, "Observation", "Patient"]]))
    asker = Asker(world, 0)
    asked: list[tuple[str, str, str]] = []
    searches: list[dict[str, Any]] = []
    seed = 0
    while len(asked) < SEARCHES:
        seed += 1
        type_, pairs = asker.again(seed).query()
        written = search(type_, *pairs[0]) if type_ else None
        if type_ and written is not None:
            asked.append((type_, *pairs[0]))
            searches.append(written)
    parameters = [
        {"resourceType": "SearchParameter", "id": each.id, "url": each.id, "name": each.code, "code": each.code}
        | {
            "type": each.type,
            "base": [type_],
            "expression": re.sub(r"\b(Domain)?Resource\.", f"{type_}.", each.expression),
            "target": list(each.targets),
        }
        for type_ in KINDS
        for each in search_parameters(type_).values()
        if each.expression
    ]
    question = json.dumps({"parameters": parameters, "resources": world, "searches": searches})
    script = Path(__file__).parents[1] / "oracle" / "medplum.mjs"
    told = subprocess.run(["node", script, module], input=question, check=True, capture_output=True, text=True)
    theirs = json.loads(told.stdout)
    ours = [evaluate(world, type_, [(name, value)], now=NOW) for type_, name, value in asked]
    assert [each for each in zip(asked, theirs, ours, strict=True) if each[1] != each[2]] == []
    assert sum(map(bool, ours)) > SEARCHES / 4
