"""Documents of ``current`` and ``history``, and the Records read from them.

A version keeps its fields when it is superseded: a document of ``history`` is the one of ``current`` with its seq as
``_id``, its key in ``key``, and ``ended``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import bson
from bson.errors import BSONError

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import CURRENT, MAX_TIME, MIN_TIME, Draft, Facts, Index, Key, Record
from fhirserver.core.stamp import digest, render
from fhirserver.store.drafts import all_terms
from fhirserver.store.mongo import native
from fhirserver.store.mongo.client import Document
from fhirserver.store.mongo.keys import keys

INLINE_BOUND = 512 << 10
"""Bodies above this are kept out of line.

A version that is superseded goes through this process on its way to history, so what stands in line is read and
written once more by each update."""

LARGEST = (16 << 20) - (64 << 10)
"""Bytes of a version's document above which it is refused: a server takes 16 MiB, and it grows a little when it is
superseded. What could not be superseded could never be changed or deleted again."""
TOO_LARGE = "The index entries of a resource are larger than the store can keep (16 MB)."
_MEASURED_FROM = 1 << 20

PROJECTION = dict.fromkeys(
    ("version", "seq", "updated", "deleted", "facts", "supports", "digest", "size", "key", "ended", "body"), 1
)
"""What a Record needs; a read that decodes whole documents takes twice the time."""
_BARE = {name: 1 for name in PROJECTION if name != "body"}


class Prepared(NamedTuple):
    """A draft with everything that can be worked out before the transaction.

    ``fields`` lack what only the commit knows: version, seq, updated, body. ``native`` is the native document, still to
    be stamped, if it was ``tried`` to make one. ``blob``: id of the staged chunks when the body is out of line.
    """

    draft: Draft
    fields: Document
    native: Document | None
    tried: bool
    blob: Any


def fields(key: Key, facts: Facts, index: Index) -> Document:
    """The fields that follow from a resource's facts and index; the same at a commit and at a reindex.

    An undated resource has the longest care period, so that one comparison of both ends answers every question.
    """
    home = home_of(key, facts)
    lo, hi = index.care or (MIN_TIME, MAX_TIME)
    also = [patient for patient in facts.compartments if patient != home]
    return {
        "custodian": facts.custodian,
        "parties": list(facts.parties),
        "owners": list(facts.owners),
        "labels": list(facts.labels),
        "compartments": list(facts.compartments),
        "home": home,
        **({"also": also} if also else {}),
        **({"kinds": list(facts.kinds)} if facts.kinds else {}),
        "facts": facts.text,
        "supports": " ".join(index.supports),
        "care_lo": lo,
        "care_hi": hi,
        "terms": [*keys(index), *all_terms(index)],
        "texts": [{"n": name, "v": value} for name, value in index.texts],
        "spans": [{"n": name, "lo": float(low), "hi": float(high)} for name, low, high in index.spans],
        "sorts": [{"n": name, "v": value if isinstance(value, str) else float(value)} for name, value in index.sorts],
        "present": list(index.present),
    }


def home_of(key: Key, facts: Facts) -> str:
    """The one place where a resource stands: the patient it is about if it stands in that chart, else the first
    chart it stands in, else its own key. A scalar, so that charts are read in order and can be sharded by it."""
    for owner in facts.owners:
        if owner in facts.compartments:
            return owner
    return facts.compartments[0] if facts.compartments else str(key)


def prepare(draft: Draft, *, with_native: bool, blob: Any = None) -> Prepared:
    """``blob``: id of the staged chunks when the body is kept out of line."""
    key = draft.key
    known = {
        "_id": str(key),
        "type": key.type,
        "id": key.id,
        "deleted": draft.deleted,
        "digest": digest(draft.head, draft.tail),
        **fields(key, draft.facts, draft.index),
    }
    inline = 0 if blob is not None else len(draft.head) + len(draft.tail)
    if inline + _about(known) > _MEASURED_FROM and len(bson.encode(known)) + inline > LARGEST:
        raise Fault(Kind.TOO_LARGE, TOO_LARGE)
    return Prepared(draft, known, native_of(draft) if with_native else None, with_native, blob)


def _about(known: Document) -> int:
    """Bytes of what can grow beyond measure, roughly."""
    entries = sum(len(known[name]) for name in ("terms", "texts", "spans", "sorts", "present"))
    texts = sum([len(each["v"]) for each in known["texts"]])
    return 50 * entries + sum(map(len, known["terms"])) + texts + 4 * len(known["facts"]) + len(known["supports"])


def native_of(draft: Draft) -> Document | None:
    """The draft's native document, still to be stamped; None for what cannot stand as one."""
    if draft.deleted or len(draft.head) + len(draft.tail) > native.NATIVE_BOUND:
        return None
    return native.document(draft.key, render(draft.head, draft.tail, 0, 0), draft.facts)


def superseded(document: Mapping[str, Any], ended: int) -> Document:
    """The document of ``history`` that a document of ``current`` becomes."""
    return {**document, "_id": document["seq"], "key": document["_id"], "ended": ended}


def projection(*, bodies: bool, sorts: Sequence[str] = ()) -> Document:
    """What a Record needs, with its body and sort keys only where they are asked for."""
    wanted = PROJECTION if bodies else _BARE
    return {**wanted, "sorts": 1} if sorts else wanted


def record(document: Mapping[str, Any], sorts: Sequence[str] = ()) -> Record:
    """A document of either collection, read with a `projection` for the same ``sorts``; BSONError if it is none that
    was written."""
    try:
        kind, _, name = (document["key"] if "key" in document else document["_id"]).partition("/")
        return Record(
            kind,
            name,
            document["version"],
            int(document["seq"]),
            int(document["ended"]) if "ended" in document else CURRENT,
            int(document["updated"]),
            document["deleted"],
            document["facts"],
            document["supports"],
            document["digest"],
            document["size"],
            document.get("body"),
            _sort_keys(document, sorts) if sorts else (),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BSONError("a version is damaged") from error


def _sort_keys(document: Mapping[str, Any], names: Sequence[str]) -> tuple[str | float | None, ...]:
    known = {each["n"]: each["v"] for each in document["sorts"]}
    return tuple([known.get(name) for name in names])
