"""The parameters of a whole search: what is applied, unknown, refused, and how much may be asked at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.criteria import AllOf, AnyOf, Has, Not, Present, Text, Written
from fhirserver.core.definitions import RESOURCE_TYPES, SearchParameter, search_parameters
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.core.search import MAX_GROUPS, MAX_VALUES, MAX_WORK, Order
from fhirserver.core.search.links import is_sortable
from tests.asked import asked, refusal


def test_a_search_without_parameters_asks_for_everything_of_its_types() -> None:
    search = asked("Patient")
    assert (search.types, search.keys, search.terms, search.criteria) == (("Patient",), None, (), ())


def test_repetition_is_and_a_comma_is_or() -> None:
    search = asked("Patient", ("gender", "male,female"), ("name", "ann"), ("name", "bob"))
    assert search.terms == (("Patient|gender=male", "Patient|gender=female"),)
    assert search.criteria == (Text("Patient|name", "ann"), Text("Patient|name", "bob"))


def test_what_counts_is_applied_as_it_came_and_what_does_not_is_named() -> None:
    pairs = [("name:exact", "A"), ("nonsense", "1"), ("_sort", "-birthdate"), ("nonsense:exact", "2"), ("_id", "7")]
    search = asked("Patient", *pairs)
    assert search.applied == (pairs[0], pairs[2], pairs[4])
    assert search.unknown == ("nonsense", "nonsense:exact")


@pytest.mark.parametrize("name", ["nonsense.name", "Name", "names", "_nonsense", "code", "nonsense:Patient.name"])
def test_a_parameter_that_the_type_has_not_is_unknown(name: str) -> None:
    search = asked("Patient", (name, "x"))
    assert search.unknown == (name,)
    assert search.applied == ()


def test_an_unknown_parameter_without_a_value_is_refused_like_any() -> None:
    assert refusal("Patient", ("nonsense", "")).message == "nonsense is empty."


@pytest.mark.parametrize("name", ["_content", "_text", "_filter", "_query", "_filter:not"])
def test_what_is_not_supported_says_so(name: str) -> None:
    assert "is not supported here" in refusal("Patient", (name, "x")).message


def test_ids_are_keys_and_repeated_ones_narrow() -> None:
    assert asked("Patient", ("_id", "b,a,b")).keys == (Key("Patient", "b"), Key("Patient", "a"))
    assert asked("Patient", ("_id", "a,b"), ("_id", "b,c")).keys == (Key("Patient", "b"),)
    assert asked("Patient", ("_id", "a"), ("_id", "b")).keys == ()


def test_lists_are_named_by_id() -> None:
    assert asked("Patient", ("_list", "42"), ("_list", "List/43")).lists == (("42",), ("43",))
    assert asked("Patient", ("_list", "42,List/43,42"), ("_list", "44")).lists == (("42", "43"), ("44",))


def test_no_more_lists_are_read_for_one_parameter_than_a_search_has_parameters() -> None:
    ids = [str(each) for each in range(MAX_GROUPS + 1)]
    assert len(asked("Patient", ("_list", ",".join(ids[1:]))).lists[0]) == MAX_GROUPS
    assert refusal("Patient", ("_list", ",".join(ids))).issues[0].expression == "_list"


@pytest.mark.parametrize("value", ["$current-problems", "1,", "1,Patient/2", "Patient/1", "a b"])
def test_other_lists_are_refused(value: str) -> None:
    assert refusal("Patient", ("_list", value)).issues[0].expression == "_list"


def test_the_time_of_writing_is_the_versions_own() -> None:
    search = asked("Patient", ("_lastUpdated", "ge2020-02-03,2019"))
    assert search.criteria == (
        AnyOf((Written(1_580_688_000_000, 253_402_300_799_999), Written(1_546_300_800_000, 1_577_836_799_999))),
    )


# --- several types


def test_a_common_parameter_is_asked_of_every_type() -> None:
    search = asked(["Patient", "Observation"], ("_tag", "a"), ("_id", "1"), ("identifier:not", "b"))
    assert search.terms == (("Patient|_tag=a", "Observation|_tag=a"),)
    assert search.keys == (Key("Patient", "1"), Key("Observation", "1"))
    assert search.criteria == (Not(Has(("Patient|identifier=b", "Observation|identifier=b"))),)


def test_of_several_types_a_parameter_may_be_of_another_kind() -> None:
    search = asked(["Patient", "Practitioner"], ("name", "ann"), ("name:missing", "false"))
    assert search.criteria == (AnyOf((Text("Patient|name", "ann"), Text("Practitioner|name", "ann"))), Present("name"))


def test_a_parameter_that_only_some_types_have_is_refused() -> None:
    assert "every type" in refusal(["Patient", "Observation"], ("code", "x")).message
    assert "every type" in refusal(["Patient", "Observation"], ("subject:Patient.name", "x")).message
    assert asked(["Patient", "Observation"], ("nonsense", "x")).unknown == ("nonsense",)


def test_all_types_at_once_may_be_asked_for_what_all_have() -> None:
    types = sorted(RESOURCE_TYPES)
    search = asked(types, ("_security", "R"), ("_lastUpdated", "gt2020"), ("_profile:below", "http://x.org"))
    assert len(search.terms[0]) == len(types)
    assert len(search.criteria) == 2


# --- bounds


def test_so_many_parameters_and_no_more() -> None:
    assert len(asked("Patient", *[("name", "a")] * MAX_GROUPS).criteria) == MAX_GROUPS
    assert "too many" in refusal("Patient", *[("name", "a")] * (MAX_GROUPS + 1)).message
    assert "too many" in refusal("Patient", *[("_sort", "name")] * (MAX_GROUPS + 1)).message


def test_so_many_values_and_no_more() -> None:
    assert len(asked("Patient", ("gender", ",".join(map(str, range(MAX_VALUES))))).terms[0]) == MAX_VALUES
    assert "too many" in refusal("Patient", ("gender", ",".join(map(str, range(MAX_VALUES + 1))))).message
    assert "too many" in refusal("Patient", *[("gender", ",".join(map(str, range(300))))] * 2).message


def test_so_many_values_over_all_types_and_no_more() -> None:
    types = sorted(RESOURCE_TYPES)
    most = MAX_WORK // len(types)
    assert len(asked(types, ("_tag", ",".join(map(str, range(most))))).terms[0]) == most * len(types)
    assert "too many" in refusal(types, ("_tag", ",".join(map(str, range(most + 1))))).message


def test_a_long_disjunction_is_refused() -> None:
    many = ",".join(f"ne{year}" for year in range(1000, 1300))
    assert "too many" in refusal("Patient", ("birthdate", many)).message


def test_a_long_name_is_cut_in_the_message() -> None:
    assert len(refusal("Patient", (f"name:{'x' * 5000}", "a")).message) < 300


# --- the order


def test_sort_keys_in_their_order() -> None:
    search = asked("Observation", ("_sort", "-date,_id,status"), ("_sort", "_lastUpdated"))
    assert search.order == (
        Order("date", True),
        Order("_id", False),
        Order("status", False),
        Order("_lastUpdated", False),
    )


@pytest.mark.parametrize(
    "value", ["code", "subject", "nonsense", "date,", "-", "", "--date", "_tag", "_score", "date:asc"]
)
def test_what_has_no_order_is_refused(value: str) -> None:
    assert refusal("Observation", ("_sort", value)).issues[0].expression == "_sort"


def test_sort_takes_no_modifier_and_only_what_all_types_can_be_sorted_by() -> None:
    assert refusal("Observation", ("_sort:asc", "date"))
    assert asked(["Patient", "Person"], ("_sort", "name")).order == (Order("name", False),)
    assert refusal(["Patient", "Observation"], ("_sort", "birthdate"))


def test_what_can_be_sorted_by() -> None:
    kinds = {
        "date": ("Observation", "date"),
        "number": ("RiskAssessment", "probability"),
        "quantity": ("Observation", "value-quantity"),
        "string": ("Patient", "family"),
        "uri": ("ValueSet", "url"),
        "plain token": ("Patient", "gender"),
    }
    assert all(is_sortable(*of) for of in kinds.values())
    not_sortable = [("Observation", "code"), ("Patient", "telecom"), ("Location", "near"), ("Patient", "_profile")]
    assert not any(is_sortable(*of) for of in not_sortable)


# --- every parameter there is

SAMPLES = {
    "string": ["a", "ä b"],
    "token": ["urn:s|a", "a", "|a"],
    "reference": ["1", "Patient/1", "http://x.org/Patient/1"],
    "uri": ["http://x.org/a"],
    "date": ["ge2020-01", "2020-01-02T03:04:05Z", "ap2021"],
    "number": ["5", "lt5.0", "1e2"],
    "quantity": ["5", "ne5||mg", "gt5.4|http://unitsofmeasure.org|mg"],
    "special": ["1|2|3|km"],
}
_UNSUPPORTED = {"_content", "_text", "_query"}
_COMPONENTS = {"token": "a", "quantity": "5", "date": "2020", "string": "a", "number": "5", "reference": "1"}


def samples(parameter: SearchParameter) -> list[str]:
    if parameter.type == "composite":
        return ["$".join(_COMPONENTS[each.type] for each in parameter.components)]
    return SAMPLES[parameter.type]


@pytest.mark.parametrize("type_", sorted(RESOURCE_TYPES))
def test_every_parameter_of_a_type_takes_a_value_of_its_kind(type_: str) -> None:
    taken = 0
    for name, parameter in search_parameters(type_).items():
        if name in _UNSUPPORTED:
            continue
        for value in ["1"] if name == "_id" else samples(parameter):
            if parameter.type == "token" and name != "_id":
                value = _token_for(type_, name, value)
            search = asked(type_, (name, value))
            assert search.applied == ((name, value),)
            assert [search.keys is not None, *search.terms, *search.criteria] != [False]
            taken += 1
        if parameter.type != "composite":
            (present,) = asked(type_, (f"{name}:missing", "false")).criteria
            assert present in (Present(name), AllOf(()))
    assert taken > 10


def _token_for(type_: str, name: str, value: str) -> str:
    """The value, or what is left of it where its elements take no system."""
    ends = {
        path.rpartition(":")[2].partition("(")[0]
        for base in (type_, "DomainResource", "Resource")
        for path in search_parameters(type_)[name].paths.get(base, ())
    }
    if ends <= {"boolean", "dateTime"}:
        return "true"
    return value.rpartition("|")[2] if ends <= {"string", "uri", "url", "id", "ContactPoint"} else value


def test_there_are_so_many_parameters() -> None:
    by_id = {parameter.id for type_ in RESOURCE_TYPES for parameter in search_parameters(type_).values()}
    assert len(by_id) >= 1_375


# --- whatever is asked

MODIFIERS = ["", ":", ":missing", ":exact", ":contains", ":not", ":text", ":in", ":not-in", ":above", ":below"]
ENDINGS = [*MODIFIERS, ":of-type", ":identifier", ":Patient", ".name", ":Patient.birthdate", "._id", ".", ":iterate"]
TYPES = ["Patient", "Observation", "Location", "ValueSet", "MolecularSequence", "DocumentReference", "Group", "Bundle"]


@st.composite
def parameters(draw: st.DrawFn) -> tuple[str, str, str]:
    type_ = draw(st.sampled_from(TYPES))
    codes = [
        *search_parameters(type_),
        "_list",
        "_sort",
        "_include",
        "_revinclude",
        "_has",
        "_has:Observation:subject:",
    ]
    name = draw(st.sampled_from(codes)) + draw(st.sampled_from(ENDINGS))
    pieces = [
        ",",
        "|",
        "$",
        "\\",
        "/",
        "-",
        ".",
        ":",
        "1",
        "2020",
        "e",
        "T10:00",
        "ge",
        "ap",
        "true",
        "Patient",
        "a",
        "é",
    ]
    value = "".join(draw(st.lists(st.sampled_from(pieces) | st.characters(), max_size=8)))
    return type_, name, value


@given(parameters())
def test_it_is_understood_or_refused_by_name(parameter: tuple[str, str, str]) -> None:
    type_, name, value = parameter
    try:
        search = asked(type_, (name, value))
    except Fault as fault:
        assert fault.kind is Kind.BAD_REQUEST  # noqa: PT017
        assert fault.issues[0].expression.partition(":")[0] == name.partition(":")[0]  # noqa: PT017
    else:
        assert (search.applied or search.unknown) == (((name, value),) if search.applied else (name,))
