"""What R4 allows in a narrative (https://hl7.org/fhir/R4/narrative.html#rules, txt-1 and txt-2).

A narrative is shown to people by systems that did not write it, so whatever can run, load or deceive is refused:
only the formatting elements and attributes that the specification lists pass. That there is some text (txt-2) is
not asked: four of the official examples have none, and an empty narrative harms nobody.
"""

from __future__ import annotations

import re
from typing import Final
from xml.parsers import expat

_XHTML: Final = "http://www.w3.org/1999/xhtml"
_XML: Final = "http://www.w3.org/XML/1998/namespace"

# fmt: off
_ELEMENTS: Final = frozenset(
    (
        "a", "abbr", "acronym", "address", "area", "b", "bdo", "big", "blockquote", "br", "caption", "cite", "code",
        "col", "colgroup", "dd", "dfn", "div", "dl", "dt", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img",
        "kbd", "li", "map", "ol", "p", "pre", "q", "samp", "small", "span", "strong", "sub", "sup", "table", "tbody",
        "td", "tfoot", "th", "thead", "tr", "tt", "ul", "var",
    )
)
"""HTML 4.0 chapters 7-11 (except section 4 of chapter 9) and 15, links and images."""

_ATTRIBUTES: Final = frozenset(
    (
        "abbr", "accesskey", "align", "alt", "axis", "bgcolor", "border", "cellpadding", "cellspacing", "char",
        "charoff", "charset", "cite", "class", "clear", "color", "colspan", "compact", "coords", "dir", "face", "frame",
        "headers", "height", "href", "hreflang", "hspace", "id", "ismap", "lang", "longdesc", "name", "nohref",
        "noshade", "nowrap", "rel", "rev", "rowspan", "rules", "scope", "shape", "size", "span", "src", "start",
        "style", "summary", "tabindex", "title", "type", "usemap", "valign", "value", "vspace", "width",
    )
)
# fmt: on
_TEXT: Final = r"[^<&>\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]*+"
is_plain: Final = re.compile(
    rf'<div xmlns="{re.escape(_XHTML)}">{_TEXT}(?:<(p|b|i|h[1-6]|pre|span)>{_TEXT}</\1>{_TEXT})*+</div>'
).fullmatch
"""Whether a narrative is text and elements that hold text only: most are, and known to be good without a parser."""
_LINKS: Final = frozenset(("href", "src", "longdesc", "cite", "usemap"))
_SCRIPT = re.compile(r"(?:javascript|vbscript|livescript)\s*:|data\s*:\s*(?!image/(?:png|gif|jpe?g|webp|bmp)\b)", re.I)
_ACTIVE_STYLE = re.compile(r"expression\s*\(|javascript\s*:|vbscript\s*:|-moz-binding|behaviou?r\s*:|@import", re.I)
_CONTROL = re.compile("[\x00-\x20\x7f-\x9f]")
_UNDEFINED_ENTITY: Final = expat.errors.codes[expat.errors.XML_ERROR_UNDEFINED_ENTITY]
_ENTITY: Final = "an entity that XML does not have; write the character itself"


class _Refused(Exception):
    """The narrative breaks a rule; the message says which."""


class _Reader:
    """The state of one parse."""

    def __init__(self) -> None:
        self.depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if namespace != _XHTML:
            raise _Refused(f"must be in the XHTML namespace {_XHTML}")
        if not self.depth and local != "div":
            raise _Refused("must be one div element")
        if local not in _ELEMENTS:
            raise _Refused(f"holds an element that a narrative may not have{_quoted(local)}")
        self.depth += 1
        if self.depth > 200:
            raise _Refused("is nested too deeply")
        for full, value in attributes.items():
            _check_attribute(full, value)

    def end(self, _: str) -> None:
        self.depth -= 1


def _check_attribute(full: str, value: str) -> None:
    space, _, local = full.rpartition(" ")
    if space == _XML and local in ("lang", "space", "id"):
        return
    if space or local not in _ATTRIBUTES:
        raise _Refused(f"holds an attribute that a narrative may not have{_quoted(local)}")
    if local in _LINKS and _SCRIPT.match(_CONTROL.sub("", value)):
        raise _Refused(f"holds a link that runs a script ({local})")
    if local == "style" and _ACTIVE_STYLE.search(_CONTROL.sub(" ", value)):
        raise _Refused("holds a style that runs a script or loads a style sheet")


def _quoted(name: str) -> str:
    return f" ({name})" if len(name) <= 40 and name.isascii() and name.isalnum() else ""


def _refuse_doctype(*_: object) -> None:
    raise _Refused("must not have a DOCTYPE")


def _refuse_instruction(*_: object) -> None:
    raise _Refused("must not have an XML declaration or processing instructions")


def narrative_problem(text: str) -> str:
    """What is wrong with an `xhtml` value; empty when nothing is."""
    if not text:
        return "must not be empty"
    return "" if is_plain(text) else parsed_problem(text)


def parsed_problem(text: str) -> str:
    """The same by parsing, whatever the text."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.ProcessingInstructionHandler = _refuse_instruction
    parser.XmlDeclHandler = _refuse_instruction
    try:
        parser.Parse(text, True)
    except _Refused as refused:
        return str(refused)
    except expat.ExpatError as error:
        if "<!doctype" in text.lower():
            return "must not have a DOCTYPE"
        what = _ENTITY if error.code == _UNDEFINED_ENTITY else expat.ErrorString(error.code)
        return f"is not well-formed XHTML: {what} (line {error.lineno}, column {error.offset + 1})"
    return ""
