"""The quick pass never passes what the thorough pass refuses, and no input makes either fail."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhirserver.core import definitions
from fhirserver.core.examine import examine
from fhirserver.core.jsontext import decode, duplicates, is_single
from fhirserver.core.narrative import is_plain, parsed_problem
from fhirserver.core.screen import count_members
from fhirserver.core.shapes import shape
from fhirserver.core.structure import type_names
from fhirserver.core.validate import issues
from tests.samples import DIV, carried, minimal, sample

EXTENSION = {"url": "http://example.org/e", "valueCoding": {"system": "http://example.org", "code": "c"}}

SEEDS: list[dict[str, Any]] = [
    {
        "resourceType": "Patient",
        "id": "p",
        "meta": {"profile": ["http://example.org/p"], "security": [{"system": "http://example.org", "code": "R"}]},
        "text": {"status": "generated", "div": DIV},
        "extension": [EXTENSION, {"url": "http://example.org/f", "extension": [EXTENSION]}],
        "identifier": [{"system": "urn:oid:1.2.3", "value": "1", "period": {"start": "2020", "end": "2021-02-03"}}],
        "photo": [{"id": "e", "contentType": "image/png", "data": "QQ==", "size": 1}],
        "active": True,
        "name": [{"use": "official", "family": "A", "given": ["B", "C"], "_family": {"extension": [EXTENSION]}}],
        "birthDate": "1970-02-28",
        "_birthDate": {"extension": [EXTENSION]},
        "deceasedBoolean": False,
        "multipleBirthInteger": 2,
        "contact": [{"name": {"text": "D"}, "telecom": [{"system": "phone", "value": "1", "rank": 1}]}],
        "managingOrganization": {"reference": "Organization/1", "type": "Organization"},
        "link": [{"other": {"reference": "urn:uuid:0d1ba2c0-33d4-4f05-b0a0-111111111111"}, "type": "refer"}],
    },
    {
        "resourceType": "Observation",
        "status": "final",
        "contained": [{"resourceType": "Patient", "id": "c", "generalPractitioner": [{"reference": "Practitioner/1"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "1-8"}], "text": "t"},
        "subject": {"reference": "#c"},
        "effectivePeriod": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-01T00:00:00.5Z"},
        "issued": "2020-01-01T00:00:00.000-05:00",
        "valueQuantity": {"value": 1.5, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"},
        "referenceRange": [{"low": {"value": 1}, "high": {"value": 2}}],
        "component": [{"code": {"text": "x"}, "valueRatio": {"numerator": {"value": 1}, "denominator": {"value": 2}}}],
    },
    {
        "resourceType": "Condition",
        "clinicalStatus": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]
        },
        "subject": {"reference": "Patient/1"},
        "onsetAge": {"value": 3, "code": "a", "system": "http://unitsofmeasure.org"},
    },
    {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": "urn:uuid:1",
                "resource": {
                    "resourceType": "Binary",
                    "contentType": "text/plain",
                    "data": "QUJD",
                },
                "request": {"method": "POST", "url": "Binary"},
            },
            {
                "resource": {
                    "resourceType": "Parameters",
                    "parameter": [
                        {
                            "name": "a",
                            "part": [{"name": "b", "valueTiming": {"repeat": {"period": 1, "periodUnit": "d"}}}],
                        },
                        {"name": "r", "resource": {"resourceType": "Basic", "code": {"text": "x"}}},
                    ],
                },
                "request": {"method": "POST", "url": "Parameters"},
            },
        ],
    },
]

SCRAPS: list[Any] = [
    None,
    "",
    " ",
    "x",
    "#c",
    "#",
    "Patient/1",
    "Practitioner/1",
    "final",
    "2020-02-30",
    "2020-02-03",
    "9999-12-31",
    "http://example.org",
    "\x00",
    "1.0",
    "QUJ",
    DIV,
    0,
    -1,
    1.0,
    1.5,
    2**31,
    10**25,
    True,
    False,
    [],
    {},
    [None],
    [[]],
    [{}],
    ["x"],
    {"id": "x"},
    {"extension": [EXTENSION]},
    [{"extension": [EXTENSION]}],
    [EXTENSION],
    {"reference": "#c"},
    {"resourceType": "Patient", "id": "c"},
    {"coding": [{"code": "active"}]},
]

NAMES = [
    "id",
    "extension",
    "_id",
    "_status",
    "_given",
    "_url",
    "_div",
    "other",
    "resourceType",
    "contained",
    "value",
    "valueString",
    "_valueString",
    "valueQuantity",
    "dataAbsentReason",
    "modifierExtension",
    "reference",
    "coding",
    "start",
    "end",
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        each = pending.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else []
        found.extend((each, key) for key in keys)
        pending.extend(each[key] for key in keys)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    resource = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        spots = places(resource)
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        match draw(st.sampled_from(["drop", "replace", "wrap", "unwrap", "add", "rename", "copy"])):
            case "drop":
                del container[key]
            case "replace":
                container[key] = copy.deepcopy(draw(st.sampled_from(SCRAPS)))
            case "wrap":
                container[key] = [container[key]]
            case "unwrap" if isinstance(container[key], list) and container[key]:
                container[key] = container[key][0]
            case "add" if isinstance(container, dict):
                container[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from(SCRAPS)))
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from(NAMES))] = container.pop(key)
            case "copy":
                source, name = spots[draw(st.integers(0, len(spots) - 1))]
                if key in container if isinstance(container, dict) else key < len(container):
                    container[key] = copy.deepcopy(source[name])
            case _:
                pass
    return resource


def test_the_seeds_are_valid_and_known_to_the_quick_pass() -> None:
    for seed in SEEDS:
        assert examine(seed) == []
        assert count_members(seed)


MANY = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(mutated())
def test_what_the_quick_pass_passes_has_no_issue(resource: Any) -> None:
    if count_members(resource):
        assert examine(resource) == []


@MANY
@given(mutated())
def test_a_doubt_about_a_valid_resource_has_one_of_the_known_causes(resource: Any) -> None:
    if not examine(resource) and not count_members(resource):
        text = json.dumps(resource)
        assert '"_' in text or '"contained"' in text  # siblings, and local references the quick pass does not follow


@MANY
@given(mutated())
def test_every_issue_has_a_code_words_and_a_path_from_its_root(resource: Any) -> None:
    raw = json.dumps(resource).encode()
    decoded, listed = issues(raw)
    assert bool(listed) == bool(examine(decoded if decoded is not None else resource))
    for issue in listed:
        assert issue.code in ("structure", "required", "value", "code-invalid", "invariant")
        assert issue.diagnostics
        if isinstance(resource, dict) and isinstance(resource.get("resourceType"), str):
            assert issue.expression == "" or issue.expression.partition(".")[0] == resource["resourceType"]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0019aetrufls \n', max_size=60).map(str.encode))
def test_any_bytes_are_answered_with_issues(raw: bytes) -> None:
    resource, listed = issues(raw)
    assert listed or (resource is not None and resource["resourceType"] in definitions.RESOURCE_TYPES)
    assert resource is None or isinstance(resource, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(JSON, st.sampled_from(sorted(definitions.RESOURCE_TYPES)))
def test_any_json_is_answered(value: Any, type_: str) -> None:
    if isinstance(value, dict):
        value = {"resourceType": type_, **value}
    _, listed = issues(json.dumps(value).encode())
    if count_members(value):
        assert listed == []


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """JSON objects written with blanks in odd places and, now and then, the same name twice."""
    blank = st.sampled_from(["", "", "", " ", "\n", "\t "])

    def put(depth: int) -> str:
        if depth == 0 or draw(st.integers(0, 2)) == 0:
            return draw(st.sampled_from(["1", '"x"', '"\\":"', '"a\\\\"', '":"', "null"]))
        names = draw(st.lists(st.sampled_from(["a", "b", "c", "\\u0061", 'q\\"']), max_size=3))
        pairs = (f'{draw(blank)}"{name}"{draw(blank)}:{draw(blank)}{put(depth - 1)}{draw(blank)}' for name in names)
        return "{" + ",".join(pairs) + "}"

    return f'{{"r"{draw(blank)}:{put(3)}}}'.encode()


def members(value: Any) -> int:
    return sum(isinstance(container, dict) for container, _ in places(value))


@settings(max_examples=1000, deadline=None)
@given(written())
def test_counting_names_never_overlooks_a_repeated_one(raw: bytes) -> None:
    if is_single(raw, members(decode(raw))):
        assert duplicates(raw) == []


HEAD = '<div xmlns="http://www.w3.org/1999/xhtml">'
TEXT = st.text(max_size=4) | st.sampled_from(
    ["<p>", "</p>", "<b>", "</b>", "<br/>", "&amp;", "&", "]]>", "<!--", "\x0b"]
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(TEXT, max_size=6).map("".join), st.sampled_from(["</div>", "</div> ", "</p></div>"]))
def test_a_narrative_that_passes_without_a_parser_passes_with_one(inner: str, end: str) -> None:
    if is_plain(HEAD + inner + end):
        assert parsed_problem(HEAD + inner + end) == ""


def test_most_narratives_need_no_parser() -> None:
    assert is_plain(f"{HEAD}<p>Glucose: 5.1 mmol/L \u2013 \U0001f600</p> and <b>more</b></div>")
    assert not is_plain(f"{HEAD}<p>a &lt; b</p></div>")


def test_both_passes_agree_on_every_member_of_every_type() -> None:
    checked = passed = 0
    for type_ in sorted(type_names()):
        for member in shape(type_).members.values():
            good = {**minimal(type_), member.json: sample(member)}
            for value in ({**good, member.json: scrap} for scrap in (sample(member), None, 7, "?!", [], {}, [1.5])):
                for resource, _ in carried(type_, value):
                    checked += 1
                    clean, listed = count_members(resource) > 0, examine(resource)
                    passed += clean
                    assert not (clean and listed), (type_, member.json, listed)
                    if not listed and not clean:
                        assert member.json == "contained", (type_, member.json)
    assert checked > 40_000
    assert passed > 4_000
