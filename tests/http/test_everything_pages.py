"""`$everything` page by page: links, offsets, totals (HE-5, HE-13)."""

from __future__ import annotations

import json

import pytest

from tests.everything import ALL, links, names, small_chart
from tests.served import Served
from tests.stores import every_kind

kind = every_kind


async def test_he5_paging_in_the_seeds_form(server: Served) -> None:
    await small_chart(server)
    async with server.client() as client:
        page = (await client.get("Person/p/$everything?_count=3")).json()
        assert links(page)["self"].startswith(f"{server.base}/Person/p/$everything?_count=3&_offset=0")
        assert links(page).keys() == {"self", "first", "next", "last"}
        assert "_offset=6&" in links(page)["last"]
        seen = names(page)
        while "next" in links(page):
            before = page
            page = (await client.get(links(page)["next"])).json()
            assert page["total"] == len(ALL)
            assert names((await client.get(links(page)["previous"])).json()) == names(before)
            seen += names(page)
        assert sorted(seen) == sorted(ALL)
        assert links(page).keys() == {"self", "first", "previous", "last"}
        assert names((await client.get(links(page)["last"])).json()) == names(page)
        assert names((await client.get(links(page)["first"])).json()) == seen[:3]


@pytest.mark.parametrize("offset", range(10))
async def test_he5_a_bare_offset_counts_entries_off(server: Served, offset: int) -> None:
    await small_chart(server)
    whole = names((await server.get("Person/p/$everything")).json())
    page = (await server.get(f"Person/p/$everything?_count=2&_offset={offset}")).json()
    assert names(page) == whole[offset : offset + 2]
    assert ("next" in links(page)) == (offset + 2 < len(whole))
    assert page["total"] == len(whole)
    rest = (await server.get(f"Person/p/$everything?_offset={offset}")).json()
    assert names(rest) == whole[offset:]


async def test_he13_count_zero_is_the_total_alone(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything?_count=0")).json()
    assert (bundle["total"], "entry" in bundle) == (len(ALL), False)
    assert (await server.get("Person/p/$everything?_summary=count")).json()["total"] == len(ALL)


async def test_pages_of_ndjson_have_their_links_in_the_header(server: Served) -> None:
    await small_chart(server)
    lines: list[str] = []
    url: str | None = "Person/p/$everything?_count=3"
    async with server.client(headers={"Accept": "application/fhir+ndjson"}) as client:
        while url:
            answer = await client.get(url)
            lines += [json.loads(line)["id"] for line in answer.text.splitlines()[:-1]]
            url = answer.links["next"]["url"] if "next" in answer.links else None
    assert sorted(lines) == sorted(name.split("/")[1] for name in ALL)
