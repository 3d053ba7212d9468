"""Say what each reference of the input stands for: inside the input first, then in the store.

Between the passes `settle` looks up every condition once, in batches; in the second pass `Resolver` answers from
the scratch tables without touching the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fhirserver.core import definitions
from fhirserver.core.model import Query, parse_facts
from ingest.identify import Condition, Refused, identifiers, parse_condition, renamed, skim
from ingest.scratch import Scratch, Target

if TYPE_CHECKING:
    from fhirserver.policy.gate import Scoped

BATCH = 200
"""Conditions looked up in the store at a time."""
SHOWN = 100
"""Different unresolved references that the report names."""
_KEPT = 50_000
_LOCAL = re.compile(r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})((?:/_history/[A-Za-z0-9\-.]{1,64})?(?:#.*)?)").fullmatch
_BASE = re.compile(r"(.*?)((?:/_history/[A-Za-z0-9\-.]{1,64})?(?:#.*)?)", re.DOTALL).fullmatch


async def settle(scratch: Scratch, scoped: Scoped, directory: Iterable[str]) -> None:
    """Decide all conditions that the first pass has met.

    An entry's condition is met by a resource of the input that is stored in any case, else by one of the store,
    else by the first entry that has it. A reference's is met by exactly one resource of the input, else by
    exactly one of the store: of the same custodian, or in the shared directory.
    """
    shared = frozenset(directory)
    for batch in scratch.open_conditions(claimed=True, batch=BATCH):
        inside = {condition: scratch.matching(condition, claims=False) for condition in batch}
        found = await _stored(scoped, [condition for condition in batch if not inside[condition]], shared)
        for condition in batch:
            place, own = scratch.first_claim(condition)
            if inside[condition]:
                target, winner = Target(condition.type, inside[condition][0]), None
            elif len(ids := found[condition]):
                target, winner = Target(condition.type, ids[0], stored=True, several=len(ids) > 1), None
            else:
                target, winner = Target(condition.type, own), place
            scratch.decide(condition, claimed=True, target=target, winner=winner)
    scratch.alias()
    for batch in scratch.open_conditions(claimed=False, batch=BATCH):
        within = {
            condition: {scratch.follow(Target(condition.type, id_)) for id_ in scratch.matching(condition, claims=True)}
            for condition in batch
        }
        found = await _stored(scoped, [condition for condition in batch if not within[condition]], shared)
        for condition in batch:
            options = within[condition] or {Target(condition.type, id_, stored=True) for id_ in found[condition]}
            if options:
                target = next(iter(options))._replace(several=len(options) > 1)
                scratch.decide(condition, claimed=False, target=target)
            else:
                scratch.decide(condition, claimed=False, target=Target(condition.type, ""))


async def _stored(scoped: Scoped, conditions: list[Condition], shared: frozenset[str]) -> dict[Condition, list[str]]:
    """The ids in the store that meet each condition (all of one type): the custodian's own, else the directory's."""
    own: dict[Condition, list[str]] = {condition: [] for condition in conditions}
    others: dict[Condition, list[str]] = {condition: [] for condition in conditions}
    if not conditions:
        return {condition: [] for condition in own}
    type_ = conditions[0].type
    query = Query(types=frozenset({type_}), terms=(tuple(condition.term for condition in conditions),))
    async for records in scoped.scan(query):
        for record in records:
            mine = parse_facts(record.facts).custodian == scoped.principal.organization
            if not mine and type_ not in shared:
                continue
            body = await scoped.whole(record)
            for token in _tokens(body):
                condition = Condition(type_, token)
                if condition in own:
                    (own if mine else others)[condition].append(record.id)
    return {condition: own[condition] or others[condition] for condition in conditions}


def _tokens(body: bytes) -> set[str]:
    """The forms in which a search can ask for one of the resource's identifiers."""
    try:
        found = identifiers(skim(body))
    except Refused:
        return set()
    tokens: set[str] = set()
    for identifier in found:
        if identifier.value:
            tokens |= {identifier.value, f"{identifier.system or ''}|{identifier.value}"}
    return tokens


class Resolver:
    """Answers for one Bundle after another; counts what stays unresolved."""

    def __init__(self, scratch: Scratch, organization: str | None) -> None:
        """``organization``: ids become its own (``--namespace``); None: they stay."""
        self._scratch = scratch
        self._organization = organization
        self._bundle = 0
        self._known: dict[str, str | None] = {}
        self.unresolved = 0
        self.shown: dict[str, int] = {}

    def enter(self, bundle: int) -> None:
        """What follows belongs to this Bundle (0: to none)."""
        if bundle != self._bundle:
            self._bundle = bundle
            self._known.clear()

    def final(self, target: Target) -> str:
        """The id that a target has in the store."""
        if self._organization is None or target.stored:
            return target.id
        return renamed(self._organization, target.type, target.id)

    def reference(self, text: str) -> str | None:
        """The new text of a `Reference.reference`, or None where it stays."""
        try:
            new = self._known[text]
        except KeyError:
            if len(self._known) > _KEPT:
                self._known.clear()
            new = self._known[text] = self._reference(text)
        if new == "":
            self._miss(text)
            return None
        return new

    def uri(self, text: str) -> str | None:
        """The same for a uri: only what names a resource of the input, and nothing is counted."""
        if local := _LOCAL(text):
            return self.reference(text) if local[1] == "Binary" else None
        if not text.startswith("urn:" if not self._scratch.binaries else ("urn:", "http")):
            return None
        target = self._scratch.target_of_name(self._bundle, text)
        if target is None or not target.id or (text.startswith("http") and target.type != "Binary"):
            return None
        return f"{target.type}/{self.final(target)}"

    def relinks(self, raw: bytes) -> bool:
        """Whether a resource may hold uris that `uri` would change (a quick look)."""
        scratch = self._scratch
        return (
            (scratch.urns and b"urn:" in raw)
            or (scratch.binaries and b"http" in raw and b'"url"' in raw)
            or (self._organization is not None and b"Binary/" in raw)
        )

    def _reference(self, text: str) -> str | None:
        """As `reference`; ``""`` means that it cannot be resolved though it should."""
        if not text or text[0] == "#":
            return None
        if local := _LOCAL(text):
            return self._local(local[1], local[2], local[3])
        if condition := parse_condition(text):
            target = self._scratch.target_of_condition(condition)
            return f"{condition.type}/{self.final(target)}" if target is not None and target.id else ""
        if text.startswith(("urn:", "http://", "https://")):
            parts = _BASE(text)
            base, rest = (parts[1], parts[2]) if parts else (text, "")
            target = self._scratch.target_of_name(self._bundle, base)
            if target is not None and target.id:
                return f"{target.type}/{self.final(target)}{rest}"
            # An absolute URL may well lead to another server; a urn that nothing here carries leads nowhere.
            return "" if text.startswith("urn:") or target is not None else None
        return "" if "?" in text else None

    def _local(self, type_: str, id_: str, rest: str) -> str | None:
        if type_ not in definitions.RESOURCE_TYPES:
            return None
        target = self._scratch.other_name(self._bundle, f"{type_}/{id_}") if self._bundle else None
        if target is None:
            target = self._scratch.follow(Target(type_, id_))
        new = f"{type_}/{self.final(target)}{rest}"
        return None if new == f"{type_}/{id_}{rest}" else new

    def _miss(self, text: str) -> None:
        """Count it; the report shows its kind but never a value (it may identify a person)."""
        self.unresolved += 1
        kind = "urn" if text.startswith("urn:") else "absolute URL" if text.startswith("http") else ""
        if not kind:
            path, _, query = text.partition("?")
            name, _, value = query.partition("=")
            system = value.rpartition("|")[0]
            kind = f"{path}?{name}={system + '|' if system else ''}…"
        if kind in self.shown or len(self.shown) < SHOWN:
            self.shown[kind] = self.shown.get(kind, 0) + 1
