"""Each published invariant: kept by one element, broken by another at the right place, and as its FHIRPath has it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.models import models

from fhirserver.core.examine import examine
from fhirserver.core.invariants import ADVICE, RULES, published
from fhirserver.core.screen import count_members
from fhirserver.core.shapes import shape
from tests.invariants import CLINICAL, DATATYPES, FORMS, UCUM, WORKFLOW, Case
from tests.invariants_of_definitions import CONFORMANCE, ELEMENTS, STRUCTURES
from tests.samples import carried, minimal

CASES = [*DATATYPES, *CLINICAL, *WORKFLOW, *FORMS, *CONFORMANCE, *ELEMENTS, *STRUCTURES]
OURS = {"ref-type", "currency", "absolute", "size", "outcome", "property-type", "supplement"}
"""Rules of the specification's text that are no published invariant."""

ELSEWHERE = {
    "ele-1": "core.examine: test_validate_structure",
    "ref-1": "core.examine: test_validate_references",
    "dom-2": "core.examine: test_validate_references",
    "dom-3": "core.examine: test_validate_references",
    "dom-4": "core.examine: test_validate_references",
    "dom-5": "core.examine: test_validate_references",
    "dom-6": "core.examine, as advice: test_validate",
    "txt-1": "core.narrative: test_lexical",
    "txt-2": "told as advice: four official examples break it",
    "eld-11": "cannot be broken as written: select() gives a boolean for each type",
    "cid-0": "cannot be broken as written: a ChargeItemDefinition has no name",
}
"""Published invariants that have no rule in the table -> who decides them."""


def element(case: Case, overlay: dict[str, Any]) -> dict[str, Any]:
    filler = "resourceType" in minimal(case.type) or shape(case.type).required or not overlay or "extension" in overlay
    made = {**(minimal(case.type) if filler else {}), **overlay}
    return {name: value for name, value in made.items() if value is not None}


def told(case: Case, overlay: dict[str, Any]) -> tuple[list[str], str]:
    """Where the case's key is reported, and the path of the element."""
    ((resource, path), *_) = carried(case.type, element(case, overlay))
    found = examine(resource)
    assert not (found and count_members(resource)), "the quick pass knows an element that the thorough one refuses"
    return [issue.expression for issue in found if issue.diagnostics.startswith(f"{case.key}: ")], path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.type}-{case.key}")
def test_an_invariant_is_told_where_it_is_broken_and_only_there(case: Case) -> None:
    places, _ = told(case, case.good)
    assert places == []
    places, path = told(case, case.bad)
    assert places == [f"{path}.{case.place}" if case.place else path]


def test_every_published_invariant_is_judged_or_has_its_reason() -> None:
    judged = {
        (type_.partition(".")[0], rule.key)
        for table in (RULES, ADVICE)
        for type_ in table
        for rule in (shape(type_).rules if table is RULES else shape(type_).advice)
    }
    official = {(type_, key) for type_, rows in published().items() for key in rows}
    assert {key for _, key in judged - official} == OURS
    assert {key for _, key in official - judged} | {"txt-2"} == ELSEWHERE.keys()


def test_every_rule_that_refuses_has_a_case() -> None:
    judged = {(type_, rule.key) for type_ in RULES for rule in shape(type_).rules}
    assert {(case.type, case.key) for case in CASES} == judged


def test_advice_warns_and_rules_refuse() -> None:
    for type_ in RULES:
        for rule in shape(type_).rules:
            known = published().get(type_.partition(".")[0], {}).get(rule.key)
            assert known is None or known.severity == "error"
    for type_ in ADVICE:
        for rule in shape(type_).advice:
            assert published()[type_.partition(".")[0]][rule.key].severity == "warning" or rule.key == "txt-2"


# --- an independent evaluation of the published expressions

BY_WORDS = {
    "bdl-11": "empty where the document has no entry at all; the words ask for a first one",
    "eld-3": "empty where the maximum is no number",
    "md-1": "empty where the maximum is no number",
    "que-13": "empty where repeats is not there, which means false",
    "sdf-1": "empty where there is no derivation, which is no constraint either",
    "sdf-5": "empty where there is no derivation, and the words ask every extension for a context",
    "tst-7": "empty where the operation has no type",
    "tst-8": "empty where the operation has no type",
    "tst-9": "empty where the operation has no type",
    "vsd-9": "empty where there is no abstract, which means false",
    "eld-19": "the evaluator is content with a part that matches; the whole path is meant",
    **dict.fromkeys(("ppc-2", "ppc-3", "ppc-4", "ppc-5"), "the expression names a system 'something' for consentscope"),
}
"""Where a bad element is refused by the words of an invariant although its expression is not false."""

BEYOND = {
    "rng-2": "compares quantities",
    "ctm-1": "resolves a reference",
    "que-7": "asks a FHIR boolean whether it is FHIRPath's Boolean",
    "ig-1": "needs %context",
}
"""What the evaluator cannot do."""


@cache
def oracle(expression: str) -> Any:
    return fhirpathpy.compile(path=expression, model=models["r4"])


def official(case: Case, overlay: dict[str, Any]) -> list[Any]:
    """What the published expression says, at the place where it is published, of the resource with this element."""
    ((resource, path), *_) = carried(case.type, element(case, overlay))
    known = published()[case.type.partition(".")[0]][case.key]
    place = path.replace("[0]", "")
    if known.path.startswith(case.type):
        place += known.path.removeprefix(case.type).removesuffix("[x]")
    elif case.type.startswith(known.path):
        place = place.removesuffix(case.type.removeprefix(known.path))
    expression = re.sub(r"\.trace\('\w+'\)", "", known.expression).replace("hasValue()", "exists()")
    whole = expression if place == resource["resourceType"] else f"{place}.select({expression})"
    return list(oracle(whole)(resource, {"resource": resource, "ucum": UCUM}))


def test_the_rules_agree_with_the_published_expressions() -> None:
    different = []
    for case in CASES:
        if case.key in OURS | BEYOND.keys():
            continue
        for overlay, expected in ((case.good, True), (case.bad, False)):
            answer = official(case, overlay)
            if (all(answer) if answer else None) is not expected and not (case.key in BY_WORDS and not expected):
                different.append((case.type, case.key, expected, answer))
    assert different == []


def test_the_page_on_validation_tells_the_exceptions() -> None:
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    assert [key for key in [*BY_WORDS, *ELSEWHERE, *OURS] if key != "eld-19" and f"`{key}`" not in page] == []
    assert f"publishes {sum(map(len, published().values()))} invariants" in page
