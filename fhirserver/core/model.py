"""The few values every layer speaks of: keys, facts, drafts, records, queries and what a grant makes visible."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from fhirserver.core.criteria import Criterion

CURRENT = 2**62
"""``ended`` of a version that nothing has superseded; larger than any seq."""


class Key(NamedTuple):
    """One resource's identity, ``Type/id``."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"

    @classmethod
    def parse(cls, reference: str) -> Key:
        """``"Patient/1"`` as a Key; the caller knows that the text has that form."""
        kind, _, name = reference.partition("/")
        return cls(kind, name)


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What access is decided by; every list sorted, so that equal facts have equal text.

    ``owners`` are the ids of the patients the resource is about, ``compartments`` those of the patients in
    whose chart it stands (a superset in spirit, not by rule). ``labels`` are ``system|code``: of `meta.security`, and
    those that the server derives (`policy.labelling`).
    ``kinds`` are the categories, of types that scopes may be limited by (`data/kinds.json`), in the forms of token
    terms: ``system|code`` and ``code``. None begins with `FINDING`: what does has been added by a reader.
    """

    custodian: str
    parties: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    compartments: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The canonical text that a store keeps once for the many records that share it."""
        return _encode_facts(self)


@lru_cache(maxsize=4096)
def _encode_facts(facts: Facts) -> str:
    text = msgspec.json.encode(facts).decode()
    # No kinds are left out: so it was written before there were any, and versions of then are still there.
    return text if facts.kinds else text.removesuffix(",[]]") + "]"


@lru_cache(maxsize=16384)
def parse_facts(text: str) -> Facts:
    """The Facts behind a canonical text (`Facts.text`)."""
    return msgspec.json.decode(text, type=Facts)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `core.index` derives from one resource's content; all lists sorted and without repetition.

    * ``references``: local targets as ``Type/id``.
    * ``supports``: those of them whose type can be a supporting resource of a chart (directory types, Device,
      Binary), for the closure of `$everything`.
    * ``care``: the care period as (first, last) milliseconds since 1970, either end may be unbounded
      (`MIN_TIME`, `MAX_TIME`); None for undated resources.
    * ``kinds``: as in `Facts`.
    * ``terms``: ``Type|param=value`` for exact search (tokens in the forms ``system|code``, ``|code`` for no
      system, and ``code`` alone for any; references as ``Type/id``; uris).
    * ``texts``: (``Type|param``, normalised string) for prefix search.
    * ``spans``: (``Type|param``, low, high) for dates (milliseconds), numbers and quantities.
    * ``sorts``: (``Type|param``, scalar) for ordered search.
    * ``labels``: ``system|code`` of `meta.security`; ``topics``: the restricted topics that its codings say
      (`core.sensitive`). Both decide access by way of `Facts.labels`, and are no index entries.
    * ``present``: codes of the parameters that the resource has a value for, whether or not that made an entry.
    """

    compartments: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    parties: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    care: tuple[int, int] | None = None
    terms: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    spans: tuple[tuple[str, float, float], ...] = ()
    sorts: tuple[tuple[str, str | float], ...] = ()
    present: tuple[str, ...] = ()


MIN_TIME = -62_135_596_800_000
"""0001-01-01 in milliseconds since 1970: the open start of a period."""
MAX_TIME = 253_402_300_799_999
"""The last millisecond of 9999: the open end of a period."""

FINDING = "~"
"""How those of `Facts.kinds` begin that do not come from the content (`policy.findings`); no store holds any."""

REFERENCE_TERM = "*reference="
"""Prefix of the term by which a store finds what refers to a resource: ``*reference=Practitioner/1``."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """One version to be committed.

    The stored body is ``head + '"versionId":"n","lastUpdated":"…"' + tail`` (see `core.stamp`), so a commit
    stamps by joining bytes. A tombstone has ``deleted=True`` and no index entries.

    ``if_version``: the version that must be current now (0: the resource must not exist or be deleted);
    None: whatever is there is superseded.
    """

    key: Key
    head: bytes
    tail: bytes
    facts: Facts
    index: Index
    if_version: int | None = None
    deleted: bool = False


class Record(msgspec.Struct, frozen=True, gc=False):
    """One stored version.

    ``updated`` is in milliseconds since 1970. ``body`` is the JSON exactly as served; None when it was not asked
    for (`Query.bodies`) or is kept out of line, then ``size`` says how many bytes `Store.body` will give.
    ``facts`` is `Facts.text`; ``supports`` is `Index.supports` joined by blanks. ``digest`` is the hash of the
    unstamped content, equal for equal content. ``sorts``: the sort keys that `Query.sorts` asked for, in its order,
    None where the resource has none.
    """

    type: str
    id: str
    version: int
    seq: int
    ended: int
    updated: int
    deleted: bool
    facts: str
    supports: str
    digest: bytes
    size: int
    body: bytes | None
    sorts: tuple[str | float | None, ...] = ()

    @property
    def key(self) -> Key:
        return Key(self.type, self.id)


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """One way to be visible: every condition that is given holds.

    ``organization``: it is the custodian, or among the parties. ``custodian``: it is the custodian.
    ``party``: it is among the parties. ``owners``: the resource has owners, and all of them are in the set.
    ``any_owner``: at least one of its owners is in the set (a Person is open if one linked Patient is).
    ``unowned``: it has none. ``without``: it carries none of these labels. ``having``: it carries one of these.
    ``kinds``: of each of these sets it has one.
    An empty ``types``, ``owners`` or ``having`` set, or one among ``kinds``, matches nothing.
    """

    types: frozenset[str] | None = None
    not_types: frozenset[str] = frozenset()
    organization: str | None = None
    custodian: str | None = None
    party: str | None = None
    owners: frozenset[str] | None = None
    any_owner: frozenset[str] | None = None
    unowned: bool = False
    without: frozenset[str] = frozenset()
    having: frozenset[str] | None = None
    kinds: tuple[frozenset[str], ...] = ()

    def admits(self, type_: str, facts: Facts) -> bool:
        """Whether a resource of this type with these facts meets every condition."""
        return (
            (self.types is None or type_ in self.types)
            and type_ not in self.not_types
            and (
                self.organization is None or self.organization == facts.custodian or self.organization in facts.parties
            )
            and (self.custodian is None or self.custodian == facts.custodian)
            and (self.party is None or self.party in facts.parties)
            and (self.owners is None or (bool(facts.owners) and self.owners.issuperset(facts.owners)))
            and (self.any_owner is None or not self.any_owner.isdisjoint(facts.owners))
            and not (self.unowned and facts.owners)
            and self.without.isdisjoint(facts.labels)
            and (self.having is None or not self.having.isdisjoint(facts.labels))
            and not any(one.isdisjoint(facts.kinds) for one in self.kinds)
        )


class Visible(msgspec.Struct, frozen=True):
    """What a grant lets see, as closed data that a store can evaluate: any clause suffices; none: nothing."""

    clauses: tuple[Clause, ...] = ()

    def admits(self, type_: str, facts: Facts) -> bool:
        """Whether any clause admits the resource."""
        return any(clause.admits(type_, facts) for clause in self.clauses)


EVERYTHING = Visible((Clause(),))
"""The whole store: for system work under an explicit grant, never a default of a request."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A closed, store-neutral question; the answer is always in ``seq`` order and never holds tombstones.

    * ``types`` / ``not_types``: resource types; an empty ``types`` matches nothing.
    * ``keys``: only these resources; ``()`` matches nothing.
    * ``within``: id of the Patient in whose compartment the resource stands. ``beyond``: and in the compartment
      of none of these.
    * ``terms``: for each group, the resource has at least one of its terms; an empty group matches nothing.
      References to a resource are found by ``REFERENCE_TERM + "Type/id"``.
    * ``criteria``: every one holds (`core.criteria.holds`).
    * ``updated_from``: ``updated >=`` this many milliseconds.
    * ``care``: the care period overlaps (first, last) milliseconds, or there is none.
    * ``visible``: what the caller's grant admits, applied before any limit.
    * ``other_than``: the custodian is not this one (for guards).
    * ``as_of``: the state right after this seq; None: the latest at each read.
    * ``departed_since``: instead of members, the last versions of resources that were in the chart
      (``within``) at this seq and no longer are at ``as_of``; their order is by seq, too.
    * ``after``: only ``seq`` greater than this. ``limit``: at most this many.
    * ``bodies``: False leaves ``body`` None, which reads far less. ``sorts``: names whose sort keys are wanted with
      each record.
    """

    types: frozenset[str] | None = None
    not_types: frozenset[str] = frozenset()
    keys: tuple[Key, ...] | None = None
    within: str | None = None
    beyond: tuple[str, ...] = ()
    terms: tuple[tuple[str, ...], ...] = ()
    criteria: tuple[Criterion, ...] = ()
    updated_from: int | None = None
    care: tuple[int, int] | None = None
    visible: Visible = EVERYTHING
    other_than: str | None = None
    as_of: int | None = None
    departed_since: int | None = None
    after: int = 0
    limit: int | None = None
    bodies: bool = True
    sorts: tuple[str, ...] = ()


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A closed, store-neutral question about versions, superseded ones and tombstones included; the answer is newest
    first, that is, in descending ``seq`` order.

    * ``key``: only this resource. ``types``: only these resource types; an empty set matches nothing.
    * ``visible``: what the caller's grant admits, applied before any limit: to the version's own facts and to those of
      the version that is current at ``as_of``, so that no old version shows what the current one hides. A tombstone
      has the facts of what it deleted.
    * ``as_of``: the versions up to this seq, and what is current right after it; None: the latest at the first read.
    * ``after``, ``before``: only ``seq`` greater and less than these.
    * ``standing_after``: only versions that nothing had superseded right after this seq, or that came later; of
      tombstones only those that came later, since nothing is current where one stands.
    * ``limit``: at most this many. ``bodies``: False leaves ``body`` None, which reads far less.
    """

    key: Key | None = None
    types: frozenset[str] | None = None
    visible: Visible = EVERYTHING
    as_of: int | None = None
    after: int = 0
    before: int | None = None
    standing_after: int | None = None
    limit: int | None = None
    bodies: bool = True


class Guard(msgspec.Struct, frozen=True):
    """A query with the count it must have inside the serialised commit; ``reason`` is told when it has not."""

    query: Query
    count: int
    reason: str


class Tally(msgspec.Struct, frozen=True):
    """How many resources of one type share these facts and supporting references."""

    type: str
    facts: str
    supports: str
    count: int


class HighWater(NamedTuple):
    """The last seq below which everything is visible, and the store's clock (milliseconds since 1970)."""

    seq: int
    time: int


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the append-only audit trail; an outcome names the intent it closes in ``intent``."""

    id: str
    at: int
    organization: str
    subject: str
    interaction: str
    outcome: str
    intent: str | None = None
    patients: tuple[str, ...] = ()
    detail: dict[str, str | int | bool | list[str]] = {}


class LedgerEntry(NamedTuple):
    """A small non-FHIR value with the stamp that `Ledger.put_if` compares."""

    value: bytes
    stamp: int
