"""A Person is cut to the links that the caller may follow, in what is read and in what is found."""

from __future__ import annotations

import msgspec

from fhirserver.core.model import Key, Query
from fhirserver.policy.gate import view_tag
from tests.admitted import World, consent, content, put
from tests.hospitals import two_hospitals_and_a_human

w = two_hospitals_and_a_human


async def test_a_person_is_cut_to_the_links_that_may_be_followed(w: World) -> None:
    await w.consent(consent("c", "n"))
    key = Key("Person", "human")
    whole = await (await w.caller("operator", "operator")).read(key)
    assert view_tag(whole) is None
    for scoped in (
        await w.caller("third-party", "reader"),
        await w.caller("member", "north"),
        await w.caller("patient", "north", patient="n"),
    ):
        view = await scoped.read(key)
        body = await content(scoped, view)
        assert body["link"] == [{"target": {"reference": "Patient/n"}}]
        assert [tag["code"] for tag in body["meta"]["tag"]] == ["SUBSETTED"]
        assert (view.version, view.seq) == (whole.version, whole.seq)
        assert view_tag(view)
        (found,) = [each async for batch in scoped.scan(Query(keys=(key,))) for each in batch] or [view]
        assert found.body == view.body, "a search shows the same view"
        opened = await scoped.chart(key)
        assert (opened.patients, opened.anchor.body) == (("n",), view.body)


async def test_cutting_touches_nothing_else(w: World) -> None:
    raw = (
        b'{"resourceType":"Person","id":"odd","name":[{"family":"\\u00e9\\/"}],"link":'
        b'[{"target":{"reference":"Patient/s"}},{"assurance":"level2","target":{"reference":"Patient/n"}},'
        b'{"target":{"reference":"https://elsewhere.example/Patient/1"}}],"extension":'
        b'[{"url":"urn:x","valueDecimal":1.00},{"url":"urn:y","valueDecimal":3e2}]}'
    )
    given = put(msgspec.json.decode(raw))
    await w.system().write([msgspec.structs.replace(given, raw=raw)])
    view = await (await w.caller("member", "north")).read(Key("Person", "odd"))
    body = view.body or b""
    assert b'"family":"\\u00e9\\/"' in body
    assert b'"link":[{"assurance":"level2","target":{"reference":"Patient/n"}}]' in body
    assert body.endswith(b'"valueDecimal":1.00},{"url":"urn:y","valueDecimal":3e2}]}')
    assert b"elsewhere" not in body
    assert b"Patient/s" not in body


async def test_a_person_cannot_be_found_by_a_link_that_is_cut(w: World) -> None:
    north = await w.caller("member", "north", interaction="search-type")

    async def found(term: str) -> int:
        return await north.count(Query(types=frozenset({"Person"}), terms=((term,),)))

    assert await found("Person|link=Patient/n") == 2
    assert await found("Person|link=Patient/s") == 0
    assert await found("*reference=Patient/n") == 2
    assert await found("*reference=Patient/s") == 0
    assert await north.count(Query(terms=(("*reference=Patient/n", "*reference=Patient/s"),))) > 0
