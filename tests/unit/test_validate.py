"""Validation of whole resources: what is refused, under which code, at which path, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.errors import Invalid, Issue
from fhirserver.core.examine import MAX_ISSUES
from fhirserver.core.shapes import MAX_DEPTH
from fhirserver.core.validate import MAX_BYTES, advice, issues, parse

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "1-8"}]},
    "subject": {"reference": "Patient/p1"},
    "valueQuantity": {"value": 1.0, "unit": "mg"},
}
PATIENT: dict[str, Any] = {"resourceType": "Patient", "name": [{"family": "Doe", "given": ["J", "K"]}]}


def found(resource: Any) -> list[tuple[str, str]]:
    """(code, path) of each issue."""
    return [(issue.code, issue.expression) for issue in issues(json.dumps(resource).encode())[1]]


def observation(**changes: Any) -> dict[str, Any]:
    """The valid Observation with members added, replaced, or (None is `DROP`) taken away."""
    return {name: value for name, value in {**OBSERVATION, **changes}.items() if value is not DROP}


DROP = object()
EXTENSION = {"url": "http://example.org/e", "valueString": "x"}


def test_a_valid_resource_is_returned_decoded() -> None:
    assert parse(json.dumps(OBSERVATION).encode()) == OBSERVATION


def test_all_issues_are_raised_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse(b'{"resourceType":"Observation","status":"done","other":1}')
    assert [(issue.code, issue.expression) for issue in caught.value.issues] == [
        ("code-invalid", "Observation.status"),
        ("structure", "Observation.other"),
        ("required", "Observation.code"),
    ]
    assert caught.value.status == 422


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no content"),
        (b" \n", "no content"),
        (b'{"a":1,}', "line 1, column 8"),
        (b'{\n "a" : 01}', "line 2"),
        (b'{"a":1', "ends too early (line 1, column 7)"),
        (b'{"a":NaN}', "line 1, column 6"),
        (b'{"a":Infinity}', "line 1, column 6"),
        (b'{"a":-Infinity}', "line 1"),
        (b'{"a":+1}', "line 1"),
        (b'{"a":.5}', "line 1"),
        (b"{'a':1}", "line 1"),
        (b'{"a":1}\n{}', "line 2"),
        (b'{"\xc3\xa9":#}', "line 1, column 6"),
        (b'{"a":"\x01"}', "line 1"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":1}//', "line 1"),
    ],
)
def test_broken_json_is_told_by_line_and_column(raw: bytes, says: str) -> None:
    resource, (issue,) = issues(raw)
    assert resource is None
    assert (issue.code, issue.expression) == ("structure", "")
    assert says in issue.diagnostics


def test_bytes_that_are_no_utf_8_are_told_by_their_place() -> None:
    assert issues(b'{"resourceType":\n"\xff"}')[1] == [Issue("structure", "not valid UTF-8 (line 2, column 2)")]


def test_a_byte_order_mark_is_refused_and_the_rest_is_still_checked() -> None:
    listed = issues(b'\xef\xbb\xbf{"resourceType":"Patient","x":1}')[1]
    assert [issue.expression for issue in listed] == ["", "Patient.x"]
    assert "byte order mark" in listed[0].diagnostics


@pytest.mark.parametrize("value", [[], "Patient", 1, None, True, [OBSERVATION]])
def test_only_an_object_is_a_resource(value: Any) -> None:
    resource, listed = issues(json.dumps(value).encode())
    assert resource is None
    assert [issue.code for issue in listed] == ["structure"]


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ({}, "required"),
        ({"id": "1"}, "required"),
        ({"resourceType": None}, "structure"),
        ({"resourceType": "Unicorn"}, "value"),
        ({"resourceType": "Resource"}, "value"),
        ({"resourceType": "HumanName"}, "value"),
        ({"resourceType": "Observation.component"}, "value"),
        ({"resourceType": ["Patient"]}, "value"),
        ({"resourceType": {}}, "value"),
    ],
)
def test_the_type_has_to_be_a_resource_of_r4(resource: Any, code: str) -> None:
    assert [each[0] for each in found(resource)] == [code]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"other": 1}, [("structure", "Observation.other")]),
        ({"value": 1}, [("structure", "Observation.value")]),
        ({"valueMoney": {"value": 1}}, [("structure", "Observation.valueMoney")]),
        ({"a b": 1}, [("structure", "Observation")]),
        ({"_subject": {"id": "x"}}, [("structure", "Observation.subject")]),
        ({"_resourceType": {"id": "x"}}, [("structure", "Observation.resourceType")]),
        ({"code": {"resourceType": "CodeableConcept", "text": "x"}}, [("structure", "Observation.code.resourceType")]),
    ],
)
def test_an_unknown_member_is_refused(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(observation(**changes)) == expected


def test_the_hint_for_a_bare_choice_names_a_typed_member() -> None:
    (issue,) = issues(json.dumps(observation(value=1)).encode())[1]
    assert "valueQuantity" in issue.diagnostics


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"code": [OBSERVATION["code"]]}, "Observation.code"),
        ({"code": "1-8"}, "Observation.code"),
        ({"category": {"text": "x"}}, "Observation.category"),
        ({"category": ["x"]}, "Observation.category[0]"),
        ({"category": [[]]}, "Observation.category[0]"),
        ({"status": ["final"]}, "Observation.status"),
        ({"status": 1}, "Observation.status"),
        ({"status": {"value": "final"}}, "Observation.status"),
        ({"valueQuantity": {"value": "1.0"}}, "Observation.valueQuantity.value"),
        ({"valueQuantity": {"value": True}}, "Observation.valueQuantity.value"),
        ({"valueQuantity": DROP, "valueInteger": 1.0}, "Observation.valueInteger"),
        ({"valueQuantity": DROP, "valueInteger": "1"}, "Observation.valueInteger"),
        ({"valueQuantity": DROP, "valueBoolean": "true"}, "Observation.valueBoolean"),
        ({"valueQuantity": DROP, "valueBoolean": 1}, "Observation.valueBoolean"),
        ({"subject": None}, "Observation.subject"),
        ({"category": [None]}, "Observation.category[0]"),
        ({"status": None}, "Observation.status"),
        ({"_status": None}, "Observation.status"),
        ({"_status": [EXTENSION]}, "Observation.status"),
        ({"_status": "x"}, "Observation.status"),
        ({"category": []}, "Observation.category"),
        ({"subject": {}}, "Observation.subject"),
        ({"_status": {}}, "Observation.status"),
        ({"category": [{}]}, "Observation.category[0]"),
    ],
)
def test_a_wrong_kind_of_json_is_refused_at_its_path(changes: dict[str, Any], path: str) -> None:
    assert found(observation(**changes)) == [("structure", path)]


@pytest.mark.parametrize("text", ["1.00", "3e2", "1E-22", "-0.0", "123456789012345678901234567890.5", "0.1e+1"])
def test_a_decimal_may_have_any_json_number(text: str) -> None:
    raw = json.dumps(observation(valueQuantity={"value": "@"})).replace('"@"', text).encode()
    assert issues(raw)[1] == []


def test_a_number_beyond_any_float_is_refused() -> None:
    raw = json.dumps(observation(valueQuantity={"value": "@"})).replace('"@"', "1e999").encode()
    assert [issue.code for issue in issues(raw)[1]] == ["value"]


def test_required_elements_are_missed_wherever_they_are() -> None:
    assert found(observation(code=DROP, status=DROP, component=[{"valueString": "x"}])) == [
        ("required", "Observation.component[0].code"),
        ("required", "Observation.status"),
        ("required", "Observation.code"),
    ]
    assert found({"resourceType": "MedicationRequest"}) == [
        ("required", f"MedicationRequest.{name}") for name in ("status", "intent", "medication", "subject")
    ]


def test_an_extension_can_stand_for_a_required_primitive() -> None:
    assert found(observation(status=DROP, _status={"extension": [EXTENSION]})) == []


def test_an_id_cannot_stand_for_a_value() -> None:
    assert found(observation(status=DROP, _status={"id": "x"})) == [("invariant", "Observation.status")]
    assert found(observation(_status={"id": "x"})) == []
    assert found(observation(subject={"id": "x"})) == [("invariant", "Observation.subject")]


def test_only_one_value_of_a_choice_may_be_present() -> None:
    assert found(observation(valueString="x")) == [("structure", "Observation.value")]
    assert found(observation(_valueString={"extension": [EXTENSION]})) == [("structure", "Observation.value")]
    beside = observation(valueQuantity=DROP, valueString="x", _valueString={"extension": [EXTENSION]})
    assert found(beside) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ({"given": ["J", None], "_given": [None, {"extension": [EXTENSION]}]}, []),
        ({"_given": [{"extension": [EXTENSION]}]}, []),
        ({"given": ["J", None]}, [("structure", "Patient.name[0].given[1]")]),
        ({"given": [None], "_given": [None]}, [("structure", "Patient.name[0].given[0]")]),
        ({"given": ["J", "K"], "_given": [{"id": "x"}]}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J"], "_given": {"id": "x"}}, [("structure", "Patient.name[0].given")]),
        ({"given": "J", "_given": [{"id": "x"}]}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J"], "_given": []}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J", ""]}, [("value", "Patient.name[0].given[1]")]),
        ({"given": ["J"], "_given": [{"other": 1}]}, [("structure", "Patient.name[0].given[0].other")]),
    ],
)
def test_primitive_arrays_stay_aligned_with_their_siblings(name: Any, expected: list[tuple[str, str]]) -> None:
    assert found({"resourceType": "Patient", "name": [name]}) == expected


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        (b'{"resourceType":"Patient","active":true,"active":true}', ["Patient.active"]),
        (b'{"resourceType":"Patient","active" : true,"active":true}', ["Patient.active"]),
        (b'{"resourceType":"Patient","active"\n:true,"\\u0061ctive":true,"active":false}', ["Patient.active"]),
        (b'{"resourceType":"Patient","resourceType":"Patient"}', ["Patient.resourceType"]),
        (
            b'{"resourceType":"Patient","name":[{"family":"a","family":"b"},{"text":"x","text":"x"}],"id":"a","id":"a"}',
            ["Patient.id", "Patient.name[0].family", "Patient.name[1].text"],
        ),
        (b'{"resourceType":"Patient","name":[{"text":"a\\":","family":"x"}]}', []),
        (
            b'{"resourceType":"Patient","name":[{"text":"a\\":","family":"x" ,"family" :"y"}]}',
            ["Patient.name[0].family"],
        ),
    ],
)
def test_every_repeated_name_is_found_with_its_path(raw: bytes, paths: list[str]) -> None:
    listed = issues(raw)[1]
    assert [issue.expression for issue in listed] == paths
    assert all("more than once" in issue.diagnostics for issue in listed)


def test_a_repeated_name_does_not_hide_other_issues() -> None:
    listed = issues(b'{"resourceType":"Patient","active":true,"active":1,"x":1}')[1]
    assert [issue.expression for issue in listed] == ["Patient.active", "Patient.active", "Patient.x"]


def test_a_code_outside_a_required_value_set_is_refused_and_named() -> None:
    (issue,) = issues(json.dumps(observation(status="completed")).encode())[1]
    assert (issue.code, issue.expression) == ("code-invalid", "Observation.status")
    assert "'completed'" in issue.diagnostics
    assert "observation-status" in issue.diagnostics


CONDITION = {"resourceType": "Condition", "subject": {"reference": "Patient/1"}}
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


@pytest.mark.parametrize(
    ("concept", "good"),
    [
        ({"coding": [{"system": CLINICAL, "code": "active"}]}, True),
        ({"coding": [{"system": "http://example.org", "code": "a"}, {"system": CLINICAL, "code": "active"}]}, True),
        ({"coding": [{"system": CLINICAL, "code": "verified"}]}, False),
        ({"coding": [{"code": "active"}]}, False),
        ({"text": "active"}, False),
        ({"extension": [EXTENSION]}, True),
    ],
)
def test_a_concept_under_a_required_binding_needs_one_of_its_codes(concept: Any, good: bool) -> None:
    expected = [] if good else [("code-invalid", "Condition.clinicalStatus")]
    assert found({**CONDITION, "clinicalStatus": concept}) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("Patient/p1", []),
        ("Group/g1", []),
        ("urn:uuid:0d1ba2c0-33d4-4f05-b0a0-111111111111", []),
        ("https://example.org/Organization-list", []),
        ("Practitioner/1", [("structure", "Observation.subject.reference")]),
        ("https://example.org/fhir/Practitioner/1", [("structure", "Observation.subject.reference")]),
        ("Practitioner?identifier=1", [("structure", "Observation.subject.reference")]),
        ("p1", [("value", "Observation.subject.reference")]),
        ("Unicorn/1", [("value", "Observation.subject.reference")]),
        ("#p1", [("invariant", "Observation.subject.reference")]),
    ],
)
def test_a_reference_has_a_known_form_and_an_allowed_type(reference: str, expected: list[tuple[str, str]]) -> None:
    assert found(observation(subject={"reference": reference})) == expected


def test_a_reference_and_its_type_agree() -> None:
    wrong = observation(subject={"reference": "Patient/1", "type": "Group"})
    assert found(wrong) == [("invariant", "Observation.subject.type")]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"type": "Patient", "display": "x"}, []),
        ({"type": "Practitioner", "display": "x"}, [("structure", "Observation.subject.type")]),
        ({"type": "http://example.org/fhir/StructureDefinition/Own", "display": "x"}, []),
        ({"type": "a b", "display": "x"}, [("value", "Observation.subject.type")]),
    ],
)
def test_a_reference_says_a_type_that_is_allowed(subject: Any, expected: list[tuple[str, str]]) -> None:
    assert found(observation(subject=subject)) == expected


def test_a_reference_that_any_type_may_have_says_any_type() -> None:
    assert found(observation(focus=[{"type": "Practitioner", "display": "x"}])) == []


CONTRACT = {"resourceType": "Contract"}
LEGAL_STATE = "http://hl7.org/fhir/contract-legalstate"


@pytest.mark.parametrize(
    ("codings", "path"),
    [
        ([{"system": LEGAL_STATE, "code": "executed"}], ""),
        ([{"system": "http://example.org", "code": "own"}], ""),
        ([{"system": LEGAL_STATE, "display": "x"}, {"code": "own"}], ""),
        ([{"system": LEGAL_STATE, "code": "executed"}, {"system": LEGAL_STATE, "code": "own"}], "coding[1].code"),
    ],
)
def test_a_code_of_a_system_of_fhir_is_one_that_it_has(codings: Any, path: str) -> None:
    expected = [("code-invalid", f"Contract.legalState.{path}")] if path else []
    assert found({**CONTRACT, "legalState": {"coding": codings}}) == expected


def test_a_coding_of_a_system_of_fhir_is_one_that_it_has() -> None:
    event = {
        "resourceType": "AuditEvent",
        "type": {"code": "x"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": "reading"}],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
    }
    assert found(event) == [("code-invalid", "AuditEvent.subtype[0].code")]
    assert found({**event, "subtype": [{**event["subtype"][0], "code": "read"}]}) == []


def test_advice_warns_of_what_is_no_error() -> None:
    value_set = {"resourceType": "ValueSet", "status": "draft", "name": "a name"}
    assert found(value_set) == []
    assert [(each.severity, each.expression, each.diagnostics[:5]) for each in advice(value_set)] == [
        ("warning", "ValueSet.name", "vsd-0"),
        ("warning", "ValueSet", "dom-6"),
    ]
    empty = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"> </div>'}
    assert [each.expression for each in advice(observation(text=empty))] == ["Observation.text.div"]


def test_advice_asks_neither_a_bundle_nor_a_contained_resource_for_a_narrative() -> None:
    inside = containing({"resourceType": "Patient", "id": "c1"})
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": inside}]}
    assert [each.expression for each in advice(bundle)] == ["Bundle.entry[0].resource"]


def containing(*contained: Any, subject: str = "#c1", **more: Any) -> dict[str, Any]:
    return observation(contained=list(contained), subject={"reference": subject}, **more)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (containing({"resourceType": "Patient", "id": "c1"}), []),
        (containing({"resourceType": "Practitioner", "id": "c1"}), [("structure", "Observation.subject.reference")]),
        (
            containing({"resourceType": "Patient", "id": "c2"}),
            [("invariant", "Observation.contained[0]"), ("invariant", "Observation.subject.reference")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1"}, {"resourceType": "Patient", "id": "c1"}),
            [("invariant", "Observation.contained[1].id")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1", "contained": [{"resourceType": "Patient", "id": "c1"}]}),
            [("invariant", "Observation.contained[0].contained")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1", "meta": {"versionId": "1"}}),
            [("invariant", "Observation.contained[0].meta.versionId")],
        ),
        (containing({"resourceType": "Patient", "id": "c1", "x": 1}), [("structure", "Observation.contained[0].x")]),
        (containing({"id": "c1"}), [("required", "Observation.contained[0].resourceType")]),
        (containing("c1"), [("structure", "Observation.contained[0]"), ("invariant", "Observation.subject.reference")]),
        (
            containing(
                {
                    "resourceType": "Provenance",
                    "id": "v",
                    "target": [{"reference": "#"}],
                    "recorded": "2026-01-01T00:00:00Z",
                }
                | {"agent": [{"who": {"reference": "Practitioner/1"}}]},
                subject="Patient/1",
            ),
            [],
        ),
    ],
)
def test_contained_resources_and_references_to_them_fit(resource: Any, expected: list[tuple[str, str]]) -> None:
    assert found(resource) == expected


def test_entries_of_a_bundle_are_checked_as_their_own_types() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": OBSERVATION},
            {"resource": {"resourceType": "Patient", "gender": "f"}},
            {"resource": {}},
        ],
    }
    assert found(bundle) == [
        ("code-invalid", "Bundle.entry[1].resource.gender"),
        ("required", "Bundle.entry[2].resource.resourceType"),
    ]


def test_a_local_reference_does_not_leave_its_bundle_entry() -> None:
    inside = containing({"resourceType": "Patient", "id": "c1"})
    outside = observation(subject={"reference": "#c1"})
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": inside}, {"resource": outside}]}
    assert found(bundle) == [("invariant", "Bundle.entry[1].resource.subject.reference")]


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ({"url": "http://e", "valueString": "x"}, []),
        ({"url": "http://e", "extension": [EXTENSION]}, []),
        ({"url": "http://e", "_valueString": {"extension": [EXTENSION]}}, []),
        ({"valueString": "x"}, [("required", ".url")]),
        ({"url": "http://e"}, [("invariant", "")]),
        ({"url": "http://e", "valueString": "x", "extension": [EXTENSION]}, [("invariant", "")]),
        ({"url": "http://e", "valueString": "x", "valueCode": "x"}, [("structure", ".value")]),
        ({"url": "", "valueString": "x"}, [("value", ".url")]),
        ({"url": "http://e", "valueString": "x", "_url": {"id": "x"}}, [("structure", ".url")]),
        ({"url": "http://e", "valueUnicorn": "x"}, [("structure", ".valueUnicorn"), ("invariant", "")]),
    ],
)
def test_an_extension_has_a_url_and_either_a_value_or_extensions(
    extension: Any, expected: list[tuple[str, str]]
) -> None:
    assert found({**PATIENT, "extension": [extension]}) == [
        (code, f"Patient.extension[0]{rest}") for code, rest in expected
    ]


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = dict(EXTENSION)
    for _ in range(levels - 1):
        inner = {"url": "http://example.org/e", "extension": [inner]}
    return {"resourceType": "Basic", "code": {"text": "x"}, "extension": [inner]}


def test_elements_nest_to_the_limit_and_no_further() -> None:
    assert found(nested(MAX_DEPTH - 1)) == []
    assert [code for code, _ in found(nested(MAX_DEPTH))] == ["structure"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"resourceType":"Basic","extension":[{"extension":['])
def test_any_depth_is_answered_with_an_issue(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}.get(opening, b"]}]}")
    for levels in (100, 900, 100_000):
        _, listed = issues(opening * levels + b"1" + closing * levels)
        assert listed


def test_a_resource_beyond_the_size_limit_is_refused_unread() -> None:
    assert [issue.code for issue in issues(b" " * (MAX_BYTES + 1))[1]] == ["too-long"]


def test_a_flood_of_issues_ends_with_a_note() -> None:
    listed = issues(json.dumps({**PATIENT, "name": [{"x": 1}] * (MAX_ISSUES + 5)}).encode())[1]
    assert len(listed) == MAX_ISSUES + 1
    assert listed[-1].code == "too-costly"


@pytest.mark.parametrize(
    ("resource", "key", "path"),
    [
        (observation(dataAbsentReason={"text": "x"}), "obs-6", "Observation"),
        (observation(component=[{"code": OBSERVATION["code"], "valueString": "x"}]), "obs-7", "Observation"),
        (observation(referenceRange=[{"type": {"text": "x"}}]), "obs-3", "Observation.referenceRange[0]"),
        (
            observation(effectivePeriod={"start": "2026-02-02", "end": "2026-02-01"}),
            "per-1",
            "Observation.effectivePeriod",
        ),
        (observation(valueQuantity={"value": 1, "code": "mg"}), "qty-3", "Observation.valueQuantity"),
        ({**PATIENT, "contact": [{"gender": "other"}]}, "pat-1", "Patient.contact[0]"),
        ({**PATIENT, "telecom": [{"value": "1"}]}, "cpt-2", "Patient.telecom[0]"),
        ({**PATIENT, "photo": [{"data": "QQ=="}]}, "att-1", "Patient.photo[0]"),
        ({"resourceType": "Organization", "active": True}, "org-1", "Organization"),
        ({"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:x"}]}, "bdl-5", "Bundle.entry[0]"),
        ({"resourceType": "Parameters", "parameter": [{"name": "x"}]}, "inv-1", "Parameters.parameter[0]"),
    ],
)
def test_an_invariant_is_told_by_its_key(resource: Any, key: str, path: str) -> None:
    (issue,) = issues(json.dumps(resource).encode())[1]
    assert (issue.code, issue.expression) == ("invariant", path)
    assert issue.diagnostics.startswith(f"{key}: ")


def test_an_invariant_is_told_in_its_published_words() -> None:
    (issue,) = issues(json.dumps(observation(dataAbsentReason={"text": "x"})).encode())[1]
    assert issue.diagnostics == ("obs-6: dataAbsentReason SHALL only be present if Observation.value[x] is not present")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-01", "2026-02-01"),
        ("2026-02-27", "2026-02"),
        ("2026", "2026-02-27"),
        ("2026-02-01T10:00:00+02:00", "2026-02-01T09:00:00Z"),
        ("2026-02-01", "2026-02-01T06:20:00Z"),
        ("2026-02-01T23:00:00-05:00", "2026-02-01"),
        ("2026-02-01", "9999-12-31"),
        ("2026-02-01T00:00:00Z", "9999"),
        ("9999", "9999-12"),
    ],
)
def test_a_period_that_may_be_in_order_passes(start: str, end: str) -> None:
    assert found(observation(effectivePeriod={"start": start, "end": end})) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-02T10:00:00Z", "2026-02-02T09:59:59Z"),
        ("2026-02-01T10:00:00Z", "2026-02-01T11:00:00+02:00"),
        ("2026-03", "2026-02-27"),
        ("2026-02-03T00:00:00Z", "2026-02-01"),
    ],
)
def test_a_period_that_ends_before_it_starts_is_refused(start: str, end: str) -> None:
    assert found(observation(effectivePeriod={"start": start, "end": end})) == [
        ("invariant", "Observation.effectivePeriod")
    ]


def test_no_message_quotes_what_may_be_personal() -> None:
    secret = "Jane Doe 1970-01-01"
    resource = {
        **PATIENT,
        "birthDate": secret,
        "gender": secret,
        "deceasedDateTime": secret,
        "id": secret,
        "name": [{"family": [secret], "period": {"start": secret}}],
        "managingOrganization": {"reference": secret},
        secret: 1,
        "text": {"status": "generated", "div": f"<p>{secret}</p>"},
    }
    listed = issues(json.dumps(resource).encode())[1]
    assert len(listed) >= 9
    for issue in listed:
        assert "Jane" not in issue.diagnostics + issue.expression
        assert "1970" not in issue.diagnostics + issue.expression
