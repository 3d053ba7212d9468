"""Chains, reverse chains and includes: what leads from one resource to others."""

from __future__ import annotations

import time

import pytest

from fhirserver.core.criteria import Span, Text
from fhirserver.core.model import Key
from fhirserver.core.search import MAX_DEPTH, Include, Link, Search
from tests.asked import asked, refusal


def link(type_: str, name: str, value: str) -> Link:
    search = asked(type_, (name, value))
    assert not search.terms
    assert not search.criteria
    (one,) = search.links
    assert one.parameter == name
    return one


def end(one: Link) -> Search:
    """The only end of a link."""
    (search,) = one.of
    return search


def types(one: Link) -> list[str]:
    assert all(len(search.types) == 1 for search in one.of)
    return [search.types[0] for search in one.of]


# --- chains, §3.1.1.4.13


def test_a_chain_asks_the_resource_that_is_referred_to() -> None:
    one = link("DiagnosticReport", "subject:Patient.name", "peter")
    assert (one.code, one.reverse, types(one)) == ("subject", False, ["Patient"])
    assert end(one).criteria == (Text("Patient|name", "peter"),)


def test_without_a_type_it_asks_every_possible_type_that_has_the_parameter() -> None:
    assert types(link("DiagnosticReport", "subject.name", "peter")) == ["Location", "Patient"]
    assert types(link("DiagnosticReport", "subject.birthdate", "2000")) == ["Patient"]
    assert types(link("DiagnosticReport", "patient.identifier", "urn:a|1")) == ["Patient"]


def test_the_last_parameter_may_have_a_modifier_and_several_values() -> None:
    one = end(link("Observation", "patient.gender:not", "male"))
    assert len(one.criteria) == 1
    one = end(link("Observation", "patient.gender", "male,other"))
    assert one.terms == (("Patient|gender=male", "Patient|gender=other"),)
    assert end(link("Observation", "patient._id", "1,2")).keys == (Key("Patient", "1"), Key("Patient", "2"))


def test_a_chain_goes_on() -> None:
    first = link("Observation", "subject:Patient.general-practitioner.name", "x")
    (second,) = end(first).links
    assert (second.code, types(second)) == ("general-practitioner", ["Organization", "Practitioner"])
    assert second.of[0].criteria == (Text("Organization|name", "x"),)


def test_what_only_content_tells_is_asked_at_the_end() -> None:
    assert end(link("Observation", "encounter:Encounter.type:text", "visit")).residuals[0].code == "type"


def test_a_chain_may_end_in_a_list() -> None:
    assert end(link("Observation", "patient._list", "42")).lists == (("42",),)


def test_repeated_chains_are_asked_apart() -> None:
    search = asked("Observation", ("patient.name", "a"), ("patient.name", "b"))
    assert [each.of[0].criteria for each in search.links] == [
        (Text("Patient|name", "a"),),
        (Text("Patient|name", "b"),),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "patient.nonsense",
        "patient.nonsense.name",
        "patient:Patient.nonsense",
        "patient:Group.name",
        "patient:Nothing.name",
        "patient:missing.name",
        "code.text",
        "date.patient.name",
        "patient.name.family",
        "patient.name:below",
        "patient.",
        "patient._content",
        "patient._sort",
        "patient._include",
        "patient.name:",
        "subject:Patient.general-practitioner:Device.name",
    ],
)
def test_a_chain_that_leads_nowhere_is_refused(name: str) -> None:
    assert refusal("Observation", (name, "x")).issues[0].expression == name


def test_a_value_is_judged_where_the_chain_ends() -> None:
    fault = refusal("Observation", ("patient.birthdate", "soon"))
    assert fault.message.startswith("patient.birthdate is not a date")


def test_a_chain_has_so_many_steps_and_no_more() -> None:
    longest = "partof:Organization." * MAX_DEPTH + "name"
    assert asked("Organization", (longest, "x")).links
    assert "more than" in refusal("Organization", ("partof:Organization." * (MAX_DEPTH + 1) + "name", "x")).message
    assert "more than" in refusal("Organization", ("partof." * 1000 + "name", "x")).message
    assert (
        "more than"
        in refusal("Patient", ("_has:Observation:patient:" + "_has:Provenance:target:" * 5 + "_id", "x")).message
    )


def test_a_chain_over_too_many_types_is_refused_soon() -> None:
    begun = time.perf_counter()
    assert "too many types" in refusal("Provenance", ("target.subject.name", "x")).message
    assert refusal("AuditEvent", ("entity.entity.entity.entity.entity.nonsense", "x"))
    assert refusal("Provenance", ("target.focus.focus.focus.focus._id", "x"))
    assert time.perf_counter() - begun < 10


# --- _has, §3.1.1.4.14


def test_a_reverse_chain_asks_what_refers_here() -> None:
    one = link("Patient", "_has:Observation:patient:code", "1234-5,6")
    assert (one.code, one.reverse, types(one)) == ("patient", True, ["Observation"])
    assert end(one).terms == (("Observation|code=1234-5", "Observation|code=6"),)


def test_reverse_chains_nest() -> None:
    one = link("Patient", "_has:Observation:patient:_has:AuditEvent:entity:agent:Practitioner", "1")
    (inner,) = end(one).links
    assert (inner.code, inner.reverse, types(inner)) == ("entity", True, ["AuditEvent"])
    assert end(inner).terms == (("AuditEvent|agent=Practitioner/1",),)


def test_each_kind_of_chain_goes_on_in_the_other() -> None:
    (inner,) = end(link("Patient", "_has:Observation:patient:encounter:Encounter.status", "finished")).links
    assert (inner.code, inner.reverse, types(inner)) == ("encounter", False, ["Encounter"])
    (inner,) = end(link("Encounter", "patient._has:Group:member:_id", "102")).links
    assert (inner.code, inner.reverse, end(inner).keys) == ("member", True, (Key("Group", "102"),))


def test_several_reverse_chains_stand_apart() -> None:
    search = asked(
        "Patient", ("_has:Observation:patient:code", "a"), ("_has:Observation:patient:value-quantity", "gt5")
    )
    assert [len(each.of[0].terms) + len(each.of[0].criteria) for each in search.links] == [1, 1]
    (criterion,) = search.links[1].of[0].criteria
    assert isinstance(criterion, Span)


@pytest.mark.parametrize(
    "name",
    [
        "_has",
        "_has:Observation",
        "_has:Observation:patient",
        "_has:Observation:patient:",
        "_has:Nothing:patient:code",
        "_has:Observation:nonsense:code",
        "_has:Observation:code:code",
        "_has:Observation:encounter:code",
        "_has:Observation:patient:nonsense",
        "_has:Observation:patient:code:below-it",
        "_has:Observation:patient:_sort",
        "_has:Observation:patient:_has:AuditEvent:agent:_id",
    ],
)
def test_a_reverse_chain_that_leads_nowhere_is_refused(name: str) -> None:
    assert refusal("Patient", (name, "x")).issues[0].expression == name


# --- includes, §3.1.1.5.6


@pytest.mark.parametrize(
    ("name", "value", "include"),
    [
        (
            "_include",
            "MedicationRequest:medication",
            Include("MedicationRequest", "medication", "", iterate=False, reverse=False),
        ),
        (
            "_include",
            "MedicationRequest:medication:Medication",
            Include("MedicationRequest", "medication", "Medication", iterate=False, reverse=False),
        ),
        ("_include:iterate", "Location:partof", Include("Location", "partof", "", iterate=True, reverse=False)),
        ("_include", "MedicationRequest:*", Include("MedicationRequest", "*", "", iterate=False, reverse=False)),
        ("_include", "*", Include("*", "*", "", iterate=False, reverse=False)),
        ("_revinclude", "Provenance:target", Include("Provenance", "target", "", iterate=False, reverse=True)),
        ("_revinclude:iterate", "Provenance:*", Include("Provenance", "*", "", iterate=True, reverse=True)),
    ],
)
def test_what_goes_along(name: str, value: str, include: Include) -> None:
    search = asked("MedicationRequest", (name, value))
    assert search.includes == (include,)
    assert search.applied == ((name, value),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_include", "MedicationRequest"),
        ("_include", "MedicationRequest:"),
        ("_include", "MedicationRequest:nonsense"),
        ("_include", "MedicationRequest:status"),
        ("_include", "MedicationRequest:medication:Nothing"),
        ("_include", "MedicationRequest:medication:Patient"),
        ("_include", "Nothing:patient"),
        ("_include", "*:patient"),
        ("_include", "MedicationRequest:medication,MedicationRequest:patient"),
        ("_include:recurse", "MedicationRequest:medication"),
        ("_include:", "MedicationRequest:medication"),
        ("_revinclude", "Provenance"),
        ("_revinclude:exact", "Provenance:target"),
    ],
)
def test_what_cannot_go_along_is_refused(name: str, value: str) -> None:
    assert refusal("MedicationRequest", (name, value)).issues[0].expression.startswith(name.partition(":")[0])
