"""The keys by which the MongoDB store finds texts and spans: whatever a criterion holds for lies in its ranges."""

from __future__ import annotations

from math import inf

from hypothesis import example, given
from hypothesis import strategies as st

from fhirserver.core.criteria import Criterion, Span, Text, holds
from fhirserver.core.model import MAX_TIME, MIN_TIME, Index
from fhirserver.store.mongo.keys import TEXT_BOUND, after, keys, ordered, span_ranges, text_range

DAY = 86_400_000.0
numbers = st.one_of(
    st.floats(allow_nan=False),
    st.sampled_from([-inf, inf, float(MIN_TIME), float(MAX_TIME), 1.6e12, 1.6e12 + DAY, 1.6e12 + 366 * DAY, 0.0, -0.0]),
    st.floats(1.6e12, 1.6e12 + 400 * DAY),
)
pairs = st.tuples(numbers, numbers)
texts = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["a" * 60, "a" * 47 + "b" * 9, "\ud7ff"])
names = st.sampled_from(["Patient|name", "Patient|name=|mg", "n"])


def lies_in(index: Index, ranges: list[tuple[str, str]]) -> bool:
    """Compared as the database compares: byte by byte."""
    return any(first.encode() <= key.encode() < last.encode() for key in keys(index) for first, last in ranges)


def found_by(criterion: Criterion, index: Index) -> bool:
    match criterion:
        case Span(name, low, high):
            return lies_in(index, span_ranges(name, low, high))
        case Text(name, text, _):
            return lies_in(index, [text_range(name, text)])
        case _:
            raise AssertionError(criterion)


@given(st.lists(st.tuples(names, numbers, numbers), max_size=4), names, pairs, pairs)
@example([("n", 5.0, 1.0)], "n", (-inf, inf), (1.0, 1.0))
@example([("n", 1.6e12, 1.6e12 + DAY)], "n", (-inf, inf), (1.6e12 + DAY, inf))
def test_a_span_that_is_wanted_lies_in_the_ranges(
    spans: list[tuple[str, float, float]], name: str, low: tuple[float, float], high: tuple[float, float]
) -> None:
    index, criterion = Index(spans=tuple(spans)), Span(name, low, high)
    assert found_by(criterion, index) or not holds(criterion, index, 0)
    for each, first, last in spans:  # and one that surely holds
        exact = Span(each, (first, inf), (-inf, last))
        assert found_by(exact, index) or not holds(exact, index, 0)


@given(st.lists(st.tuples(names, texts), max_size=4), names, texts)
def test_a_text_that_is_wanted_lies_in_the_range(spans: list[tuple[str, str]], name: str, text: str) -> None:
    index = Index(texts=tuple(spans))
    for criterion in (Text(name, text), *(Text(each, value[:at]) for each, value in spans for at in (0, 1, 50))):
        assert found_by(criterion, index) or not holds(criterion, index, 0)


@given(st.lists(numbers, min_size=2))
def test_numbers_keep_their_order(some: list[float]) -> None:
    assert [ordered(each) for each in sorted(some)] == sorted(ordered(each) for each in some)
    assert len({len(ordered(each)) for each in some}) == 1


@given(texts, texts)
def test_what_begins_with_a_text_lies_before_the_one_after_it(text: str, more: str) -> None:
    end = after(text)
    if end is None:
        assert set(text) <= {"\U0010ffff"}
    else:
        assert (text + more).encode() < end.encode()


def test_a_bound_that_is_far_off_excludes() -> None:
    """Keys are coarse, not idle."""
    june = Index(spans=(("date", 1.6e12, 1.6e12 + 999), ("value", 5.0, 5.0)), texts=(("name", "smith"),))
    assert not found_by(Span("date", high=(1.6e12 + 2 * DAY, inf)), june)
    assert not found_by(Span("date", low=(-inf, 1.6e12 - 1000)), june)
    assert not found_by(Span("value", (5.001, inf)), june)
    assert not found_by(Text("name", "smo"), june)
    assert not found_by(Text("birthplace", "smi"), june)
    assert span_ranges("value", (1, 2), (3, 1)) == []


def test_keys_are_short_and_a_unit_adds_none() -> None:
    names = ("value", "value=|mg", "value=http://unitsofmeasure.org|mg")
    index = Index(spans=tuple((name, 5.0, 5.0) for name in names), texts=(("name", "x" * 1000),))
    assert [len(key) for key in keys(index)] == [7 + TEXT_BOUND, 7 + 1 + 8]
    assert found_by(Span("value=|mg", (4, 6)), index)
    assert len(keys(Index(spans=(("q=1", 5.0, 5.0), ("q=2", 5.0, 5.0))))) == 2
