"""Finding JSON values in a stream, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest

from ingest.scan import Malformed, Window, elements, locate, members, places, spans


def trickle(raw: bytes, size: int) -> Window:
    """A window over a stream that gives ``size`` bytes at a time."""
    pieces = iter([raw[at : at + size] for at in range(0, len(raw), size)])
    return Window(lambda _: next(pieces, b""))


TRICKY = {
    "a": 'quotes \\" and \\\\ and } ] { [',
    "entry": [{"fullUrl": "x", "deep": {"er": [{"est": {"": [[], {}]}}]}}, 5, None, [1, [2]], "s", {}, True, -1.5e-3],
    "z": {"fullUrl": 'in "fullUrl" }'},
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_member_and_element_is_found_however_the_stream_is_cut(size: int, indent: int | None) -> None:
    window = trickle(json.dumps(TRICKY, indent=indent).encode(), size)
    found: dict[str, object] = {}
    for name in members(window):
        if name == "entry":
            found[name] = [json.loads(element.raw) for element in elements(window, b'"fullUrl"')]
        else:
            found[name] = json.loads(window.slice(window.value()))
    assert found == TRICKY
    assert window.peek() == -1


def test_a_guessed_end_is_never_taken_when_it_is_wrong() -> None:
    first = {"resource": {"fullUrl": "not an entry's", "list": [{"fullUrl": "nor this"}, {"fullUrl": "nor that"}]}}
    raw = json.dumps([first, {"fullUrl": "b"}, {"fullUrl": "c", "deep": {"fullUrl": "d"}}, {"fullUrl": "e"}]).encode()
    assert json.loads(b"[" + b",".join(part.raw for part in elements(Window.over(raw), b'"fullUrl"')) + b"]") == [
        first,
        {"fullUrl": "b"},
        {"fullUrl": "c", "deep": {"fullUrl": "d"}},
        {"fullUrl": "e"},
    ]


def test_elements_know_the_line_they_begin_on() -> None:
    raw = b'[\n  {"fullUrl": "a"},\n\n  {"fullUrl":\n "b"}, {"fullUrl": "c"}\n]'
    assert [(part.number, part.line) for part in elements(trickle(raw, 5), b'"fullUrl"')] == [(0, 2), (1, 4), (2, 5)]


@pytest.mark.parametrize(
    ("raw", "reason", "line", "column"),
    [
        (b'{"a": 1,\n}', "a comma before the closing bracket", 2, 1),
        (b'{"a": [1,\n 2,]}', "a comma before the closing bracket", 2, 4),
        (b'{"a": 1\n // why\n}', "JSON has no comments", 2, 2),
        (b'{"a": 1, \xe2\x80\xa6}', "found byte 0xe2 where a member's name should be", 1, 10),
        (b'{"a": "endless\n', "a string does not end", 1, 7),
        (b'{"a": {"b": 1', "the text ends inside a value", 1, 7),
        (b'{"a": {"b": ...}}', "an ellipsis is not JSON", 1, 13),
        (b'{"a" 1}', "found 1 where a colon should be", 1, 6),
        (b'{"a": }', "found } where a value should be", 1, 7),
        (b'{"a": nul}', "not JSON: Expecting value", 1, 7),
        (b'{"a": 1} x', "", 0, 0),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_not_json_is_told_with_its_place(raw: bytes, reason: str, line: int, column: int, size: int) -> None:
    window = trickle(raw, size)

    def walk() -> None:
        for _ in members(window):
            if window.peek() == ord("["):
                list(elements(window, b"x"))
            else:
                window.slice(window.value())

    if not reason:
        walk()  # what follows the value is for others to judge
        return
    with pytest.raises(Malformed) as caught:
        walk()
    assert (caught.value.reason, caught.value.line, caught.value.column) == (reason, line, column)


@pytest.mark.parametrize(
    ("raw", "reason", "line"),
    [
        (b'{"a": [1, 2,\n]}', "a comma before the closing bracket", 2),
        (b'{"a": 1, /* no */ "b": 2}', "JSON has no comments", 1),
        (b'{"a":\n "\xff"}', "not UTF-8", 2),
        (b'{"a": 01}', "not JSON: Expecting ',' delimiter", 1),
    ],
)
def test_mistakes_inside_a_slice_are_located(raw: bytes, reason: str, line: int) -> None:
    found = locate(raw, 1)
    assert (found.reason, found.line) == (reason, line)


def test_spans_and_places_point_at_exact_bytes() -> None:
    raw = b'{ "a" : [ 1 , {"x":2} ] , "b":"t\\"}" ,"a":null}'
    found = spans(raw)
    assert [(part.name, raw[part.value : part.end]) for part in found] == [
        ("a", b'[ 1 , {"x":2} ]'),
        ("b", b'"t\\"}"'),
        ("a", b"null"),
    ]
    assert [raw[start:end] for start, end in places(raw, found[0].value)] == [b"1", b'{"x":2}']
