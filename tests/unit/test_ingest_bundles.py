"""What becomes of Bundles: their entries, references between them, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.imported import Imports, bundle, entry, imports, observation, patient, practitioner

U1 = "urn:uuid:11111111-1111-4111-8111-111111111111"
U2 = "urn:uuid:22222222-2222-4222-8222-222222222222"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Imports]:
    async with imports(tmp_path) as found:
        yield found


def counts(report: object) -> tuple[int, int, int, int]:
    return tuple(getattr(report, name) for name in ("created", "updated", "unchanged", "rejected"))  # type: ignore[return-value]


async def test_entries_keep_their_ids_and_references_to_full_urls_lead_to_them(store: Imports) -> None:
    file = store.write("a.json", bundle(entry(patient("p"), U1), entry(observation(U1, "o"), U2)))
    report = await store.ingest(file)
    assert counts(report) == (2, 0, 0, 0)
    assert report.unresolved == 0
    assert await store.resources() == {"Patient/p": patient("p"), "Observation/o": observation("Patient/p", "o")}


async def test_a_resource_without_id_gets_the_uuid_of_its_full_url(store: Imports) -> None:
    await store.ingest(store.write("a.json", bundle(entry(patient(), U1))))
    assert list(await store.resources()) == ["Patient/" + U1.removeprefix("urn:uuid:")]


async def test_running_again_changes_nothing(store: Imports) -> None:
    file = store.write(
        "a.json",
        bundle(entry(patient(), U1), entry(patient(active=True), "urn:uuid:x"), entry(observation("urn:uuid:x"))),
    )
    assert counts(await store.ingest(file)) == (3, 0, 0, 0)
    before = await store.records()
    assert counts(await store.ingest(file)) == (0, 0, 3, 0)
    assert await store.records() == before


async def test_equal_content_that_means_two_people_by_local_names_stays_apart(store: Imports) -> None:
    """``urn:uuid:p`` is no uuid: in another Bundle it stands for somebody else."""
    for name, family in (("a", "Lin"), ("b", "Ode")):
        named = patient(name=[{"family": family}])
        store.write(f"in/{name}.json", bundle(entry(named, "urn:uuid:p"), entry(observation("urn:uuid:p"))))
    assert counts(await store.ingest(store.folder / "in")) == (4, 0, 0, 0)
    subjects = {
        resource["subject"]["reference"] for key, resource in (await store.resources()).items() if key[0] == "O"
    }
    assert len(subjects) == 2


async def test_the_resources_id_wins_over_its_full_url_and_both_lead_to_it(store: Imports) -> None:
    base = "https://ehr.example.org/fhir"
    file = store.write(
        "a.json",
        bundle(
            {"fullUrl": f"{base}/Patient/url-id", "resource": patient("real")},
            {"fullUrl": f"{base}/Observation/1", "resource": observation(f"{base}/Patient/url-id", "1")},
            {"fullUrl": f"{base}/Observation/2", "resource": observation("Patient/url-id", "2")},
            {"fullUrl": f"{base}/Observation/3", "resource": observation("Patient/real", "3")},
            {"fullUrl": f"{base}/Observation/4", "resource": observation(f"{base}/Patient/url-id/_history/2", "4")},
            {"fullUrl": f"{base}/Observation/5", "resource": observation(f"{base}/Patient/elsewhere", "5")},
            kind="searchset",
        ),
    )
    await store.ingest(file)
    found = await store.resources()
    assert [found[f"Observation/{n}"]["subject"]["reference"] for n in range(1, 6)] == [
        "Patient/real",
        "Patient/real",
        "Patient/real",
        "Patient/real/_history/2",
        f"{base}/Patient/elsewhere",
    ]


async def test_a_full_url_claimed_by_two_resources_leads_nowhere(store: Imports) -> None:
    file = store.write(
        "a.json", bundle(entry(patient("a"), U1), entry(patient("b"), U1), entry(observation(U1, "o"), U2))
    )
    report = await store.ingest(file)
    assert report.unresolved == 1
    assert (await store.resources())["Observation/o"]["subject"]["reference"] == U1


async def test_a_urn_is_looked_for_in_other_files_when_its_own_bundle_has_none(store: Imports) -> None:
    store.write("in/1.json", bundle(entry(observation(U1, "o"), U2)))
    store.write("in/2.json", bundle(entry(patient("p"), U1)))
    await store.ingest(store.folder / "in")
    assert (await store.resources())["Observation/o"]["subject"]["reference"] == "Patient/p"


async def test_contained_references_and_other_texts_are_untouched(store: Imports) -> None:
    raw = (
        '{"resourceType":"Observation","id":"o","contained":[{"resourceType":"Patient","id":"c"}],'
        '"status":"final","code":{"text":"\\u00e4 \\u2028"},"subject":{"reference":"#c"},'
        '"focus":[{"reference":"%s"}],"valueQuantity":{"value":1.00},"referenceRange":[{"low":{"value":3e2}}]}'
    )
    text = (
        f'{{"resourceType":"Bundle","type":"transaction","entry":[{{"fullUrl":"{U1}","resource":{raw % U1},'
        '"request":{"method":"POST","url":"Observation"}}]}'
    )
    await store.ingest(store.write("a.json", text.encode()))
    [record] = (await store.records()).values()
    body = (record.body or b"").decode()
    assert body.partition('"contained"')[2] == (raw % "Observation/o").partition('"contained"')[2]


@pytest.mark.parametrize("kind", ["document", "message", "history", "transaction-response", "nonsense"])
async def test_a_bundle_of_another_type_is_rejected_as_a_whole(store: Imports, kind: str) -> None:
    report = await store.ingest(store.write("a.json", bundle(entry(patient("p")), kind=kind)))
    assert counts(report) == (0, 0, 0, 1)
    [line] = store.rejections()
    assert line["reason"].startswith(f"a Bundle of type {kind} is not a set of resources to store")
    assert (line["source"], line["line"], line["resource"]) == (str(store.folder / "a.json"), 1, "Bundle")


async def test_the_type_may_come_after_the_entries(store: Imports) -> None:
    """As in every Bundle whose members are sorted by name."""
    last = {"entry": [entry(patient("p"), U1)], "resourceType": "Bundle", "type": "document"}
    assert counts(await store.ingest(store.write("a.json", last))) == (0, 0, 0, 1)
    assert await store.resources() == {}
    assert counts(await store.ingest(store.write("a.json", {**last, "type": "collection"}))) == (1, 0, 0, 0)


async def test_a_list_that_begins_with_its_entries_is_no_bundle(store: Imports) -> None:
    content = {
        "entry": [{"item": {"reference": "Patient/1"}}] * 30_000,
        "mode": "working",
        "resourceType": "List",
        "status": "current",
        "id": "l",
    }
    assert counts(await store.ingest(store.write("a.json", content))) == (1, 0, 0, 0)
    assert list(await store.resources()) == ["List/l"]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ({"request": {"method": "DELETE", "url": "Patient/x"}}, "the entry's method is DELETE; only PUT and POST"),
        ({"resource": patient("x"), "request": {"method": "PATCH", "url": "Patient/x"}}, "the entry's method is PATCH"),
        ({"resource": patient("x")}, "an entry of a transaction needs a request"),
        ({"request": {"method": "POST", "url": "Patient"}}, "the entry has no resource"),
        (entry(patient("x"), method="PUT") | {"request": {"method": "PUT", "url": "Patient/y"}}, "request.url does"),
        (entry(patient("x")) | {"request": {"method": "POST", "url": "Observation"}}, "request.url does not name the"),
        (entry(patient("x"), ifNoneExist="name=Lin"), "only conditions of the form identifier=system|value"),
        ({"fullUrl": 5}, "not an entry of a Bundle: Expected str"),
        (None, "not an entry of a Bundle: Expected object"),
        ({**entry(patient("x")), "resource": {"id": "x"}}, "not a FHIR resource: it has no resourceType"),
        (entry(patient("x", gender="furry")), "Patient.gender: "),
    ],
)
async def test_an_entry_that_is_no_resource_to_store_is_rejected_and_the_others_stored(
    store: Imports, refused: dict[str, object], reason: str
) -> None:
    file = store.write("a.json", bundle(entry(patient("a")), refused, entry(patient("b"))))
    report = await store.ingest(file)
    assert counts(report) == (2, 0, 0, 1)
    assert report.rejects == store.rejects
    [line] = store.rejections()
    assert line["reason"].startswith(reason)
    assert line["entry"] == 1
    assert list(await store.resources()) == ["Patient/a", "Patient/b"]


async def test_all_issues_of_an_invalid_resource_are_listed_with_their_paths(store: Imports) -> None:
    await store.ingest(store.write("a.json", patient("x", gender="furry", birthDate="soon", nose=1)))
    [line] = store.rejections()
    assert line["resource"] == "Patient/x"
    assert {issue["expression"] for issue in line["issues"]} == {
        "Patient.gender",
        "Patient.birthDate",
        "Patient.nose",
    }


async def test_the_outcome_of_a_search_is_not_stored(store: Imports) -> None:
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "warning", "code": "value"}]}
    found = bundle({"resource": outcome, "search": {"mode": "outcome"}}, kind="searchset")
    assert counts(await store.ingest(store.write("a.json", found))) == (0, 0, 0, 1)


async def test_bundles_can_be_stored_as_they_are(store: Imports) -> None:
    content = bundle(entry(observation(U1, "o"), U2), entry(patient("p"), U1), kind="collection") | {"id": "b"}
    del content["entry"][0]["request"], content["entry"][1]["request"]
    assert counts(await store.ingest(store.write("a.json", content), as_resources=True)) == (1, 0, 0, 0)
    assert await store.resources() == {"Bundle/b": content}


async def test_the_last_of_several_with_one_key_wins_and_a_second_run_changes_nothing(store: Imports) -> None:
    store.write("in/1.json", bundle(entry(patient("p", active=False)), entry(practitioner("d", "1"))))
    store.write("in/2.json", bundle(entry(patient("p", active=True)), entry(practitioner("d", "1"))))
    store.write("in/3.json", bundle(entry(patient("p", active=True))))
    assert counts(await store.ingest(store.folder / "in")) == (2, 1, 2, 0)
    assert (await store.resources())["Patient/p"]["active"] is True
    before = await store.records()
    assert counts(await store.ingest(store.folder / "in")) == (0, 0, 5, 0)
    assert await store.records() == before


async def test_two_custodians_never_share_a_key(store: Imports) -> None:
    file = store.write("a.json", bundle(entry(patient("p"), U1), entry(observation(U1, "o"), U2)))
    await store.ingest(file, organization="one")
    report = await store.ingest(file, organization="two")
    assert counts(report) == (0, 0, 0, 2)
    assert [line["resource"] for line in store.rejections()] == ["Patient/p", "Observation/o"]
    assert all("another organisation" in line["reason"] for line in store.rejections())


async def test_in_a_namespace_of_its_own_a_custodian_can_have_any_id(store: Imports) -> None:
    file = store.write("a.json", bundle(entry(patient("p"), U1), entry(observation("Patient/p", "o"), U2)))
    later = store.write("later.json", observation("Patient/p", "later"))
    for organization in ("one", "two"):
        assert counts(await store.ingest(file, organization=organization, namespace=True)) == (2, 0, 0, 0)
        assert counts(await store.ingest(later, organization=organization, namespace=True)) == (1, 0, 0, 0)
        assert counts(await store.ingest(file, organization=organization, namespace=True)) == (0, 0, 2, 0)
    found = await store.resources()
    patients = {key: resource for key, resource in found.items() if resource["resourceType"] == "Patient"}
    assert len(patients) == 2
    assert sorted(resource["identifier"][0]["system"] for resource in patients.values()) == [
        "urn:fhirserver:source-id:one",
        "urn:fhirserver:source-id:two",
    ]
    assert {resource["identifier"][0]["value"] for resource in patients.values()} == {"p"}
    subjects = [resource["subject"]["reference"] for resource in found.values() if "subject" in resource]
    assert sorted(subjects) == sorted([*patients, *patients])
