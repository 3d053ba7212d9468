"""The R4 structure tables (`fhirserver.data.elements`, `bindings`), typed and loaded when first asked for."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec


class Element(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of a StructureDefinition.

    ``maximum`` 0 means ``*``. ``types`` are type names; a backbone element is its own type under its path
    (``Observation.component``). ``targets`` are the resource types that a Reference may point to; none: any.
    ``binding`` is the value set of a required binding. ``flags``: see `fhirserver.data.generate.structure`.
    """

    name: str
    minimum: int
    maximum: int
    types: tuple[str, ...]
    targets: tuple[str, ...] = ()
    binding: str = ""
    flags: str = ""

    @property
    def choice(self) -> bool:
        """Whether it is written ``nameType`` in JSON, such as ``valueQuantity``."""
        return "x" in self.flags

    @property
    def attribute(self) -> bool:
        """Whether it is an XML attribute, and so has no ``_name`` in JSON."""
        return "a" in self.flags

    @property
    def summary(self) -> bool:
        return "s" in self.flags

    @property
    def modifier(self) -> bool:
        return "m" in self.flags

    @property
    def simple(self) -> bool:
        """Whether a Quantity here is a SimpleQuantity."""
        return "q" in self.flags

    @property
    def closed(self) -> bool:
        """Whether a code here of one of the `closed_systems` must be one that the system has."""
        return "o" in self.flags

    def members(self) -> tuple[tuple[str, str], ...]:
        """(JSON member name, type) for each type it may have."""
        if not self.choice:
            return ((self.name, self.types[0]),)
        return tuple((self.name + type_[0].upper() + type_[1:], type_) for type_ in self.types)


class _Elements(msgspec.Struct, frozen=True):
    primitives: frozenset[str]
    types: dict[str, msgspec.Raw]


class _Bindings(msgspec.Struct, frozen=True):
    codes: dict[str, msgspec.Raw]
    closed: dict[str, frozenset[str]]


_ROWS = msgspec.json.Decoder(tuple[Element, ...])
_CODES = msgspec.json.Decoder(dict[str, frozenset[str]])


@cache
def _tables() -> _Elements:
    return msgspec.json.decode(files("fhirserver.data").joinpath("elements.json").read_bytes(), type=_Elements)


@cache
def _value_sets() -> _Bindings:
    return msgspec.json.decode(files("fhirserver.data").joinpath("bindings.json").read_bytes(), type=_Bindings)


def primitive_types() -> frozenset[str]:
    """The primitive datatypes, ``xhtml`` among them."""
    return _tables().primitives


def type_names() -> frozenset[str]:
    """Resources, complex datatypes and backbone elements: whatever `elements` knows."""
    return frozenset(_tables().types)


@cache
def elements(type_: str) -> tuple[Element, ...]:
    """The rows of a resource, datatype or backbone element in the order of its definition; KeyError if unknown."""
    return _ROWS.decode(_tables().types[type_])


@cache
def value_set(url: str) -> dict[str, frozenset[str]]:
    """The codes of a required binding by code system; KeyError when the tables do not hold it."""
    return _CODES.decode(_value_sets().codes[url])


@cache
def codes(url: str) -> frozenset[str]:
    """The codes of a required binding, whatever their system."""
    return frozenset().union(*value_set(url).values())


def closed_systems() -> dict[str, frozenset[str]]:
    """Code systems of the specification itself, all of whose codes are known: those that `Element.closed` is about."""
    return _value_sets().closed
