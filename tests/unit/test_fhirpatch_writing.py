"""FHIRPath Patch: how the JSON of what it changes is written."""

from __future__ import annotations

import json

import pytest

from fhirserver.core.patch import fhirpath_patch
from tests.unit.patching import JSON, NAMED, operation, parameters, patched, patient


def test_a_choice_is_written_by_its_type_and_may_change_it_in_its_place() -> None:
    before = b'{"resourceType":"Observation","id":"o","valueQuantity":{"value":1.00},"_x":1}'.replace(b',"_x":1', b"")
    for path in ("Observation.value", "Observation.value.ofType(Quantity)"):
        patch = fhirpath_patch(parameters(operation("replace", path, value={"valueString": "high"})))
        assert patch.apply(before) == b'{"resourceType":"Observation","id":"o","valueString":"high"}'
    middle = b'{"resourceType":"Patient","id":"p","deceasedBoolean":true,"_deceasedBoolean":{"id":"d"},"gender":"male"}'
    patch = fhirpath_patch(parameters(operation("replace", "Patient.deceased", value={"valueDateTime": "2020"})))
    assert patch.apply(middle) == b'{"resourceType":"Patient","id":"p","deceasedDateTime":"2020","gender":"male"}'
    for name in ("deceased", "deceased[x]", "deceasedDateTime"):
        added = operation("add", "Patient", name=name, value={"valueDateTime": "2020"})
        assert patched(patient(), added) == patient(deceasedDateTime="2020")


def test_kinds_of_a_type_go_where_the_type_goes() -> None:
    age = {"value": 3, "system": "http://unitsofmeasure.org", "code": "a"}
    aged = patched(
        {"resourceType": "Observation", "id": "o"},
        operation("add", "Observation", name="value", value={"valueAge": age}),
    )
    assert aged["valueQuantity"] == age
    named = patched(patient(name=[NAMED]), operation("add", "Patient.name", name="family", value={"valueCode": "x"}))
    assert named["name"] == [{**NAMED, "family": "x"}]


def test_numbers_keep_their_text_in_the_patch_and_beside_it() -> None:
    before = b'{"resourceType":"Observation","id":"o","component":[{"valueQuantity":{"value":3e2}}]}'
    given = (
        b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":['
        b'{"name":"type","valueCode":"add"},{"name":"path","valueString":"Observation"},'
        b'{"name":"name","valueString":"value"},{"name":"value","valueQuantity":{"value": 1.00}}]}]}'
    )
    assert fhirpath_patch(given).apply(before) == before[:-1] + b',"valueQuantity":{"value":1.00}}'


ABSENT = {"extension": [{"url": "http://x", "valueCode": "unknown"}]}

EXTENDED = b'{"resourceType":"Patient","id":"p","name":[{"given":["A","B","C"],"_given":[null,{"id":"b"},null]}]}'


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (operation("delete", "Patient.name.given[0]"), {"given": ["B", "C"], "_given": [{"id": "b"}, None]}),
        (operation("delete", "Patient.name.given[1]"), {"given": ["A", "C"]}),
        (operation("delete", "Patient.name.given[1].id"), {"given": ["A", "B", "C"]}),
        (
            operation("move", "Patient.name.given", source=1, destination=0),
            {"given": ["B", "A", "C"], "_given": [{"id": "b"}, None, None]},
        ),
        (
            operation("insert", "Patient.name.given", index=1, value={"valueString": "x"}),
            {"given": ["A", "x", "B", "C"], "_given": [None, None, {"id": "b"}, None]},
        ),
        (
            operation("insert", "Patient.name.given", index=0, value={"valueString": "x", "_valueString": {"id": "x"}}),
            {"given": ["x", "A", "B", "C"], "_given": [{"id": "x"}, None, {"id": "b"}, None]},
        ),
        (
            operation("add", "Patient.name", name="given", value={"valueString": "x"}),
            {"given": ["A", "B", "C", "x"], "_given": [None, {"id": "b"}, None, None]},
        ),
        (operation("replace", "Patient.name.given[1]", value={"valueString": "x"}), {"given": ["A", "x", "C"]}),
        (
            operation("add", "Patient.name.given[2]", name="id", value={"valueString": "c"}),
            {"given": ["A", "B", "C"], "_given": [None, {"id": "b"}, {"id": "c"}]},
        ),
        (
            operation("add", "Patient.name", name="suffix", value={"_valueString": ABSENT}),
            {"given": ["A", "B", "C"], "_given": [None, {"id": "b"}, None], "_suffix": [ABSENT]},
        ),
    ],
    ids=lambda value: json.dumps(value)[:100],
)
def test_the_two_arrays_of_a_primitive_stay_side_by_side(made: JSON, name: JSON) -> None:
    assert patched(EXTENDED, made) == patient(name=[name])


def test_ids_and_extensions_of_a_primitive_can_be_had_and_taken() -> None:
    url = {"name": "url", "valueUri": "http://x"}
    value = {"name": "value[x]", "valueString": "v"}
    before = patient(birthDate="1974")
    extended = patient(birthDate="1974", _birthDate={"extension": [{"url": "http://x", "valueString": "v"}]})
    assert patched(before, operation("add", "Patient.birthDate", name="extension", parts=[url, value])) == extended
    assert patched(extended, operation("delete", "Patient.birthDate.extension('http://x')")) == before
    only = patient(_birthDate=extended["_birthDate"], gender="male")
    assert patched(only, operation("delete", "Patient.birthDate.extension")) == patient(gender="male")
    replaced = patched(extended, operation("replace", "Patient.birthDate", value={"valueDate": "1975"}))
    assert replaced == patient(birthDate="1975")
    nested = patched(
        extended, operation("replace", "Patient.birthDate.extension('http://x').value", value={"valueInteger": 3})
    )
    assert nested == patient(birthDate="1974", _birthDate={"extension": [{"url": "http://x", "valueInteger": 3}]})


def test_what_is_left_empty_goes_with_what_was_deleted() -> None:
    deep = patient(contact=[{"name": {"given": ["A"]}}, {"gender": "male"}])
    assert patched(deep, operation("delete", "Patient.contact[0].name.given[0]")) == patient(
        contact=[{"gender": "male"}]
    )
    alone = patient(contact=[{"name": {"_family": {"extension": [{"url": "http://x", "valueCode": "c"}]}}}])
    assert patched(alone, operation("delete", "Patient.contact.name.family.extension.value")) == patient(
        contact=[{"name": {"_family": {"extension": [{"url": "http://x"}]}}}]
    )
    assert patched(alone, operation("delete", "Patient.contact.name.family.extension")) == patient()


def test_parts_repeat_as_deep_as_necessary() -> None:
    timing = {"resourceType": "ServiceRequest", "id": "s"}
    made = operation(
        "add",
        "ServiceRequest",
        name="occurrence[x]",
        value={"valueTiming": {"event": ["2020"]}},
    )
    inner = operation(
        "add",
        "ServiceRequest.occurrence",
        name="repeat",
        parts=[
            {"name": "frequency", "valuePositiveInt": 2},
            {"name": "bounds", "valuePeriod": {"start": "2020"}},
            {"name": "dayOfWeek", "valueCode": "mon"},
            {"name": "dayOfWeek", "valueCode": "tue"},
        ],
    )
    assert patched(timing, made, inner)["occurrenceTiming"] == {
        "event": ["2020"],
        "repeat": {"frequency": 2, "boundsPeriod": {"start": "2020"}, "dayOfWeek": ["mon", "tue"]},
    }
    component = operation(
        "add",
        "Observation",
        name="component",
        parts=[
            {"name": "code", "part": [{"name": "coding", "part": [{"name": "code", "valueCode": "c"}]}]},
            {"name": "value", "valueQuantity": {"value": 1}},
            {"name": "referenceRange", "part": [{"name": "text", "valueString": "low"}]},
        ],
    )
    assert patched({"resourceType": "Observation", "id": "o"}, component)["component"] == [
        {"code": {"coding": [{"code": "c"}]}, "valueQuantity": {"value": 1}, "referenceRange": [{"text": "low"}]}
    ]


def test_contained_resources_can_be_added_and_patched() -> None:
    inside = {"resourceType": "Organization", "id": "org", "name": "In"}
    before = patient(managingOrganization={"reference": "#org"})
    with_it = patched(before, operation("add", "Patient", name="contained", value={"resource": inside}))
    assert with_it["contained"] == [inside]
    for path in ("Patient.contained[0].name", "Patient.managingOrganization.resolve().name"):
        done = patched(with_it, operation("replace", path, value={"valueString": "Out"}))
        assert done["contained"] == [{**inside, "name": "Out"}]
    assert patched(with_it, operation("delete", "Patient.contained.where(id = 'org')")) == before
