"""What a criterion means of packed entries: `core.criteria.holds` over ids and hashes, compiled once per query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fhirserver.core.criteria import UNBOUNDED, AllOf, AnyOf, Criterion, Has, Not, Present, Span, Text, Written
from fhirserver.store.sqlite.codec import Entries, hash_term

Test = Callable[[int, Entries], bool]
"""Whether the version with this seq and these entries meets a criterion."""
Find = Callable[[str], int | None]
"""The id of a name, None when no entry has it."""
Seqs = Callable[[Written], tuple[int, int]]
"""``after < seq <= upto`` of what was written then."""

NEVER, ALWAYS = Has(()), AllOf(())
FEW = 64
"""So many terms are probed for one by one; more are looked for in the packed entries."""


def simple(criterion: Criterion, find: Find) -> Criterion:
    """The same in fewer words: terms of an alternative together, `Not` only before what has entries of its own, names
    that no entry has gone. `NEVER` and `ALWAYS` stand nowhere but alone."""
    match criterion:
        case Not(Not(of)):
            return simple(of, find)
        case Not(AnyOf(of)):
            return simple(AllOf(tuple(Not(each) for each in of)), find)
        case Not(AllOf(of)):
            return simple(AnyOf(tuple(Not(each) for each in of)), find)
        case Not(of):
            inner = simple(of, find)
            return ALWAYS if inner == NEVER else Not(inner)
        case AnyOf(of):
            return _any_of([simple(each, find) for each in of])
        case AllOf(of):
            return all_of([simple(each, find) for each in of])
        case Text(name, _, _) | Span(name, _, _) | Present(name):
            return NEVER if find(name) is None else criterion
        case _:
            return criterion


def _any_of(of: Sequence[Criterion]) -> Criterion:
    flat = [each for one in of for each in (one.of if isinstance(one, AnyOf) else (one,))]
    if ALWAYS in flat:
        return ALWAYS
    terms = [term for each in flat if isinstance(each, Has) for term in each.terms]
    kept: list[Criterion] = [Has(tuple(dict.fromkeys(terms)))] if terms else []
    kept += [each for each in flat if not isinstance(each, Has)]
    return kept[0] if len(kept) == 1 else AnyOf(tuple(kept)) if kept else NEVER


def all_of(of: Iterable[Criterion]) -> Criterion:
    """The conjunction of what is `simple`."""
    flat = [each for one in of for each in (one.of if isinstance(one, AllOf) else (one,))]
    if NEVER in flat:
        return NEVER
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat))


def quick(criterion: Criterion) -> bool:
    """Whether the index gives what meets it, and little else."""
    match criterion:
        case Has(terms):
            return len(terms) <= FEW
        case Text(_, text, "starts"):
            return bool(text)
        case Span(_, low, high):
            return low != UNBOUNDED or high != UNBOUNDED
        case AnyOf(of):
            return all(map(quick, of))
        case AllOf(of):
            return any(map(quick, of))
        case _:
            return False


def compiled(criterion: Criterion, find: Find, seqs: Seqs) -> Test:
    """The test of a criterion."""
    match criterion:
        case Has(terms):
            return _has(terms)
        case Text(name, text, how):
            return _text(find(name), text, how)
        case Span(name, low, high):
            return _span(find(name), low, high)
        case Present(code):
            number = find(code)
            return lambda _, entries: number in entries.present
        case Written():
            after, upto = seqs(criterion)
            return lambda seq, _: after < seq <= upto
        case Not(of):
            test = compiled(of, find, seqs)
            return lambda seq, entries: not test(seq, entries)
        case AnyOf(of):
            some = [compiled(each, find, seqs) for each in of]
            return lambda seq, entries: any(test(seq, entries) for test in some)
        case AllOf(of):
            every = [compiled(each, find, seqs) for each in of]
            return lambda seq, entries: all(test(seq, entries) for test in every)


def _has(terms: tuple[str, ...]) -> Test:
    if len(terms) == 1:
        raw = hash_term(terms[0]).raw
        return lambda _, entries: raw in entries.terms
    numbers = frozenset(hash_term(term).number for term in terms)
    return lambda _, entries: not numbers.isdisjoint(entries.hashes())


def _text(name: int | None, text: str, how: str) -> Test:
    if how == "starts":
        return lambda _, entries: any(each == name and value.startswith(text) for each, value in entries.texts)
    return lambda _, entries: any(each == name and text in value for each, value in entries.texts)


def _span(name: int | None, low: tuple[float, float], high: tuple[float, float]) -> Test:
    (least_low, most_low), (least_high, most_high) = low, high
    return lambda _, entries: any(
        each == name and least_low <= first <= most_low and least_high <= last <= most_high
        for each, first, last in entries.spans
    )
