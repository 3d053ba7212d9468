"""`__explain=true`: how a search would be answered, for operators; nothing is searched.

Ours, of no specification. It tells ways and indexes, and no value that was asked for.
"""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp

from fhirserver.http.asking import Asked
from fhirserver.http.respond import json_answer
from fhirserver.policy.gate import Scoped
from fhirserver.policy.search import Matches


async def explained(scoped: Scoped, matches: Matches, asked: Asked) -> ASGIApp:
    """An OperationOutcome with what the index is asked, what is asked of each candidate, and the store's own plan."""
    query, search = matches.query, asked.search
    told = [
        f"Of the index: {len(query.terms)} groups of terms, {len(query.criteria)} other criteria"
        + (f", {len(query.keys)} keys." if query.keys is not None else "."),
        f"Of each candidate: {len(matches.asked_singly)} conditions ({', '.join(matches.asked_singly) or 'none'}).",
        f"In the order of {', '.join(each.name for each in search.order) or 'writing'}.",
        *(f"Store: {step}" for step in await scoped.explain(query)),
    ]
    issues = [{"severity": "information", "code": "informational", "diagnostics": each} for each in told]
    return json_answer(msgspec.json.encode({"resourceType": "OperationOutcome", "issue": issues}), asked.media_type)
