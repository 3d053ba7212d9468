# ruff: noqa: S608 - every statement is our own text; values are bound
"""Applying a commit inside the writer's transaction: guards, versions, rows (the caller's savepoint undoes it)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from fhirserver.core.errors import Conflict
from fhirserver.core.model import CURRENT, Draft, Facts, Guard, Index, Record
from fhirserver.core.stamp import digest, instant, render
from fhirserver.store.bodies import STAMP_PART, stamp_part
from fhirserver.store.drafts import all_terms, check_version
from fhirserver.store.sqlite import totals
from fhirserver.store.sqlite.asked import high_water
from fhirserver.store.sqlite.codec import Entries, Meta, hash_term, joined, pack, unpack_metas
from fhirserver.store.sqlite.intern import Interner, Texts, delete_rows, insert_rows
from fhirserver.store.sqlite.read import entries_of
from fhirserver.store.sqlite.schema import REGION_BITS
from fhirserver.store.widths import width_class

INDEX_TABLES = ("chart", "terms", "texts", "spans")
"""Rows of current versions; deleted when one is superseded."""


class Prepared(NamedTuple):
    """A draft with everything that can be worked out before the serialised section."""

    draft: Draft
    facts: str
    supports: str
    terms: tuple[int, ...]
    digest: bytes
    blob: int


def prepare(draft: Draft, blob: int = 0) -> Prepared:
    """``blob``: id of the staged chunks when the body is kept out of line."""
    index = draft.index
    return Prepared(
        draft,
        draft.facts.text,
        " ".join(index.supports),
        term_numbers(index),
        digest(draft.head, draft.tail),
        blob,
    )


def term_numbers(index: Index) -> tuple[int, ...]:
    """The hashes of a resource's terms, the terms of its references included."""
    return tuple(sorted({hash_term(text).number for text in all_terms(index)}))


class Transaction:
    """The one writer's open transaction: numbers, time and interned texts; a savepoint can be gone back to."""

    def __init__(self, connection: sqlite3.Connection, interner: Interner, now: int) -> None:
        self.connection = connection
        self.interner = interner
        mark = high_water(connection)
        self.last = mark.seq
        # Every timestamp that was told to anybody is at most the time of an audit row, so `_since` = a timestamp stays
        # true when the clock steps back between two runs of the server.
        told = connection.execute("SELECT max(at) FROM audit").fetchone()[0]
        self.now = max(now, mark.time, told or 0)

    def commit(self, drafts: Sequence[Prepared], guards: Sequence[Guard]) -> list[Record]:
        """Check everything, then store the drafts as new versions."""
        for guard in guards:
            # A cache of its own: what this transaction interned may be rolled back, and its ids given away again.
            if totals.count(self.connection, Texts(), guard.query) != guard.count:
                raise Conflict(guard.reason)
        if not drafts:
            return []
        types = self.interner.ids(self.connection, "types", [one.draft.key.type for one in drafts])
        present = self._present([(types[one.draft.key.type], one.draft.key.id) for one in drafts])
        replaced: list[tuple[Meta, int]] = []
        versions: list[int] = []
        for seq, one in enumerate(drafts, self.last + 1):
            meta = present.get((types[one.draft.key.type], one.draft.key.id))
            check_version(one.draft, 0 if meta is None or meta[6] else meta[2])
            versions.append(meta[2] + 1 if meta else 1)
            if meta is not None:
                replaced.append((meta, seq))
        if replaced:
            self._supersede(replaced)
        records = self._insert(drafts, versions)
        first, self.last = self.last + 1, self.last + len(drafts)
        self.connection.execute("INSERT INTO commits VALUES (?, ?, ?)", (self.last, first, self.now))
        return records

    def _present(self, keys: Sequence[tuple[int, str]]) -> dict[tuple[int, str], Meta]:
        found: dict[tuple[int, str], Meta] = {}
        for at in range(0, len(keys), 512):
            part = keys[at : at + 512]
            rows = ",".join(["(?,?)"] * len(part))
            count, packed = self.connection.execute(
                f"SELECT count(*), CAST(group_concat(c.meta, '') AS BLOB) FROM (VALUES {rows}) k "
                "CROSS JOIN current c ON c.type = k.column1 AND c.id = k.column2",
                list(chain.from_iterable(part)),
            ).fetchone()
            if count:
                found.update(((meta[0], meta[1]), meta) for meta in unpack_metas(count, packed))
        return found

    def _supersede(self, replaced: Sequence[tuple[Meta, int]]) -> None:
        """Move versions to history and take their search rows away."""
        self.unindex([(meta[3], ended) for meta, ended in replaced], keep=True)
        for at in range(0, len(replaced), 256):
            part = replaced[at : at + 256]
            rows = ",".join(["(?,?,?)"] * len(part))
            values = [(meta[3], ended, pack((*meta[:4], ended, *meta[5:]))) for meta, ended in part]
            self.connection.execute(
                "INSERT INTO history SELECT c.seq, m.column2, c.type, c.id, c.version, c.deleted, c.facts, "
                f"c.supports, c.care_lo, c.care_hi, c.size, c.blob, m.column3, c.body FROM (VALUES {rows}) m "
                "CROSS JOIN current c ON c.seq = m.column1",
                list(chain.from_iterable(values)),
            )
        delete_rows(self.connection, "current", [(meta[3],) for meta, _ in replaced])

    def unindex(self, seqs: Sequence[tuple[int, int]], *, keep: bool) -> None:
        """Delete the index rows of (seq, ended) versions; ``keep``: their packed entries and chart stay as history."""
        ended = dict(seqs)
        rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in INDEX_TABLES}
        past: list[tuple[int, int, int]] = []
        seen: set[int] = set()
        for seq, entries in entries_of(self.connection, ended):
            seen.add(seq)
            rows["chart"] += [(compartment, seq) for compartment in entries.compartments]
            past += [(compartment, ended[seq], seq) for compartment in entries.compartments]
            region = seq >> REGION_BITS
            rows["terms"] += [(region, number, seq) for number in entries.hashes()]
            rows["texts"] += [(region, *text, seq) for text in entries.texts]
            rows["spans"] += [(region, *span_row(span), seq) for span in entries.spans]
        for table, values in rows.items():
            delete_rows(self.connection, table, values)
        if keep:
            insert_rows(self.connection, "chart_past", 3, past)
        else:
            if lost := ended.keys() - seen:  # damage, to be mended: what was written is looked for in whole tables
                for table in INDEX_TABLES:
                    array = "SELECT value FROM json_each(?)"
                    self.connection.execute(f"DELETE FROM {table} WHERE seq IN ({array})", (joined(lost),))
            delete_rows(self.connection, "entries", [(seq,) for seq, _ in seqs])

    def _insert(self, drafts: Sequence[Prepared], versions: Sequence[int]) -> list[Record]:
        """New current versions with all their rows; seqs follow the drafts' order."""
        now = self.now
        stamp = instant(now)
        ids = _Ids(self, [(one.draft.facts, one.draft.index) for one in drafts])
        facts = self.interner.ids(self.connection, "facts", [one.facts for one in drafts])
        supports = self.interner.ids(self.connection, "supports", [one.supports for one in drafts if one.supports])
        rows: list[tuple[object, ...]] = []
        records: list[Record] = []
        indexed = _Rows()
        published: list[tuple[int, int]] = []
        for seq, version, one in zip(range(self.last + 1, self.last + 1 + len(drafts)), versions, drafts, strict=True):
            draft = one.draft
            key, index, deleted = draft.key, draft.index, draft.deleted
            body = b"" if deleted else render(draft.head, draft.tail, version, now)
            size, type_ = len(body), ids.types[key.type]
            fact, support = facts[one.facts], supports[one.supports] if one.supports else 0
            lo, hi = index.care or (None, None)
            meta = pack((type_, key.id, version, seq, CURRENT, now, deleted, fact, support, one.digest, size, one.blob))
            rows.append(
                (seq, type_, key.id, version, deleted, fact, support, lo, hi, size, one.blob, meta,
                 None if one.blob else body)
            )  # fmt: skip
            if one.blob:
                published.append((one.blob, version))
            if not deleted:
                indexed.add(seq, ids.entries(draft.facts, index, one.terms), (type_, fact, support, lo, hi, size))
            texts = (one.facts, one.supports)
            records.append(
                Record(key.type, key.id, version, seq, CURRENT, now, deleted, *texts, one.digest, size, body)
            )
        insert_rows(self.connection, "current", 13, rows)
        indexed.insert(self.connection)
        for blob, version in published:
            data = stamp_part(version, stamp)
            self.connection.execute("UPDATE blobs SET staged = NULL WHERE id = ?", (blob,))
            self.connection.execute("INSERT INTO chunks VALUES (?, ?, ?)", (blob, STAMP_PART, data))
        return records

    def drop_strays(self) -> None:
        """Delete index rows that belong to no current version: damage that `reindex` of each version would leave."""
        for table in INDEX_TABLES:
            self.connection.execute(f"DELETE FROM {table} WHERE seq NOT IN (SELECT seq FROM current WHERE deleted = 0)")

    def reindex(self, items: Sequence[tuple[Record, Facts, Index]]) -> None:
        """Replace facts and index rows of versions that are still current."""
        types = self.interner.ids(self.connection, "types", [record.type for record, _, _ in items])
        present = self._present([(types[record.type], record.id) for record, _, _ in items])
        still = {meta[3]: meta for meta in present.values()}
        wanted = [item for item in items if item[0].seq in still and not item[0].deleted]
        if not wanted:
            return
        self.unindex([(record.seq, 0) for record, _, _ in wanted], keep=False)
        ids = _Ids(self, [(facts, index) for _, facts, index in wanted])
        known = self.interner.ids(self.connection, "facts", [facts.text for _, facts, _ in wanted])
        texts = [" ".join(index.supports) for _, _, index in wanted]
        supports = self.interner.ids(self.connection, "supports", [text for text in texts if text])
        indexed = _Rows()
        for (record, facts, index), text in zip(wanted, texts, strict=True):
            old = still[record.seq]
            fact, support = known[facts.text], supports[text] if text else 0
            lo, hi = index.care or (None, None)
            indexed.add(
                record.seq, ids.entries(facts, index, term_numbers(index)), (old[0], fact, support, lo, hi, record.size)
            )
            self.connection.execute(
                "UPDATE current SET facts = ?, supports = ?, care_lo = ?, care_hi = ?, meta = ? WHERE seq = ?",
                (fact, support, lo, hi, pack((*old[:7], fact, support, *old[9:])), record.seq),
            )
        indexed.insert(self.connection)


class _Ids:
    """Ids of all names that some drafts need, interned together."""

    def __init__(self, transaction: Transaction, items: Sequence[tuple[Facts, Index]]) -> None:
        names: set[str] = set()
        for facts, index in items:
            names.update(facts.compartments, index.present)
            for entries in (index.texts, index.spans, index.sorts):
                names.update([entry[0] for entry in entries])
        connection, interner = transaction.connection, transaction.interner
        self.types = interner.ids(connection, "types", ())
        self._names = interner.ids(connection, "names", sorted(names))

    def entries(self, facts: Facts, index: Index, terms: Sequence[int]) -> Entries:
        return make_entries(self._names, facts, index, terms)


def make_entries(names: dict[str, int], facts: Facts, index: Index, terms: Sequence[int]) -> Entries:
    """The packed index rows; KeyError if a name has no id (`verify` meets that)."""
    return Entries(
        tuple([names[patient] for patient in facts.compartments]),
        b"".join([number.to_bytes(8, "big", signed=True) for number in terms]),
        tuple({(names[name], text): None for name, text in index.texts}),
        tuple({(names[name], float(lo), float(hi)): None for name, lo, hi in index.spans}),
        tuple({(names[name], value if isinstance(value, str) else float(value)): None for name, value in index.sorts}),
        tuple([names[code] for code in index.present]),
    )


def span_row(span: tuple[int, float, float]) -> tuple[int, int, float, float]:
    """(name, width, lo, hi) of a packed span."""
    name, low, high = span
    return name, width_class(low, high), low, high


class _Rows:
    """Index rows of many versions, collected per table and inserted in key order."""

    def __init__(self) -> None:
        self._chart: list[tuple[object, ...]] = []
        self._terms: list[tuple[int, int, int]] = []
        self._texts: list[tuple[int, int, str, int]] = []
        self._spans: list[tuple[int, int, int, float, float, int]] = []
        self._entries: list[tuple[int, bytes]] = []

    def add(self, seq: int, entries: Entries, facts: tuple[object, ...]) -> None:
        self._chart += [(compartment, seq, *facts) for compartment in entries.compartments]
        region = seq >> REGION_BITS
        self._terms += [(region, number, seq) for number in entries.hashes()]
        self._texts += [(region, name, text, seq) for name, text in entries.texts]
        self._spans += [(region, *span_row(span), seq) for span in entries.spans]
        self._entries.append((seq, pack((seq, entries))))

    def insert(self, connection: sqlite3.Connection) -> None:
        self._terms.sort()
        insert_rows(connection, "chart", 8, self._chart)
        insert_rows(connection, "terms", 3, self._terms)
        insert_rows(connection, "texts", 4, self._texts)
        insert_rows(connection, "spans", 6, self._spans)
        insert_rows(connection, "entries", 2, self._entries)
