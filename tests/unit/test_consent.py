"""The decision table of Consents: what one patient's Consents open to one organisation."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.model import MAX_TIME
from fhirserver.policy.consent import Opening, evaluate, parse
from tests.admitted import JSON, actor_of, classes, consent, marks

NOW = 1_800_000_000_000  # 2027-01-15
LOINC = "http://loinc.org"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
POLICY = {"coding": [{"system": ACT, "code": "OPTIN"}]}
OPTOUT = {"coding": [{"system": ACT, "code": "OPTOUT"}]}
TREAT = [{"system": REASON, "code": "TREAT"}]


def opening(*consents: JSON, purpose: str | None = "TREAT", now: int = NOW, organization: str = "reader") -> Opening:
    directives = [parse(each, f"Consent/{each['id']}") for each in consents]
    given = [each for each in directives if each is not None]
    return evaluate(given, organization=organization, purpose=purpose, now=now)


def opens(found: Opening, type_: str = "Observation", *labels: str) -> bool:
    texts = [f"{mark['system']}|{mark['code']}" for mark in marks(*labels)] if labels else []
    return any(box.holds(type_, texts) for box in found.boxes)


def decided(*consents: JSON, **more: Any) -> str:
    """Which of Observation and Condition are open: ``OC``, ``O``, ``C`` or nothing."""
    found = opening(*consents, **more)
    return "".join(type_[0] for type_ in ("Observation", "Condition") if opens(found, type_))


def permit(**more: Any) -> JSON:
    return {"type": "permit", **more}


def deny(**more: Any) -> JSON:
    return {"type": "deny", **more}


def base(policy_rule: JSON | None, **provision: Any) -> JSON:
    """A Consent whose root has no type."""
    made = consent("k", "p", **provision)
    del made["provision"]["type"]
    return {**made, "policyRule": policy_rule} if policy_rule else made


READER = [actor_of("reader")]
OTHER = [actor_of("other")]
DOCTOR = [{**READER[0], "reference": {"reference": "Practitioner/1"}}]
ABSOLUTE = [{**READER[0], "reference": {"reference": "https://elsewhere.example/Organization/reader"}}]

OBSERVATIONS = classes("Observation")
STRANGE = [{"system": "urn:ietf:bcp:13", "code": "application/hl7-cda+xml"}]
MODIFIED = {"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        # the root rule
        (consent("k", "p"), "OC"),
        (base(POLICY), "OC"),
        (base(OPTOUT), ""),
        (base(None), ""),
        (base({"coding": [*POLICY["coding"], *OPTOUT["coding"]]}), ""),
        (base({"text": "OPTIN"}), ""),
        ({**base(OPTOUT), "provision": permit(actor=READER)}, "OC"),
        ({**base(POLICY), "provision": deny(actor=READER)}, ""),
        ({key: value for key, value in consent("k", "p").items() if key != "provision"}, ""),
        # which Consents count at all
        *(
            ({**consent("k", "p"), "status": status}, "")
            for status in ("draft", "proposed", "rejected", "inactive", "entered-in-error")
        ),
        *(
            (
                {
                    **consent("k", "p"),
                    "scope": {
                        "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": code}]
                    },
                },
                "",
            )
            for code in ("treatment", "research", "adr")
        ),
        ({**consent("k", "p"), "scope": {"coding": [{"code": "patient-privacy"}]}}, ""),
        ({**consent("k", "p"), "scope": {"text": "patient-privacy"}}, ""),
        ({**consent("k", "p"), **MODIFIED}, ""),
        # actors
        (consent("k", "p", "other"), ""),
        (consent("k", "p", None), ""),
        (consent("k", "p", actor=OTHER + READER), "OC"),
        (consent("k", "p", actor=DOCTOR), ""),
        (consent("k", "p", actor=ABSOLUTE), ""),
        (consent("k", "p", actor=[{**READER[0], **MODIFIED}]), ""),
        (consent("k", "p", None, provision=[permit(actor=READER)]), "OC"),
        (consent("k", "p", "other", provision=[permit(actor=READER)]), ""),
        (consent("k", "p", "reader", provision=[permit(actor=OTHER)]), ""),
        # types
        (consent("k", "p", **{"class": OBSERVATIONS}), "O"),
        (consent("k", "p", **{"class": STRANGE}), ""),
        (consent("k", "p", **{"class": STRANGE + OBSERVATIONS}), "O"),
        (consent("k", "p", **{"class": classes("NoSuchType")}), ""),
        (consent("k", "p", **{"class": [{"code": "Observation"}]}), ""),
        # purposes
        (consent("k", "p", purpose=TREAT), "OC"),
        (consent("k", "p", purpose=[{"system": REASON, "code": "HRESCH"}]), ""),
        (consent("k", "p", purpose=[{"system": "urn:x", "code": "TREAT"}]), ""),
        # periods
        (consent("k", "p", period={"start": "2027-01-15"}), "OC"),
        (consent("k", "p", period={"end": "2027-01-15"}), "OC"),
        (consent("k", "p", period={"end": "2027-01-14"}), ""),
        (consent("k", "p", period={"start": "2027-01-16"}), ""),
        (consent("k", "p", period={"start": "2027", "end": "2027"}), "OC"),
        (consent("k", "p", period={"extension": [{"url": "urn:x"}]}), ""),
        (consent("k", "p", period={"start": "then"}), ""),
        # what is not evaluated makes a permit open nothing
        (consent("k", "p", dataPeriod={"start": "2020"}), ""),
        (consent("k", "p", data=[{"meaning": "instance", "reference": {"reference": "Observation/1"}}]), ""),
        (consent("k", "p", code=[{"coding": [{"system": LOINC, "code": "8480-6"}]}]), ""),
        (consent("k", "p", action=[{"coding": [{"system": "urn:x", "code": "access"}]}]), ""),
        (consent("k", "p", action=[{"text": "access"}]), ""),
        (consent("k", "p", **MODIFIED), ""),
        (consent("k", "p", _type={"extension": [{"url": "urn:x"}]}), ""),
        # nested permits: only those
        (consent("k", "p", provision=[permit(**{"class": OBSERVATIONS})]), "O"),
        (consent("k", "p", type="deny", provision=[permit(**{"class": OBSERVATIONS})]), "O"),
        ({**base(OPTOUT), "provision": {"provision": [permit(actor=READER, **{"class": OBSERVATIONS})]}}, "O"),
        (base(None, provision=[permit(**{"class": OBSERVATIONS})]), "O"),
        (consent("k", "p", provision=[permit(**{"class": STRANGE})]), ""),
        (consent("k", "p", **{"class": OBSERVATIONS, "provision": [permit(**{"class": classes("Condition")})]}), ""),
        (
            consent("k", "p", provision=[permit(**{"class": OBSERVATIONS}), permit(**{"class": classes("Condition")})]),
            "OC",
        ),
        (consent("k", "p", provision=[permit(period={"end": "2020"})]), ""),
        (consent("k", "p", provision=[permit(dataPeriod={"start": "2020"})]), ""),
        (consent("k", "p", provision=[permit(provision=[deny(**{"class": OBSERVATIONS})])]), ""),
        # nested denies: subtracted
        (consent("k", "p", provision=[deny(**{"class": OBSERVATIONS})]), "C"),
        (consent("k", "p", provision=[permit(), deny(**{"class": OBSERVATIONS})]), "C"),
        (consent("k", "p", provision=[deny()]), ""),
        (consent("k", "p", provision=[deny(actor=OTHER)]), "OC"),
        (consent("k", "p", provision=[deny(actor=DOCTOR)]), ""),
        (consent("k", "p", provision=[deny(actor=ABSOLUTE)]), ""),
        (consent("k", "p", provision=[deny(**{"class": STRANGE})]), ""),
        (consent("k", "p", provision=[deny(dataPeriod={"start": "2020"}, **{"class": OBSERVATIONS})]), "C"),
        (consent("k", "p", provision=[deny(purpose=[{"system": REASON, "code": "HRESCH"}])]), "OC"),
        (consent("k", "p", provision=[deny(purpose=TREAT)]), ""),
        (consent("k", "p", provision=[deny(purpose=[{"system": REASON, "code": "X-NEW"}])]), ""),
        (consent("k", "p", provision=[deny(period={"end": "2020"})]), "OC"),
        (consent("k", "p", provision=[deny(period={"end": "then"})]), ""),
        (consent("k", "p", provision=[deny(actor=OTHER, **MODIFIED)]), ""),
        (consent("k", "p", provision=[deny(**{"class": OBSERVATIONS, "provision": [permit()]})]), "C"),
        (consent("k", "p", provision=[{"class": OBSERVATIONS}]), "C"),
    ],
)
def test_one_consent(made: JSON, expected: str) -> None:
    assert decided(made) == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [(["access"], "OC"), (["disclose"], "OC"), (["collect", "access"], "OC"), (["collect"], ""), (["use"], "")],
)
def test_a_permit_must_be_for_access_or_disclosure(codes: list[str], expected: str) -> None:
    system = "http://terminology.hl7.org/CodeSystem/consentaction"
    action = [{"coding": [{"system": system, "code": code}]} for code in codes]
    assert decided(consent("k", "p", action=action)) == expected
    assert decided(consent("k", "p", provision=[deny(action=action)])) == "", "a deny applies whatever the action"


@pytest.mark.parametrize(
    ("purpose", "permitted", "refused"),
    [
        ("TREAT", "OC", ""),
        ("T-TRTMNT", "OC", ""),
        ("T-PYMNT", "", "OC"),
        ("HRESCH", "", "OC"),
        ("anything", "", ""),
        (None, "", ""),
    ],
)
def test_a_purpose_is_compared_with_the_callers(purpose: str | None, permitted: str, refused: str) -> None:
    assert decided(consent("k", "p", purpose=TREAT), purpose=purpose) == permitted
    assert decided(consent("k", "p", provision=[deny(purpose=TREAT)]), purpose=purpose) == refused


REFUSED = {"type": "deny"}


@pytest.mark.parametrize(
    ("consents", "expected"),
    [
        # permits add up
        ([consent("1", "p", **{"class": OBSERVATIONS}), consent("2", "p", **{"class": classes("Condition")})], "OC"),
        ([consent("1", "p", project="a"), consent("2", "p", "other", project="b")], "OC"),
        # absence is not a deny
        ([consent("1", "p", **{"class": OBSERVATIONS}), consent("2", "p", project="b")], "OC"),
        # a project's refusal closes that project
        ([consent("1", "p", project="a"), consent("2", "p", project="a", **REFUSED)], ""),
        ([consent("1", "p", project="a"), consent("2", "p", project="b", **REFUSED)], "OC"),
        ([consent("1", "p"), consent("2", "p", project="b", **REFUSED)], "OC"),
        ([consent("1", "p", project="a", **{"class": OBSERVATIONS}), consent("2", "p", project="b"),
          consent("3", "p", project="b", **REFUSED)], "O"),
        # an organisation's and a patient's refusal closes everything
        ([consent("1", "p", project="a"), consent("2", "p", **REFUSED)], ""),
        ([consent("1", "p", project="a"), consent("2", "p", None, **REFUSED)], ""),
        ([consent("1", "p", project="a"), consent("2", "p", "other", **REFUSED)], "OC"),
        ([consent("1", "p", project="a"), consent("2", "p", actor=DOCTOR, **REFUSED)], ""),
        ([consent("1", "p"), {**base(OPTOUT), "provision": {}}], ""),
        # a refusal with conditions
        ([consent("1", "p"), consent("2", "p", **REFUSED, **{"class": OBSERVATIONS})], "C"),
        ([consent("1", "p"), consent("2", "p", **REFUSED, period={"end": "2020"})], "OC"),
        ([consent("1", "p"), consent("2", "p", **REFUSED, dataPeriod={"end": "2020"})], ""),
        ([consent("1", "p"), {**consent("2", "p", "other", **REFUSED), **MODIFIED}], ""),
        ([consent("1", "p"), {**consent("2", "p", **REFUSED), "status": "inactive"}], "OC"),
        # an explicit deny with exceptions refuses the rest; an OPTOUT with exceptions is only where they begin
        ([consent("1", "p"), consent("2", "p", **REFUSED, provision=[permit(**{"class": OBSERVATIONS})])], "O"),
        ([consent("1", "p"), {**base(OPTOUT), "provision": {"provision": [permit(actor=OTHER)]}}], "OC"),
        # a nested deny is that Consent's own matter
        ([consent("1", "p", project="a"), consent("2", "p", project="b", provision=[deny(actor=READER)])], "OC"),
    ],
)  # fmt: skip
def test_consents_together_in_any_order(consents: list[JSON], expected: str) -> None:
    numbered = [{**each, "id": str(at)} for at, each in enumerate(consents)]
    assert decided(*numbered) == expected
    assert decided(*reversed(numbered)) == expected


@pytest.mark.parametrize(
    ("permitted", "shown", "hidden"),
    [
        (None, [()], [("R",), ("V",), ("HIV",), ("R", "HIV"), ("42CFRPart2",), ("PSYTHPN",), ("SICKLE",)]),
        (("N",), [()], [("R",), ("HIV",)]),
        (
            ("N", "HIV"),
            [(), ("HIV",), ("R", "HIV")],
            [("R",), ("STD",), ("HIV", "STD"), ("R", "HIV", "MH"), ("V", "HIV")],
        ),
        (("N", "R"), [(), ("R",)], [("HIV",), ("R", "HIV")]),
        (("HIV",), [("HIV",), ("R", "HIV")], [(), ("R",)]),
        (("R",), [("R",)], [(), ("R", "HIV")]),
        (("N", "HIV", "STD"), [("HIV", "STD"), ("R", "STD")], [("HIV", "MH")]),
        (("V", "PSYTHPN", "N"), [("V", "PSYTHPN")], [("HIV",)]),
    ],
)
def test_restricted_labels_need_a_permit_that_names_them(
    permitted: tuple[str, ...] | None, shown: list[tuple[str, ...]], hidden: list[tuple[str, ...]]
) -> None:
    found = opening(consent("k", "p", **({"securityLabel": marks(*permitted)} if permitted else {})))
    assert [labels for labels in shown if not opens(found, "Observation", *labels)] == []
    assert [labels for labels in hidden if opens(found, "Observation", *labels)] == []


@pytest.mark.parametrize(
    ("refused", "shown", "hidden"),
    [
        (("HIV",), [(), ("MH",)], [("HIV",), ("R", "HIV")]),
        (("R",), [()], [("HIV",), ("MH",), ("R",)]),
        (("N",), [], [(), ("HIV",)]),
    ],
)
def test_a_nested_deny_takes_labels_back(
    refused: tuple[str, ...], shown: list[tuple[str, ...]], hidden: list[tuple[str, ...]]
) -> None:
    found = opening(
        consent("k", "p", securityLabel=marks("N", "HIV", "MH"), provision=[deny(securityLabel=marks(*refused))])
    )
    assert [labels for labels in shown if not opens(found, "Observation", *labels)] == []
    assert [labels for labels in hidden if opens(found, "Observation", *labels)] == []


def test_a_label_under_an_old_system_or_none_is_restricted_all_the_same() -> None:
    found = opening(consent("k", "p"))
    spelled = ["|HIV", "urn:oid:2.16.840.1.113883.5.4|HIV", "http://hl7.org/fhir/v3/Confidentiality|R"]
    assert not any(box.holds("Observation", [label]) for label in spelled for box in found.boxes)


def test_some_types_are_open_only_when_they_are_named() -> None:
    everything, named = (
        opening(consent("k", "p", **more))
        for more in ({}, {"class": classes("Task", "Group", "List", "Schedule", "AuditEvent", "Consent")})
    )
    assert [type_ for type_ in ("Task", "Group", "List", "Schedule", "AuditEvent") if opens(everything, type_)] == []
    assert [type_ for type_ in ("Task", "Group", "List", "Schedule", "Consent") if not opens(named, type_)] == []
    assert not opens(named, "AuditEvent")


def test_the_next_moment_at_which_time_alone_changes_the_answer_is_known() -> None:
    day = 86_400_000
    ending = consent("1", "p", period={"end": "2027-01-15"})
    beginning = consent("2", "p", period={"start": "2027-01-20"})
    found = opening(ending, beginning)
    assert NOW < found.boundary < NOW + day
    assert opens(found)
    assert not opens(opening(ending, beginning, now=found.boundary))
    later = opening(ending, beginning, now=NOW + 10 * day)
    assert later.boundary == MAX_TIME
    assert found.boundary < later.widened <= NOW + 10 * day


def test_only_the_consents_that_open_something_are_the_basis() -> None:
    found = opening(consent("1", "p"), consent("2", "p", "other"), consent("3", "p", project="x", **REFUSED))
    assert found.basis == ("Consent/1",)
