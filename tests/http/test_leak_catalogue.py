"""The leaks that happened to others, one test each; and the canary over the ways that they took.

Every resource of a patient who has consented to nothing carries a marker. No answer to anybody but that patient's
custodian, the patient and the operator may hold it, or the patient's id where the caller has not written it itself.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fhirserver.policy import dossier, wide
from tests.admitted import put
from tests.build import by, condition, encounter, load, observation, organization, patient, person, practitioner
from tests.everything import names
from tests.http.test_consent import grant, permit, revoke
from tests.http.test_search import link
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
JSON = dict[str, Any]
CANARY = "CANARY-51c9"
NOTE = [{"text": CANARY}]
MARKED = base64.b64encode(CANARY.encode()).decode()


def to(key: str) -> JSON:
    return {"reference": key}


def document(id: str, of: str, binary: str, **more: Any) -> JSON:
    content = [{"attachment": {"url": f"Binary/{binary}"}}]
    return {"resourceType": "DocumentReference", "id": id, "status": "current", "subject": to(f"Patient/{of}"),
            "content": content, **more}  # fmt: skip


def event(id: str, of: str, **more: Any) -> JSON:
    """An AuditEvent that another system has made."""
    return {"resourceType": "AuditEvent", "id": id, "type": {"code": "rest"}, "recorded": "2026-01-01T00:00:00Z",
            "agent": [{"requestor": True, "who": to(f"Patient/{of}")}], "source": {"observer": {"display": "x"}},
            "entity": [{"what": to(f"Patient/{of}")}], **more}  # fmt: skip


HIDDEN = [
    patient("hidden", name=[{"family": CANARY}], identifier=[{"system": "urn:x", "value": CANARY}]),
    encounter("eh", "hidden", identifier=[{"value": CANARY}]),
    observation("oh", "hidden", note=NOTE, performer=by("dr"), encounter=to("Encounter/eh")),
    condition("ch", "hidden", note=NOTE),
    document("dh", "hidden", "bh", description=CANARY),
    {"resourceType": "Binary", "id": "bh", "contentType": "text/plain", "data": MARKED},
    event("ah", "hidden", outcomeDesc=CANARY),
    {"resourceType": "Provenance", "id": "ph", "target": [to("Observation/oh")], "recorded": "2026-01-01T00:00:00Z",
     "agent": [{"who": to("Practitioner/dr")}], "policy": [f"urn:{CANARY}"]},
]  # fmt: skip


@pytest.fixture(params=["listed", "wide"])
async def world(
    server: Served, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """n at north and s at south have opened their charts to app, ``hidden`` at south has opened nothing; they share a
    Person, a Group and a Practitioner. ``wide``: app's Consents count as too many to be read at once."""
    if request.param == "wide":
        monkeypatch.setattr(dossier, "MOST_LISTED", 0)
        monkeypatch.setattr(wide, "FIRST", 1)
    await load(server.gate, [*(organization(name) for name in ("app", "other", "north", "south")), practitioner("dr")])
    await load(
        server.gate,
        [
            patient("n"), encounter("en", "n"), observation("on", "n", performer=by("dr"), encounter=to("Encounter/en")),
            document("dn", "n", "bn"), event("an", "n"),
            {"resourceType": "Binary", "id": "bn", "contentType": "text/plain", "data": "eA=="},
        ],
        organization="north",
    )  # fmt: skip
    await load(server.gate, HIDDEN, organization="south", persons=False)
    both = [{"entity": to("Patient/s")}, {"entity": to("Patient/hidden")}]
    group = {"resourceType": "Group", "id": "g", "type": "person", "actual": True, "member": both}
    await load(server.gate, [patient("s"), observation("os", "s", performer=by("dr")), group], organization="south")
    await load(server.gate, [person("one", "n", "s", "hidden")])
    await grant(server, "n", "s")
    await server.get(f"Patient?family={CANARY}")  # the trail has it now, as what was asked
    await server.audit()
    yield server


READS = [f"{each['resourceType']}/{each['id']}" for each in HIDDEN]
SEARCHES = [
    "Patient", "Observation", "Condition", "Encounter", "DocumentReference", "Binary", "Provenance", "AuditEvent",
    "Person", "Group", "Observation?_include=*", "Observation?_include=Observation:subject&_include:iterate=*",
    "Practitioner?_revinclude=Observation:performer", "Practitioner?_revinclude=*", "Patient?_revinclude=*",
    "Person?_include=Person:patient", "Group?_include=Group:member", "Patient?_revinclude=Provenance:target",
    "Patient?_revinclude=AuditEvent:patient", "Patient?_revinclude=AuditEvent:entity", "_history", "Patient/_history",
    "Observation/_history", "AuditEvent/_history", "Binary/_history", "Person/one/_history", "Person/one/$everything",
    "Person/one/$everything?_type=AuditEvent,Observation,Provenance", "Patient/$everything", "Person/$everything",
    "Patient/n/$everything", "Patient/n/$everything?_count=2", "Group/g/$everything", "Encounter/en/$everything",
    "$meta", "Observation/$meta", "Patient/n/$everything?_type=AuditEvent", "Patient/n/AuditEvent", "Patient/n/*",
    "?_type=Patient,Observation,AuditEvent", "AuditEvent?action=R,E", "AuditEvent?patient=n",
    "DocumentReference/$docref?patient=n",
]  # fmt: skip
ASKED = [
    "Patient/hidden/$everything", "Patient/hidden/_history", "Patient/hidden/Observation", "AuditEvent?patient=hidden",
    "Observation/oh/_history", "Observation/oh/_history/1", "Observation?patient=hidden", "Patient?_id=hidden",
    "Observation?subject:Patient.family=" + CANARY[:4], "Patient?_has:Observation:subject:_id=oh", "Encounter/eh/$everything",
    "Person?link=Patient/hidden", "Provenance?target=Observation/oh", "AuditEvent?entity=Patient/hidden", "Patient/hidden/$meta",
    "AuditEvent/ah/_history", "DocumentReference/$docref?patient=hidden", "Observation/$meta?patient=hidden",
]  # fmt: skip
"""What names the hidden patient itself, so that its id may come back in links and refusals."""


def strangers(world: Served) -> dict[str, str]:
    """Who may not see the hidden patient's data."""
    return {
        "app": world.token("third-party", org="app"),
        "other": world.token("third-party", org="other"),
        "north": world.token("member", org="north", scope="system/*.cruds"),
        "patient": world.token("patient", org="north", patient="n"),
    }


async def pages(world: Served, path: str, token: str) -> AsyncIterator[Any]:
    url: str | None = path
    while url:
        answer = await world.get(url, token, headers={"Accept": "application/fhir+json"})
        yield answer
        found = answer.json().get("link", []) if answer.status_code == 200 else []
        url = next((each["url"] for each in found if each["relation"] == "next"), None)


def quiet(answer: Any, path: str, *, named: bool = False) -> None:
    told = answer.text + str(answer.headers)
    assert CANARY not in told, path
    assert MARKED not in told, path
    if not named:
        assert "hidden" not in told, path


async def test_the_canary_over_every_way(world: Served) -> None:
    heard = 0
    for who, token in strangers(world).items():
        for path in (*SEARCHES, *READS, *ASKED):
            async for answer in pages(world, path, token):
                # A Group is north's to read only by name, and the operator's Group names its members.
                quiet(answer, f"{who}: {path}", named=path in ASKED or path in READS)
    south = world.token("member", org="south")
    for path in (*SEARCHES[:7], *READS):
        heard += CANARY in (await world.get(path, south, headers={"Accept": "application/fhir+json"})).text
    assert heard >= len(READS) + 5  # the marker is there to be found


async def test_the_canary_in_what_is_refused(world: Served) -> None:
    for who, token in strangers(world).items():
        async with world.client(token) as client:
            asked = [("PUT", name, each) for name, each in zip(READS, HIDDEN, strict=True)]
            asked += [("DELETE", name, None) for name in READS]
            asked += [("POST", "Observation", {**observation("", "hidden"), "id": "x"})]
            asked += [("PATCH", "Observation/oh", [{"op": "test", "path": "/status", "value": "x"}])]
            for method, path, body in asked:
                clean = None if body is None else str(body).replace(CANARY, "x").replace(MARKED, "eA==")
                sent = None if clean is None else eval(clean)  # noqa: S307  our own literal
                kind_of = "json-patch+json" if method == "PATCH" else "fhir+json"
                headers = {"Content-Type": f"application/{kind_of}"}
                if_none = {"If-None-Exist": f"identifier=urn:x|{CANARY}"} if method == "POST" else {}
                answer = await client.request(method, path, json=sent, headers=headers | if_none)
                assert answer.status_code >= 400, (who, method, path, answer.text)
                quiet(answer, f"{who}: {method} {path}", named=True)
