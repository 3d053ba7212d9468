"""The lexical rules of the primitive datatypes, narratives and references."""

from __future__ import annotations

import pytest

from fhirserver.core.lexical import PRIMITIVES
from fhirserver.core.narrative import narrative_problem
from fhirserver.core.references import LOCAL, target
from fhirserver.core.structure import primitive_types

GOOD = {
    "base64Binary": ["QQ==", "QUI=", "QUJD", "QUJD QUJD", "QUJD\nQUI=\n"],
    "canonical": ["http://example.org/a|1.0", "#local", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
    "code": ["final", "a b", "=", "1"],
    "date": ["2026", "2026-02", "2024-02-29", "0001-01-01", "9999-12-31", "1900-12-31"],
    "dateTime": [
        "2026",
        "2026-02",
        "2026-02-28",
        "2026-02-28T23:59:60Z",
        "2026-02-28T00:00:00.123456789+14:00",
        "2026-02-28T00:00:00-00:00",
    ],
    "decimal": [0, -1, 1.5, 10**30],
    "id": ["a", "A-1.b", "x" * 64],
    "instant": ["2026-02-28T00:00:00Z", "2026-02-28T00:00:00.1-05:30"],
    "integer": [0, -(2**31), 2**31 - 1],
    "markdown": ["*text*\n\n", " "],
    "oid": ["urn:oid:1.2.3", "urn:oid:2.16.840.1.113883"],
    "positiveInt": [1, 2**31 - 1],
    "string": ["x", " ", "tab\tline\r\n", "é日本\u00a0\u200b", "\x7f"],
    "time": ["00:00:00", "23:59:60", "12:00:00.5"],
    "unsignedInt": [0, 2**31 - 1],
    "uri": ["http://example.org/a b".replace(" ", "%20"), "relative", "urn:oid:1.2.3", "urn:uuid:patient-1"],
    "url": ["https://example.org", "mailto:a@example.org"],
    "uuid": ["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
    "xhtml": ['<div xmlns="http://www.w3.org/1999/xhtml">text</div>'],
}

BAD = {
    "base64Binary": ["", "%%%", "QUJ", "QQ=", "Q===", "QQ==QQ==", "QUJD.", "é", " "],
    "canonical": ["", "a b"],
    "code": ["", " a", "a ", "a  b", "a\x00"],
    "date": ["", "26", "2026-2-1", "2026-13", "2026-02-30", "2025-02-29", "2026-04-31", "0000", "2026-02-28T00:00:00Z"],
    "dateTime": [
        "2026-02-28T10:00:00",
        "2026-02-28T10:00Z",
        "2026-02-30T10:00:00Z",
        "2026-02-28T24:00:00Z",
        "2026-02-28T10:00:61Z",
        "2026-02-28T10:00:00+14:01",
        "2026-02-28 10:00:00Z",
        "2026-02-28T10:00:00Z\n",
    ],
    "id": ["", "a_b", "a b", "x" * 65, "é", "a\n"],
    "instant": ["2026", "2026-02-28", "2026-02-28T00:00:00", "2026-02-30T00:00:00Z"],
    "integer": [2**31, -(2**31) - 1],
    "markdown": ["", "\x00"],
    "oid": ["1.2.3", "urn:oid:3.1", "urn:oid:1.02", "urn:oid:1"],
    "positiveInt": [0, -1, 2**31],
    "string": ["", "\x00", "a\x1bb", "\x0b", "x" * (1024 * 1024 + 1)],
    "time": ["24:00:00", "12:00", "12:00:00Z"],
    "unsignedInt": [-1, 2**31],
    "uri": ["", "a b", "a\tb", "\u00a0"],
    "url": ["", " https://example.org"],
    "uuid": ["a757873d-ec9a-4326-a141-556f43239520", "urn:uuid:A757873D-EC9A-4326-A141-556F43239520"],
}


def test_every_primitive_type_has_a_rule() -> None:
    assert PRIMITIVES.keys() == primitive_types()
    assert primitive_types() - GOOD.keys() == {"boolean"}


@pytest.mark.parametrize(("type_", "value"), [(type_, value) for type_, values in GOOD.items() for value in values])
def test_a_value_that_r4_allows_passes(type_: str, value: object) -> None:
    assert isinstance(value, PRIMITIVES[type_].kinds)
    assert PRIMITIVES[type_].problem(value) == ""


@pytest.mark.parametrize(("type_", "value"), [(type_, value) for type_, values in BAD.items() for value in values])
def test_a_value_that_r4_forbids_has_a_problem(type_: str, value: object) -> None:
    assert isinstance(value, PRIMITIVES[type_].kinds)
    assert PRIMITIVES[type_].problem(value)


def test_a_problem_never_quotes_the_value() -> None:
    for type_, values in BAD.items():
        for value in values:
            if isinstance(value, str) and len(value) > 4:
                assert value not in PRIMITIVES[type_].problem(value)


def test_a_dateTime_without_zone_is_told_that_it_needs_one() -> None:  # noqa: N802  # the type's name
    assert "timezone" in PRIMITIVES["dateTime"].problem("2026-02-28T10:00:00")


def div(inside: str, attributes: str = "") -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml"{attributes}>{inside}</div>'


@pytest.mark.parametrize(
    "text",
    [
        div(""),
        div("<p>a &lt; b &amp; &#233;</p><!-- note -->"),
        div('<table border="1"><tr><td colspan="2" style="color: red">x</td></tr></table>', ' xml:lang="en" lang="en"'),
        div('<a href="https://example.org" title="x">x</a><a name="y"/><img src="#pic" alt="p"/>'),
        div('<img src="data:image/png;base64,AAAA" alt=""/>'),
        '<h:div xmlns:h="http://www.w3.org/1999/xhtml"><h:p>prefixed</h:p></h:div>',
        "\n" + div("text") + "\n",
    ],
)
def test_a_narrative_of_formatting_passes(text: str) -> None:
    assert narrative_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("text", "well-formed"),
        ("<div>no namespace</div>", "namespace"),
        ('<div xmlns="http://www.w3.org/1999/xhtmlx">x</div>', "namespace"),
        (div('<p xmlns="http://www.w3.org/2000/svg">x</p>'), "namespace"),
        ('<p xmlns="http://www.w3.org/1999/xhtml">x</p>', "one div"),
        (div("x") + div("y"), "well-formed"),
        (div("<p>x</pa>"), "well-formed"),
        (div("CPT&reg;"), "entity"),
        ("<!DOCTYPE div>" + div("x"), "DOCTYPE"),
        ('<!DOCTYPE div [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + div("&b;"), "DOCTYPE"),
        (div('<!DOCTYPE foo [<!ENTITY x SYSTEM "file:///etc/passwd">]>&x;'), "DOCTYPE"),
        ('<?xml version="1.0"?>' + div("x"), "declaration"),
        (div("<?php x ?>"), "declaration"),
        (div("<script>x</script>"), "(script)"),
        (div("<SCRIPT>x</SCRIPT>"), "(SCRIPT)"),
        (div("<object/>"), "(object)"),
        (div("<iframe/>"), "(iframe)"),
        (div("<form/>"), "(form)"),
        (div("<style>x</style>"), "(style)"),
        (div('<link href="a.css"/>'), "(link)"),
        (div("x", ' onClick="x()"'), "(onClick)"),
        (div('<p onmouseover="x()">x</p>'), "(onmouseover)"),
        (div('<a href="javascript:x()">x</a>'), "script"),
        (div('<a href=" java&#10;script:x()">x</a>'), "script"),
        (div('<a href="JAVASCRIPT:x()">x</a>'), "script"),
        (div('<img src="data:text/html;base64,AAAA"/>'), "script"),
        (div('<p style="width: expression(x())">x</p>'), "style"),
        (div("<p>" * 300 + "</p>" * 300), "deeply"),
    ],
)
def test_a_narrative_that_runs_or_loads_or_breaks_is_refused(text: str, says: str) -> None:
    assert says in narrative_problem(text)


@pytest.mark.parametrize(
    ("reference", "type_"),
    [
        ("Patient/1", "Patient"),
        ("Patient/1/_history/2", "Patient"),
        ("Patient?identifier=http://example.org|1", "Patient"),
        ("https://example.org/fhir/Patient/1", "Patient"),
        ("http://example.org/fhir/Patient/1/_history/3", "Patient"),
        ("http://example.org/fhir/Unknown/1", ""),
        ("http://example.org/other", ""),
        ("urn:uuid:c757873d-ec9a-4326-a141-556f43239520", ""),
        ("urn:oid:1.2.3", ""),
        ("#p1", LOCAL),
        ("#", LOCAL),
    ],
)
def test_a_reference_tells_the_type_it_points_to(reference: str, type_: str) -> None:
    assert target(reference) == type_


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "Patient",
        "Patient/",
        "Patient/a_b",
        "patient/1",
        "Unknown/1",
        "/Patient/1",
        "../Patient/1",
        "Patient/1/2",
        "Patient?",
        "Patient?identifier",
        "Device?identifier=1&?==",
        "Patient/1 ",
        "http://example.org/a b",
        "some text",
    ],
)
def test_a_reference_of_no_known_form_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"must|names") as caught:
        target(reference)
    assert not reference or reference not in str(caught.value)
