"""The decision table of docs/consent.md says what the code decides, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fhirserver.core.index import care_of
from fhirserver.core.model import Key
from fhirserver.policy.box import Box
from fhirserver.policy.consent import evaluate, parse
from fhirserver.policy.findings import read
from tests.admitted import JSON, actor_of, classes, consent, marks

NOW = 1_800_000_000_000  # 2027-01-15
PAGE = Path(__file__).parents[2] / "docs" / "consent.md"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
HEAD = "| Consents | organisation | purpose | resource | shown |"


def rows() -> list[tuple[str, ...]]:
    lines = PAGE.read_text().partition(HEAD)[2].strip().splitlines()[1:]
    table = [line for line in lines if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]


def rule(text: str) -> JSON:
    """``permit app class=A,B dates=2024..2025`` as a provision."""
    type_, *words = text.split()
    made: JSON = {"type": type_}
    for word in words:
        name, given, value = word.partition("=")
        made |= condition(name, value) if given else {"actor": [actor_of(name)]}
    return made


def condition(name: str, value: str) -> JSON:
    if name == "class":
        return {"class": classes(*value.split(","))}
    if name == "label":
        return {"securityLabel": marks(*value.split(","))}
    if name == "purpose":
        return {"purpose": [{"system": REASON, "code": code} for code in value.split(",")]}
    if name in ("data", "related"):
        meaning = "instance" if name == "data" else name
        return {"data": [{"meaning": meaning, "reference": {"reference": each}} for each in value.split(",")]}
    if name in ("dates", "period"):
        start, _, end = value.partition("..")
        ends = {"start": start, "end": end}
        return {"dataPeriod" if name == "dates" else name: {key: each for key, each in ends.items() if each}}
    assert name == "project", name
    return {}


def consents(cell: str) -> list[JSON]:
    found = []
    for at, text in enumerate(re.findall(r"`([^`]*)`", cell)):
        root = rule(re.sub(r"\{[^}]*\}", "", text))
        nested = [rule(each) for each in re.findall(r"\{([^}]*)\}", text)]
        project = re.search(r"project=(\w+)", text)
        made = consent(f"k{at}", "p", project=project[1] if project else None)
        found.append({**made, "provision": {**root, **({"provision": nested} if nested else {})}})
    return found


def resource(cell: str) -> tuple[Key, JSON, list[str]]:
    named, *words = cell.replace("`", "").split()
    key = Key.parse(named)
    dates = [word for word in words if word[0].isdigit()]
    content: JSON = {"resourceType": key.type, **({"effectiveDateTime": dates[0]} if dates else {})}
    return key, content, [word for word in words if word not in dates]


def holds(box: Box, key: Key, content: JSON, labels: list[str]) -> bool:
    texts = [f"{mark['system']}|{mark['code']}" for mark in marks(*labels)] if labels else []
    asked = {finding for one in box.kinds for finding in one}
    return box.holds(key.type, texts, [each for each in asked if read(each).holds(key, care_of(content))])


@pytest.mark.parametrize("row", rows(), ids=" / ".join)
def test_the_table_says_what_is_decided(row: tuple[Any, ...]) -> None:
    given, organization, purpose, what, shown = row
    directives = [parse(each, each["id"]) for each in consents(given)]
    opening = evaluate(
        [each for each in directives if each], organization=organization, purpose=purpose or None, now=NOW
    )
    assert any(holds(box, *resource(what)) for box in opening.boxes) == (shown == "yes")


def test_the_table_is_there_and_has_both_answers() -> None:
    assert len(rows()) > 50
    assert {row[-1] for row in rows()} == {"yes", "no"}
