"""A grant's clauses are exactly "every patient it is about opens it": against a naive reading, resource by resource."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.definitions import DIRECTORY_TYPES, RESOURCE_TYPES
from fhirserver.core.model import Facts
from fhirserver.policy.box import Box, Region, both_kinds, less, meet, meet_all, tidy
from fhirserver.policy.consent import Opening, evaluate, parse
from fhirserver.policy.grant import consented_grant
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.scopes import Scopes, Types
from tests.admitted import JSON, actor_of, classes, consent, marks

PATIENTS = ("p", "q", "r")
TYPES = ("Observation", "Condition", "Task", "Consent", "AuditEvent", "Person", "Practitioner")
CODES = ("R", "V", "HIV", "MH")
NOW = 1_800_000_000_000
PRINCIPAL = Principal(
    subject="app", organization="reader", caller=CallerClass.THIRD_PARTY, scopes=Scopes("patient/*.rs"), until=NOW + 1
)

label_sets = st.frozensets(st.sampled_from(CODES), max_size=3)
type_sets = st.frozensets(st.sampled_from(TYPES[:4]), min_size=1)


@st.composite
def provisions(draw: st.DrawFn, *, nested: bool = False) -> JSON:
    made: JSON = {"type": draw(st.sampled_from(["permit", "permit", "deny"]))}
    if draw(st.booleans()) or not nested:
        made["actor"] = [actor_of(draw(st.sampled_from(["reader", "reader", "other"])))]
    if draw(st.booleans()):
        made["class"] = classes(*sorted(draw(type_sets)))
    if draw(st.booleans()):
        made["securityLabel"] = marks(*sorted(draw(label_sets | st.just(frozenset({"N", "HIV"}))) or {"N"}))
    return made


@st.composite
def consents(draw: st.DrawFn) -> JSON:
    root = draw(provisions())
    if draw(st.booleans()):
        root["provision"] = draw(st.lists(provisions(nested=True), max_size=2))
    made = consent("k", "p", project=draw(st.sampled_from([None, "a", "b"])))
    return {**made, "provision": root}


def opening_of(given: list[JSON]) -> Opening:
    directives = [parse(each, f"Consent/{at}") for at, each in enumerate(given)]
    found = [each for each in directives if each is not None]
    return evaluate(found, organization="reader", purpose=None, now=NOW)


openings = st.lists(consents(), max_size=2).map(opening_of)
texts = label_sets.map(
    lambda codes: tuple(f"{mark['system']}|{mark['code']}" for mark in marks(*sorted(codes))) if codes else ()
)
facts_ = st.builds(
    Facts,
    custodian=st.just("hospital"),
    parties=st.sampled_from([(), ("reader",), ("other",)]),
    owners=st.lists(st.sampled_from((*PATIENTS, "stranger", "?")), max_size=3, unique=True).map(
        lambda o: tuple(sorted(o))
    ),
    labels=texts.map(lambda labels: tuple(sorted(labels))),
)


def naive(type_: str, facts: Facts, opened: dict[str, Opening], scopes: frozenset[str]) -> bool:
    """The sentence of the policy, word by word."""
    if type_ not in scopes:
        return False
    if type_ in DIRECTORY_TYPES and not facts.owners:
        return True
    if type_ == "Consent" and "reader" not in facts.parties:
        return False

    def opens(owner: str) -> bool:
        boxes = opened[owner].boxes if owner in opened else ()
        return any(box.holds(type_, facts.labels) for box in boxes)

    if type_ == "Person":
        return any(map(opens, facts.owners))
    return bool(facts.owners) and all(map(opens, facts.owners))


@given(
    st.fixed_dictionaries(dict.fromkeys(PATIENTS, openings)),
    st.sampled_from([RESOURCE_TYPES, frozenset({"Observation", "Person"}), frozenset[str]()]),
    st.lists(st.tuples(st.sampled_from(TYPES), facts_), min_size=1, max_size=20),
)
def test_a_grant_admits_exactly_what_every_patient_opens(
    opened: dict[str, Opening], scopes: frozenset[str], resources: list[tuple[str, Facts]]
) -> None:
    grant = consented_grant(PRINCIPAL, Types(scopes), opened, {})
    for type_, facts in resources:
        assert grant.visible.admits(type_, facts) == naive(type_, facts, opened, scopes), (type_, facts)


@given(st.fixed_dictionaries(dict.fromkeys(PATIENTS, openings)))
def test_equal_permissions_have_equal_digests_whatever_the_order(opened: dict[str, Opening]) -> None:
    backwards = dict(reversed(opened.items()))
    one = consented_grant(PRINCIPAL, Types(RESOURCE_TYPES), opened, {})
    other = consented_grant(PRINCIPAL, Types(RESOURCE_TYPES), backwards, {"p": 5})
    assert one.digest == other.digest
    assert (one.digest == consented_grant(PRINCIPAL, Types(RESOURCE_TYPES), {}, {}).digest) == (not one.patients)


@given(openings, st.lists(st.tuples(st.sampled_from(TYPES), texts), min_size=1, max_size=20))
def test_narrower_scopes_never_show_more(opened: Opening, resources: list[tuple[str, tuple[str, ...]]]) -> None:
    wide = consented_grant(PRINCIPAL, Types(RESOURCE_TYPES), {"p": opened}, {})
    narrow = consented_grant(PRINCIPAL, Types(frozenset({"Observation"})), {"p": opened}, {})
    for type_, labels in resources:
        facts = Facts(custodian="hospital", owners=("p",), labels=labels, parties=("reader",))
        assert wide.visible.admits(type_, facts) or not narrow.visible.admits(type_, facts)


boxes = st.builds(
    Box,
    st.frozensets(st.sampled_from(TYPES), min_size=1),
    st.frozensets(st.sampled_from(["a", "b", "c"])),
    st.none() | st.frozensets(st.sampled_from(["a", "b", "c"]), min_size=1),
    st.lists(st.frozensets(st.sampled_from(["x", "y", "z"]), min_size=1), max_size=2).map(
        lambda sets: both_kinds(tuple(sets))
    ),
)
unions = st.lists(boxes, max_size=3)
regions = st.builds(
    Region,
    st.none() | st.frozensets(st.sampled_from(TYPES)),
    st.none() | st.frozensets(st.sampled_from(["a", "b", "c"]), min_size=1),
    st.frozensets(st.sampled_from(["x", "y", "z"])),
)
points = st.tuples(
    st.sampled_from(TYPES),
    st.frozensets(st.sampled_from(["a", "b", "c"])),
    st.frozensets(st.sampled_from(["x", "y", "z"])),
)
Point = tuple[str, frozenset[str], frozenset[str]]


@given(boxes, boxes, points)
def test_a_meeting_never_holds_more_than_both(one: Box, other: Box, point: Point) -> None:
    both = meet(one, other)
    inside = both is not None and both.holds(*point)
    assert not inside or (one.holds(*point) and other.holds(*point))
    if one.having is None or other.having is None:
        assert inside == (one.holds(*point) and other.holds(*point))


@given(unions, regions, points)
def test_subtracting_leaves_exactly_the_rest(union: list[Box], region: Region, point: Point) -> None:
    type_, labels, kinds = point
    covered = (region.types is None or type_ in region.types) and (
        region.labels is None or not region.labels.isdisjoint(labels)
    )
    covered = covered and region.spared.isdisjoint(kinds)
    left = any(box.holds(*point) for box in less(union, region))
    assert left == (any(box.holds(*point) for box in union) and not covered)


@given(unions, unions, points)
def test_a_meeting_of_unions_is_inside_both(one: list[Box], other: list[Box], point: Point) -> None:
    if any(box.holds(*point) for box in meet_all(one, other)):
        assert any(box.holds(*point) for box in one)
        assert any(box.holds(*point) for box in other)


@given(unions, points)
def test_what_covers_a_box_holds_all_of_it(union: list[Box], point: Point) -> None:
    assert any(box.holds(*point) for box in tidy(union)) == any(box.holds(*point) for box in union)
