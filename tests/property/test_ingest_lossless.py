"""Rewriting references, quirks and ids changes nothing else, whatever the JSON around them looks like."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.rewrite import refer
from ingest.clean import rename, straighten
from ingest.scan import Window, elements, members

MARK = "urn:uuid:11111111-1111-4111-8111-111111111111"
NUMBERS = st.sampled_from(["0", "-0", "1.00", "3e2", "1E+400", "-1.5e-7", "123456789012345678901234567890.10", "0.0"])
BLANKS = st.sampled_from(["", " ", "\n", "\r\n\t", "   "])
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["reference", MARK, f'"reference":"{MARK}"', "\\", '"', "{}[]", "fullUrl", "\u2028", "\ud7ff"]),
)


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A JSON string, its characters escaped or not."""
    escaped: list[str] = []
    for character in draw(TEXTS):
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        choices = [plain, json.dumps(character)[1:-1]] + (["\\/"] if character == "/" else [])
        escaped.append(draw(st.sampled_from(choices)))
    return '"' + "".join(escaped) + '"'


def values() -> st.SearchStrategy[str]:
    """Any JSON text, oddly spaced."""
    leaves = st.one_of(NUMBERS, strings(), st.sampled_from(["true", "false", "null", "[]", "{}"]))
    return st.recursive(leaves, lambda inner: st.one_of(arrays(inner), objects(inner)), max_leaves=12)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    blank = draw(BLANKS)
    return "[" + blank + f"{blank},{blank}".join(draw(st.lists(inner, max_size=4))) + blank + "]"


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An object, at times with a reference to rewrite among its members."""
    blank = draw(BLANKS)
    names = [name for name in draw(st.lists(strings(), max_size=4)) if json.loads(name) != "reference"]
    found = [f"{name}{blank}:{blank}{draw(inner)}" for name in names]
    if draw(st.booleans()):
        found.insert(draw(st.integers(0, len(found))), f'"reference"{blank}:{blank}"{MARK}"')
    return "{" + blank + f"{blank},{blank}".join(found) + blank + "}"


@given(objects(values()))
def test_rewriting_references_changes_only_their_texts(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    expected = re.sub(rb'("reference"\s*:\s*)"%b"' % MARK.encode(), rb'\1"Patient/1"', raw)
    new = refer(raw, lambda found: "Patient/1" if found == MARK else None)
    assert new == expected
    assert _replaced(json.loads(raw)) == json.loads(new)
    assert refer(raw, lambda _: None) == raw


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: "Patient/1" if name == "reference" and item == MARK else _replaced(item)
            for name, item in value.items()
        }
    return [_replaced(item) for item in value] if isinstance(value, list) else value


@given(objects(values()), strings())
def test_a_new_id_changes_only_the_id(text: str, old: str) -> None:
    inner = text[1:].strip()
    rest = inner if inner == "}" else "," + inner
    for given_, expected in (
        (f'{{"resourceType":"Patient"{rest}', f'{{"resourceType":"Patient","id":"new"{rest}'),
        (f'{{"id": {old} ,"resourceType":"Patient"{rest}', f'{{"id": "new" ,"resourceType":"Patient"{rest}'),
    ):
        if '"id"' in text or "\\u0069d" in text:
            return
        assert rename(given_.encode("utf-8", "surrogatepass"), "new") == expected.encode("utf-8", "surrogatepass")


@given(values(), st.sampled_from(["1973-06-03", "1973-06-03T00:00:00.000Z"]))
def test_mending_a_birth_date_changes_only_its_time(text: str, date: str) -> None:
    raw = f'{{"x":{text},"birthDate" : "{date}"}}'.encode("utf-8", "surrogatepass")
    expected = raw.replace(date.encode() + b'"}', b'1973-06-03"}')
    assert straighten(raw, "Person").raw == expected


@given(st.lists(objects(values()), max_size=6), st.integers(1, 40), st.booleans())
def test_entries_come_out_byte_for_byte_however_the_stream_is_cut(items: list[str], size: int, marked: bool) -> None:
    if marked:
        items = ['{"fullUrl":"x","resource":' + item + "}" for item in items]
    raw = ('{"a":{"b":"]}"},"entry" : [' + " ,\n".join(items) + ' ], "type":"x"}').encode("utf-8", "surrogatepass")
    pieces = iter([raw[at : at + size] for at in range(0, len(raw), size)])
    window = Window(lambda _: next(pieces, b""))
    found: list[bytes] = []
    for name in members(window):
        if name == "entry":
            found += [element.raw for element in elements(window, b'"fullUrl"')]
        else:
            msgspec.json.decode(window.slice(window.value()))
    assert found == [item.encode("utf-8", "surrogatepass") for item in items]
