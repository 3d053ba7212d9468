"""How one element's value becomes index entries: terms, texts, spans and sort keys, by search type and FHIR type.

The forms, which `core.search` must know as well (``name`` is ``Type|code``):

* token: ``name=system|code`` and ``name=code``; ``name=|code`` instead of the former where there is no system. A
  `code`, `id`, `uri`, `boolean` or `string` has ``name=value`` only (its system is the binding's, not the data's).
  Identifiers with a type also have ``name:of-type=system|code|value``. A ContactPoint has its value.
* reference: ``name=Type/id`` (a version is cut off), any other url or urn as it is, and
  ``name:identifier=…`` in the token forms for a logical reference. Contained and conditional references have none.
* uri: the term as it is, a canonical with ``|version`` also without; and the text as it is, not normalised (for
  `:below`), cut at `values.TEXT_LIMIT`. A reference parameter that selects canonicals has both too.
* string: the normalised text (`values.unpunctuated`) and, for `:exact`, the term ``name:exact=`` with the original
  (`values.exact`); of a HumanName or Address each part and its `text`.
* date: (``name``, first, last) in milliseconds; of a Timing once, from the first to the last of all its times. number:
  (``name``, value, value). No span's end is below its beginning.
* quantity: (``name``, value, value) whatever the unit, and once per way to name the unit: ``name=|unit`` for the code
  and for the printed unit without regard to system, and ``name=system|code``; in a UCUM unit that has a canonical one,
  instead of the latter, ``name=~canonical unit`` with the value in that (`core.ucum`). The value is exact: a search
  adds the precision of *its* value, which is the one that counts. A comparator opens the interval at that end. Ranges,
  SampledData (from the least to the greatest sample) and Money (system ``urn:iso:std:iso:4217``) are intervals as well.
* composite: the keys of its token and reference components, joined by ``$``, make ``q``: a term ``name=q`` when there
  are only such components, else a text or a span of that name. A quantity stands there whatever its unit: these are the
  most numerous entries of a chart, and the code fixes the unit in practice; a search that names a unit asks for the
  quantity parameter as well. With two numbers (MolecularSequence) the nth component's span is ``name=q#n``. In both
  cases that narrows, and the content decides (`core.search.composites`).
* special (Location `near`): the spans ``name.latitude`` and ``name.longitude``.

`:text` has no entries: display texts would double what is stored for a codable element and few ask for them.
Sort keys: date (earliest first millisecond), number, quantity, the first string (normalised), the first uri that is no
canonical, and tokens that are plain values (status, gender); a CodeableConcept has no agreed order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from fhirserver.core import definitions, ucum
from fhirserver.core.intervals import MOMENTS, Unit, intervals
from fhirserver.core.presence import Mark
from fhirserver.core.values import (
    TEXT_LIMIT,
    contained_type,
    exact,
    items,
    local,
    named_type,
    number,
    text_of,
    unpunctuated,
)

PLAIN = frozenset({"code", "id", "uri", "url", "oid", "uuid", "string", "markdown", "boolean"})
_NAME_PARTS = ("family", "given", "prefix", "suffix", "text")
_ADDRESS_PARTS = ("line", "city", "district", "state", "country", "postalCode", "text")


class Use(NamedTuple):
    """One parameter at a leaf: ``name`` is ``Type|code``; ``target`` is the type a reference must have, or empty."""

    name: str
    target: str = ""


class Leaf(NamedTuple):
    """What to take from an element of FHIR type ``type``: entries for parameters of search type ``kind``, and,
    where a flag is set, the patients (or organisations) that it refers to as access facts."""

    kind: str
    type: str
    uses: tuple[Use, ...]
    names: tuple[str, ...]
    compartment: bool = False
    owner: bool = False
    party: bool = False


class Found:
    """What has been taken so far from one resource; repetitions are removed at the end."""

    __slots__ = (
        "compartments",
        "elsewhere",
        "marks",
        "owners",
        "parties",
        "resource",
        "sorts",
        "spans",
        "terms",
        "texts",
    )

    def __init__(self, resource: object) -> None:
        self.resource = resource
        self.terms: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.spans: list[tuple[str, float, float]] = []
        self.sorts: dict[str, str | float] = {}
        self.marks: set[Mark] = set()
        self.compartments: set[str] = set()
        self.owners: set[str] = set()
        self.elsewhere = False
        """An owner is a Patient who is not on this server."""
        self.parties: set[str] = set()


Take = Callable[[Any, Leaf, Found], None]


def take_for(kind: str, type_: str) -> Take | None:
    """The function that takes an element of FHIR type ``type_`` for parameters of search type ``kind``.

    None where the two do not meet: a date parameter finds nothing in an Age, Range or string
    (Procedure `performedString`), nor a reference parameter in an Attachment (Consent `sourceAttachment`).
    """
    if kind in ("number", "quantity") or (kind == "date" and type_ in MOMENTS | {"Period", "Timing"}):
        return _take_spans
    if kind == "string":
        return _TAKES.get((kind, type_)) or _take_text
    if kind == "token" and type_ in PLAIN:
        return _take_plain_token
    return _TAKES.get((kind, type_))


# --- tokens


@lru_cache(maxsize=8192)
def _token_terms(names: tuple[str, ...], system: str, code: str) -> tuple[str, ...]:
    return tuple(f"{name}={form}" for name in names for form in forms(system, code))


def forms(system: str, code: str) -> tuple[str, str]:
    """The ways a token is asked for: with its system (or with none), and whatever the system."""
    return (f"{system}|{code}", code)


def _take_coding(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is dict:
        code = item.get("code")
        if type(code) is str:
            system = item.get("system")
            found.terms += _token_terms(leaf.names, system if type(system) is str else "", code)


def _take_concept(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is dict:
        for coding in items(item.get("coding")):
            _take_coding(coding, leaf, found)


def _take_identifier(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is dict:
        value = item.get("value")
        if type(value) is str:
            both = forms(text_of(item, "system"), value)
            found.terms += [f"{name}={form}" for name in leaf.names for form in both]
            kind = item.get("type")
            for coding in items(kind.get("coding")) if type(kind) is dict else ():
                if type(coding) is dict and type(coding.get("code")) is str:
                    typed = f"{text_of(coding, 'system')}|{coding['code']}|{value}"
                    found.terms += [f"{name}:of-type={typed}" for name in leaf.names]


def _take_contact(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is dict and type(item.get("value")) is str:
        found.terms += [f"{name}={item['value']}" for name in leaf.names]


def _take_plain_token(item: Any, leaf: Leaf, found: Found) -> None:
    text = plain(item)
    if text is not None:
        for name in leaf.names:
            found.terms.append(f"{name}={text}")
            found.sorts.setdefault(name, text)


def plain(item: Any) -> str | None:
    """A primitive token's text."""
    if type(item) is str:
        return item
    if type(item) is bool:
        return "true" if item else "false"
    return None


def _take_existence(item: Any, leaf: Leaf, found: Found) -> None:
    """Patient `deceasedDateTime` for the token `deceased`: that there is one means true."""
    if type(item) is str:
        found.terms += [f"{name}=true" for name in leaf.names]


# --- references and uris


def _take_reference(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is not dict:
        return
    reference = item.get("reference")
    if type(reference) is str:
        found.terms += _reference_terms(leaf.uses, reference, text_of(item, "type"))
        if leaf.compartment or leaf.owner or leaf.party:
            _take_facts(reference, leaf, found)
    if leaf.owner and not found.elsewhere:
        found.elsewhere = _is_patient_elsewhere(item, found.resource)
    identifier = item.get("identifier")
    if type(identifier) is dict and type(identifier.get("value")) is str:
        hint = (named_type(reference) if type(reference) is str else "") or text_of(item, "type")
        for form in forms(text_of(identifier, "system"), identifier["value"]):
            found.terms += [
                f"{use.name}:identifier={form}" for use in leaf.uses if not use.target or use.target == hint
            ]


def _take_facts(reference: str, leaf: Leaf, found: Found) -> None:
    target = local(reference)
    if target is None:
        return
    if target.type == definitions.PATIENT:
        if leaf.compartment:
            found.compartments.add(target.id)
        if leaf.owner:
            found.owners.add(target.id)
    elif target.type == definitions.ORGANIZATION and leaf.party:
        found.parties.add(target.id)


def _is_patient_elsewhere(item: dict[str, Any], resource: object) -> bool:
    """Whether a Reference says that it is to a Patient, and not to one of this server."""
    reference = text_of(item, "reference")
    if local(reference) is not None:
        return False
    if reference.startswith("#"):
        return contained_type(reference, resource) == definitions.PATIENT
    kind = named_type(reference) or reference.partition("?")[0]
    return definitions.PATIENT in (kind, text_of(item, "type"))


@lru_cache(maxsize=8192)
def _reference_terms(uses: tuple[Use, ...], reference: str, hint: str) -> tuple[str, ...]:
    target = local(reference)
    if target is None and (reference.startswith("#") or "?" in reference):
        return ()
    text = target.text if target else reference
    kind = named_type(reference) or hint
    return tuple(f"{use.name}={text}" for use in uses if not use.target or use.target == kind)


def _take_resource(item: Any, leaf: Leaf, found: Found) -> None:
    """Bundle `composition` and `message`: the first entry's resource itself is what is referred to."""
    if type(item) is dict and type(item.get("id")) is str:
        kind = item.get("resourceType")
        found.terms += [f"{use.name}={kind}/{item['id']}" for use in leaf.uses if use.target == kind]


def _take_uri(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is str:
        bare = item.partition("|")[0] if leaf.type == "canonical" else item
        for name in leaf.names:
            found.terms.append(f"{name}={item}")
            if bare != item:
                found.terms.append(f"{name}={bare}")
            found.texts.append((name, item[:TEXT_LIMIT]))
            if leaf.kind == "uri" and leaf.type != "canonical":
                found.sorts.setdefault(name, item[:TEXT_LIMIT])


# --- texts


def _take_text(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is str and item.strip():
        text, original = unpunctuated(item), exact(item)
        for name in leaf.names:
            found.terms.append(f"{name}:exact={original}")
            if text:
                found.texts.append((name, text))
                found.sorts.setdefault(name, text)


def _take_parts(item: Any, parts: Iterable[str], leaf: Leaf, found: Found) -> None:
    if type(item) is dict:
        for part in parts:
            value = item.get(part)
            for text in value if type(value) is list else (value,):
                _take_text(text, leaf, found)


def _take_name(item: Any, leaf: Leaf, found: Found) -> None:
    _take_parts(item, _NAME_PARTS, leaf, found)


def _take_address(item: Any, leaf: Leaf, found: Found) -> None:
    _take_parts(item, _ADDRESS_PARTS, leaf, found)


# --- spans


def _take_spans(item: Any, leaf: Leaf, found: Found) -> None:
    sorts = found.sorts
    for unit, low, high in intervals(leaf.type, item):
        if unit.system == ucum.SYSTEM and len(unit.code) <= ucum.LIMIT:
            base = ucum.canonical_interval(low, high, unit.code)
        else:
            base = None
        found.spans += [(name, low, high) for name in _unit_names(leaf.names, unit, base is None)]
        if base:
            found.spans += [(f"{name}=~{base[0]}", base[1], base[2]) for name in leaf.names]
        for name in leaf.names:
            known = sorts.get(name)
            if known is None or low < known:  # type: ignore[operator]  # a name's sort keys are all numbers here
                sorts[name] = low


@lru_cache(maxsize=8192)
def _unit_names(names: tuple[str, ...], unit: Unit, coded: bool) -> tuple[str, ...]:
    forms = {"": None}
    if coded and unit.system and unit.code:
        forms[f"={unit.system}|{unit.code}"] = None
    for text in (unit.code, unit.text):
        if text:
            forms[f"=|{text}"] = None
    return tuple(name + form for name in names for form in forms)


def _take_position(item: Any, leaf: Leaf, found: Found) -> None:
    if type(item) is dict:
        for part in ("latitude", "longitude"):
            value = number(item.get(part))
            if value is not None:
                found.spans += [(f"{name}.{part}", value, value) for name in leaf.names]


_TAKES: dict[tuple[str, str], Take] = {
    ("string", "HumanName"): _take_name,
    ("string", "Address"): _take_address,
    ("token", "Coding"): _take_coding,
    ("token", "CodeableConcept"): _take_concept,
    ("token", "Identifier"): _take_identifier,
    ("token", "ContactPoint"): _take_contact,
    ("token", "dateTime"): _take_existence,
    ("reference", "Reference"): _take_reference,
    ("reference", "canonical"): _take_uri,
    ("reference", "uri"): _take_uri,
    ("reference", "Resource"): _take_resource,
    ("uri", "canonical"): _take_uri,
    ("uri", "uri"): _take_uri,
    ("uri", "url"): _take_uri,
    ("special", "Location.position"): _take_position,
}
