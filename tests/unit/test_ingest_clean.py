"""Edits of single places in a resource."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fhirserver.core.rewrite import refer, relink
from ingest.clean import rename, straighten


def to(**new: str) -> Callable[[str], str | None]:
    return lambda text: new.get(text.replace(":", "_").replace("/", "_").replace("-", "_"))


def test_only_the_text_of_a_reference_changes() -> None:
    raw = (
        b'{ "subject" : {"reference" :\t"urn:uuid:a" , "display":"\\u00fc urn:uuid:a"},"n":1.00,"m":3e2,"reference_":0}'
    )
    assert refer(raw, to(urn_uuid_a="Patient/1")) == raw.replace(b'"urn:uuid:a"', b'"Patient/1"')


def test_an_escaped_reference_is_understood() -> None:
    assert refer(b'{"reference":"Patient\\/1"}', to(Patient_1="Patient/2")) == b'{"reference":"Patient/2"}'


def test_what_looks_like_a_reference_inside_a_text_stays() -> None:
    raw = json.dumps({"div": '"reference":"urn:uuid:a"', "reference": "x"}).encode()
    assert refer(raw, to(urn_uuid_a="Patient/1")) == raw


def test_a_birth_date_written_as_a_time_is_cut_to_its_day() -> None:
    cleaned = straighten(b'{"resourceType":"Person","birthDate" : "1973-06-03T00:00:00.000Z","x":1}', "Person")
    assert cleaned == (b'{"resourceType":"Person","birthDate" : "1973-06-03","x":1}', True)
    assert straighten(b'{"birthDate":"1973-06-03"}', "Person") == (b'{"birthDate":"1973-06-03"}', False)


@pytest.mark.parametrize(
    ("link", "mended"),
    [
        (
            b'{"target":{"reference":"Patient/1", "assurance" : "level4"}}',
            b'{"target":{"reference":"Patient/1"},"assurance" : "level4"}',
        ),
        (
            b'{"target":{"assurance":"level4", "reference":"Patient/1"} }',
            b'{"target":{"reference":"Patient/1"},"assurance":"level4" }',
        ),
        (b'{"target":{"reference":"Patient/1"},"assurance":"level4"}', None),
        (b'{"target":{"assurance":"level1"},"assurance":"level4"}', None),
    ],
)
def test_an_assurance_inside_the_target_moves_up(link: bytes, mended: bytes | None) -> None:
    raw = b'{"resourceType":"Person","link":[{"target":{"reference":"Patient/0"}},%b]}'
    assert straighten(raw % link, "Person") == (raw % (mended or link), mended is not None)


def test_a_new_id_goes_behind_the_type_or_in_place_of_the_old() -> None:
    assert rename(b'{"resourceType":"Patient", "active":true}', "1") == (
        b'{"resourceType":"Patient","id":"1", "active":true}'
    )
    assert rename(b'{"id" : "0","resourceType":"Patient","contained":[{"id":"0"}]}', "1") == (
        b'{"id" : "1","resourceType":"Patient","contained":[{"id":"0"}]}'
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"resourceType": "Patient", "id": "0"},
            {"resourceType": "Patient", "identifier": [{"system": "s", "value": "0"}], "id": "1"},
        ),
        (
            {"resourceType": "Patient", "id": "0", "identifier": [{"value": "x"}]},
            {"resourceType": "Patient", "id": "1", "identifier": [{"value": "x"}, {"system": "s", "value": "0"}]},
        ),
        (
            {"resourceType": "QuestionnaireResponse", "id": "0"},
            {"resourceType": "QuestionnaireResponse", "identifier": {"system": "s", "value": "0"}, "id": "1"},
        ),
        (
            {"resourceType": "QuestionnaireResponse", "id": "0", "identifier": {"value": "x"}},
            {"resourceType": "QuestionnaireResponse", "id": "1", "identifier": {"value": "x"}},
        ),
        ({"resourceType": "Provenance", "id": "0"}, {"resourceType": "Provenance", "id": "1"}),
    ],
)
def test_the_source_id_is_kept_as_an_identifier_where_the_type_has_one(
    raw: dict[str, object], expected: dict[str, object]
) -> None:
    assert json.loads(rename(json.dumps(raw).encode(), "1", source=("s", "0"))) == expected


def test_attachment_urls_and_narrative_links_follow_but_not_identifiers_or_the_own_url() -> None:
    resource = {
        "resourceType": "DocumentReference",
        "url": "urn:uuid:a",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:uuid:a"}],
        "text": {"div": "<div><a href=\"urn:uuid:a\">x</a><img src='urn:uuid:a'/> urn:uuid:a</div>"},
        "content": [{"attachment": {"url": "urn:uuid:a", "title": "urn:uuid:a"}}],
        "extension": [{"url": "http://x", "valueUri": "urn:uuid:a"}, {"url": "http://x", "valueUri": "urn:uuid:b"}],
    }
    found = json.loads(relink(json.dumps(resource).encode(), to(urn_uuid_a="Binary/1")))
    assert found["content"] == [{"attachment": {"url": "Binary/1", "title": "urn:uuid:a"}}]
    assert found["extension"][0]["valueUri"] == "Binary/1"
    assert found["extension"][1]["valueUri"] == "urn:uuid:b"
    assert found["text"]["div"] == "<div><a href=\"Binary/1\">x</a><img src='Binary/1'/> urn:uuid:a</div>"
    assert (found["url"], found["identifier"]) == (resource["url"], resource["identifier"])


def test_a_member_by_an_escaped_name_is_the_same_member() -> None:
    raw = rb'{"re\u0066erence":"urn:uuid:1","div":"\"re\u0066erence\": x","n":1.0}'
    assert refer(raw, {"urn:uuid:1": "Patient/1"}.get) == (
        rb'{"reference":"Patient/1","div":"\"re\u0066erence\": x","n":1.0}'
    )
