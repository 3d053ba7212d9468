"""`$everything` since a moment: what changed, and what left the chart (HE-8)."""

from __future__ import annotations

import pytest

from fhirserver.core.model import Key
from fhirserver.policy.consenting import grant_consent
from tests.build import by, load, observation, organization, patient, person
from tests.everything import links, names, small_chart
from tests.served import Served
from tests.stores import every_kind

kind = every_kind


async def departed(server: Served, anchor: str, since: str, token: str | None = None) -> list[str]:
    """What `_deleted=only` names, in order of name; nothing twice."""
    bundle = (await server.get(f"{anchor}/$everything", token, params={"_since": since, "_deleted": "only"})).json()
    urls = [entry["request"]["url"] for entry in bundle.get("entry", [])]
    assert bundle["total"] == len(urls) == len(set(urls))
    return sorted(urls)


async def test_he8_since_sends_what_changed_and_what_it_refers_to(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.http.walk.OVERLAP_MILLISECONDS", 0)
    monkeypatch.setattr("fhirserver.http.everything.OVERLAP_MILLISECONDS", 0)
    await small_chart(server)
    before = (await server.get("Person/p/$everything")).json()["timestamp"]
    await load(server.gate, [observation("o2", "p", performer=by("dr")), observation("o3", "p")])
    bundle = (await server.get("Person/p/$everything", params={"_since": before})).json()
    assert names(bundle) == ["Observation/o2", "Observation/o3", "Practitioner/dr"]
    assert links(bundle)["deleted"].startswith(f"{server.base}/Person/p/$everything?_since=")


async def test_deleted_only_names_what_left_the_chart(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("walk", "everything", "departures"):
        monkeypatch.setattr(f"fhirserver.http.{module}.OVERLAP_MILLISECONDS", 0)
    await small_chart(server)
    before = (await server.get("Person/p/$everything")).json()["timestamp"]
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Condition", "c")])
    await load(server.gate, [observation("o2", "other"), observation("o1", "p")])
    bundle = (await server.get("Person/p/$everything", params={"_since": before, "_deleted": "only"})).json()
    assert bundle["type"] == "history"
    assert sorted(entry["request"]["url"] for entry in bundle["entry"]) == ["Condition/c", "Observation/o2"]
    assert {entry["request"]["method"] for entry in bundle["entry"]} == {"DELETE"}
    assert not any("resource" in entry for entry in bundle["entry"])


async def test_what_came_just_before_a_clients_snapshot_and_left_after_it_is_named(server: Served) -> None:
    # Within the overlap of `_since`: what a client has just pulled must not stay with it for ever.
    await small_chart(server)
    since = (await server.get("Person/p/$everything")).json()["timestamp"]
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Condition", "c")])
    await load(server.gate, [observation("o2", "other"), observation("o1", "p", note=[{"text": "new"}])])
    for anchor in ("Person/p", "Patient/p"):
        assert await departed(server, anchor, since) == ["Condition/c", "Observation/o2"]


async def test_everyone_who_sees_an_unlinked_chart_is_told_what_left_with_it(server: Served) -> None:
    await load(server.gate, [organization("app"), organization("north")])
    await load(server.gate, [patient("n"), patient("s"), observation("on", "n"), observation("os", "s")])
    await load(server.gate, [person("one", "n", "s"), person("other", "n")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["n", "s"], "app", types=["Person", "Patient", "Observation"])
    callers = [None, server.token("third-party", org="app"), server.token("member", org="operator")]
    since = (await server.get("Person/one/$everything")).json()["timestamp"]
    await load(server.gate, [person("one", "n"), person("other", "s")])
    for token in callers:
        left = await departed(server, "Person/one", since, token)
        assert [name for name in left if not name.startswith("Consent/")] == ["Observation/os", "Patient/s"]
    only_n = server.token("patient", org="operator", patient="n")
    assert await departed(server, "Person/one", since, only_n) == []
