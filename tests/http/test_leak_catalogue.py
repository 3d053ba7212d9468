"""The leaks that happened to others, one test each; and the canary over the ways that they took.

Every resource of a patient who has consented to nothing carries a marker. No answer to anybody but that patient's
custodian, the patient and the operator may hold it, or the patient's id where the caller has not written it itself.
"""

from __future__ import annotations

import base64
import json
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
async def world(server: Served, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Served:
    """n at north and s at south have opened their charts to app, ``hidden`` at south has opened nothing; they share a
    Person, a Group and a Practitioner. ``wide``: app's Consents count as too many to be read at once."""
    if request.param == "wide":
        monkeypatch.setattr(dossier, "MOST_LISTED", 0)
        monkeypatch.setattr(wide, "FIRST", 1)
    await load(server.gate, [*(organization(name) for name in ("app", "other", "north", "south")), practitioner("dr")])
    await load(
        server.gate,
        [
            patient("n"), encounter("en", "n"), event("an", "n"),
            observation("on", "n", performer=by("dr"), encounter=to("Encounter/en")),
            document("dn", "n", "bn"),
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
    return server


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
    "Observation?subject:Patient.family=" + CANARY[:4], "Patient?_has:Observation:subject:_id=oh",
    "Encounter/eh/$everything",
    "Person?link=Patient/hidden", "Provenance?target=Observation/oh", "AuditEvent?entity=Patient/hidden",
    "Patient/hidden/$meta",
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
                clean = json.dumps(body).replace(CANARY, "x").replace(MARKED, "eA==")
                kind_of = "json-patch+json" if method == "PATCH" else "fhir+json"
                headers = {"Content-Type": f"application/{kind_of}"}
                if_none = {"If-None-Exist": f"identifier=urn:x|{CANARY}"} if method == "POST" else {}
                sent = None if body is None else clean
                answer = await client.request(method, path, content=sent, headers=headers | if_none)
                assert answer.status_code >= 400, (who, method, path, answer.text)
                quiet(answer, f"{who}: {method} {path}", named=True)


# -- the catalogue, line by line


async def test_a_second_path_forgets_no_filter(world: Served) -> None:
    token = world.token("third-party", org="app")
    for path in ("Observation?_include=*", "Practitioner?_revinclude=*", "_history", "Patient/$everything"):
        async for answer in pages(world, path, token):
            assert answer.status_code == 200, path
            quiet(answer, path)
    urls = ("Observation/oh", "Observation?_id=oh", "Patient/hidden/$everything", "Binary/bh", "AuditEvent/ah")
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    async with world.client(token) as client:
        answer = await client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": entries})
    quiet(answer, "batch", named=True)
    statuses = [each["response"]["status"][:3] for each in answer.json()["entry"]]
    assert statuses == ["403", "200", "403", "403", "403"]
    assert "entry" not in answer.json()["entry"][1]["resource"]


async def test_no_answer_is_anothers(world: Served) -> None:
    asked = ("Observation", "Observation/on", "Patient/n/$everything", "Person/one")
    app, other = world.token("third-party", org="app"), world.token("third-party", org="other")
    for path in asked:
        first = await world.get(path, app)
        assert first.status_code == 200
        headers = {"If-None-Match": first.headers.get("ETag", 'W/"1"'), "If-Modified-Since": first.headers["Date"]}
        told = await world.get(path, other, headers=headers)
        assert told.status_code == 403 or "entry" not in told.json(), path
        assert "Authorization" in first.headers["Vary"]


@pytest.mark.parametrize("scope", ["", "patient/Nonsense.rs", "openid", "patient/Observation.rs?category="])
async def test_nothing_allowed_is_nothing_shown(world: Served, scope: str) -> None:
    for caller, more in (("third-party", {"org": "app"}), ("patient", {"org": "north", "patient": "n"})):
        token = world.token(caller, scope=scope, **more)
        for path in ("Observation", "_history", "Patient/$everything", "Observation/on", "Observation?_id="):
            assert (await world.get(path, token)).status_code == 403, (caller, path)


async def test_each_hop_of_a_link_is_checked(world: Served) -> None:
    token = world.token("third-party", org="app")
    for path in (
        "Practitioner?_has:Observation:performer:_id=oh", "Observation?subject:Patient.family=" + CANARY,
        "Encounter?_has:Observation:encounter:_id=oh", "Person?link:Patient.family=" + CANARY,
        "Practitioner?_has:Observation:performer:patient.family=" + CANARY,
    ):  # fmt: skip
        answer = await world.get(path, token)
        assert (answer.status_code, answer.json().get("entry")) == (200, None), path


async def test_a_page_is_no_right(world: Served) -> None:
    app = world.token("third-party", org="app")
    for path in ("Observation?_count=1", "Patient/n/$everything?_count=1", "Patient/$everything?_count=1"):
        following = link(await world.get(path, app), "next")
        for thief in (world.token("third-party", org="other"), world.token("patient", org="north", patient="n")):
            assert (await world.get(following, thief)).status_code in (400, 403)
        await revoke(world, "n", "s")
        answer = await world.get(following, app)
        assert answer.status_code != 200 or "entry" not in answer.json(), path
        await grant(world, "n", "s")


async def test_what_is_hidden_takes_no_place_on_a_page(world: Served) -> None:
    token = world.token("third-party", org="app")
    for path in ("Observation?_count=1", "Observation?_count=1&_sort=-_lastUpdated", "Patient?_count=1"):
        counts = [len(answer.json().get("entry", ())) async for answer in pages(world, path, token)]
        assert counts == [1, 1], path


async def test_a_shared_group_or_practitioner_leads_to_nobody_else(world: Served) -> None:
    for who, token in strangers(world).items():
        for path in ("Practitioner/dr", "Practitioner?_revinclude=*", "Group/g", "Group/g/$everything",
                     "Patient/n/$everything", "Group?member=Patient/hidden"):  # fmt: skip
            quiet(await world.get(path, token), f"{who}: {path}", named="=" in path)


async def test_totals_count_what_is_shown(world: Served) -> None:
    for who, token in strangers(world).items():
        for path in ("Observation", "Patient", "Observation?performer=Practitioner/dr"):
            for more in ("_summary=count", "_total=accurate", "_total=estimate"):
                answer = (await world.get(f"{path}{'&' if '?' in path else '?'}{more}", token)).json()
                shown = [
                    each["resource"]
                    async for page in pages(world, path, token)
                    for each in page.json().get("entry", ())
                ]
                assert answer.get("total", len(shown)) == len(shown), (who, path, more)
        history = (await world.get("Observation/_history", token)).json()
        assert history.get("total", len(history.get("entry", ()))) == len(history.get("entry", ())), who


async def test_what_is_written_is_indexed_as_what_is_imported(world: Served) -> None:
    south = world.token("member", org="south", scope="system/*.cruds")
    async with world.client(south) as client:
        for each in (patient("h2", name=[{"family": CANARY}]), observation("o2", "h2", note=NOTE, performer=by("dr"))):
            name = f"{each['resourceType']}/{each['id']}"
            assert (await client.put(name, json=each)).status_code == 201
    for who, token in strangers(world).items():
        for path in (*SEARCHES[:16], "Patient/h2", "Observation/o2", "Observation?patient=h2"):
            quiet(await world.get(path, token), f"{who}: {path}", named=True)
    assert CANARY in (await world.get("Observation?patient=h2", south)).text


async def test_one_organisation_is_not_mixed_up_with_another(world: Served) -> None:
    """An id is no name of a class, nor is a patient that of a token's organisation."""
    for token in (
        world.token("third-party", org="south"),
        world.token("third-party", org="hidden"),
        world.token("member", org="app"),
        world.token("patient", org="south", patient="n"),
    ):
        for path in (*READS, "Observation", "Patient/hidden/$everything"):
            quiet(await world.get(path, token), path, named=True)


async def test_an_id_of_another_organisation_is_not_overwritten(world: Served) -> None:
    before = (await world.get("Observation/oh")).json()
    for caller in ("member", "third-party"):
        token = world.token(caller, org="north", scope="system/*.cruds patient/*.cruds")
        async with world.client(token) as client:
            sent = observation("oh", "n")
            entry = {"resource": sent, "request": {"method": "PUT", "url": "Observation/oh"}}
            assert (await client.put("Observation/oh", json=sent)).status_code >= 400
            for kind_of in ("batch", "transaction"):
                answer = await client.post("", json={"resourceType": "Bundle", "type": kind_of, "entry": [entry]})
                quiet(answer, kind_of, named=True)
    assert (await world.get("Observation/oh")).json() == before


async def test_a_beneficiary_writes_no_consent_of_its_own(world: Served) -> None:
    for caller, more in (("third-party", {}), ("member", {})):
        token = world.token(caller, org="other", scope="system/*.cruds patient/*.cruds", **more)
        async with world.client(token) as client:
            sent = {**permit("hidden", "other"), "id": "mine"}
            for method, path in (("POST", "Consent"), ("PUT", "Consent/mine")):
                assert (await client.request(method, path, json=sent)).status_code >= 400
            entry = {"resource": sent, "request": {"method": "PUT", "url": "Consent/mine"}}
            await client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]})
    token = world.token("third-party", org="other")
    for path in (*READS, "Observation", "Patient/hidden/$everything"):
        quiet(await world.get(path, token), path, named=True)


async def test_an_old_version_shows_nothing_that_the_current_one_hides(world: Served) -> None:
    scoped = world.gate.system(subject="test", organization="north", purpose="test")
    restricted = {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV"}]}
    await load(world.gate, [observation("turned", "n", note=NOTE)], organization="north")
    await scoped.write([put(observation("turned", "n", note=NOTE, meta=restricted))])
    token = world.token("third-party", org="app")
    for path in ("Observation/turned/_history/1", "Observation/turned/_history", "Observation/_history", "_history",
                 "Patient/n/$everything"):  # fmt: skip
        async for answer in pages(world, path, token):
            assert CANARY not in answer.text, path
    assert CANARY in (await world.get("Observation/turned/_history/1")).text
    assert "Observation/turned" not in names((await world.get("Patient/n/$everything", token)).json())
