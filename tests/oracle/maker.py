"""Draws the elements of random resources, each from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from tests.oracle import pools
from tests.oracle.extract import JSON
from tests.oracle.pools import UCUM


class Maker:
    """Draws the elements of one resource."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  no secret
        self.contained: list[JSON] = []

    def one(self, pool: Sequence[Any]) -> Any:
        return self.random.choice(pool)

    def some(self, make: Callable[[], Any], most: int = 2) -> list[Any]:
        return [make() for _ in range(self.random.randint(1, most))]

    def maybe(self, chance: float = 0.6) -> bool:
        return self.random.random() < chance

    def given(self, chance: float = 0.6, **makers: Callable[[], Any]) -> JSON:
        """Each of these elements with this chance."""
        return {name: make() for name, make in makers.items() if self.maybe(chance)}

    def either(self, **makers: Callable[[], Any]) -> JSON:
        """One of these elements, or none: a choice."""
        name = self.one([*makers, None])
        return {name: makers[name]()} if name else {}

    def text(self) -> str:
        return str(self.one(pools.TEXTS))

    def date(self) -> str:
        return str(self.one(pools.DATES))

    def moment(self) -> str:
        return str(self.one(pools.DATES + pools.MOMENTS + pools.MOMENTS))

    def instant(self) -> str:
        return str(self.one(pools.INSTANTS))

    def coding(self, codes: Sequence[str] = pools.CODES) -> JSON:
        made = {"code": self.one(codes), **self.given(system=lambda: self.one(pools.SYSTEMS), display=self.text)}
        if self.maybe(0.95):
            return made
        return self.given(0.9, system=lambda: self.one(pools.SYSTEMS), display=self.text) or made

    def concept(self, codes: Sequence[str] = pools.CODES) -> JSON:
        if self.maybe(0.1):
            return {"text": self.text()}
        return {"coding": self.some(lambda: self.coding(codes)), **self.given(0.4, text=self.text)}

    def identifier(self) -> JSON:
        made = self.given(
            0.7,
            system=lambda: self.one(pools.SYSTEMS),
            value=lambda: self.one(pools.NUMBERS_OF_RECORDS),
            type=self.concept,
        )
        return made or {"value": self.one(pools.NUMBERS_OF_RECORDS)}

    def name(self) -> JSON:
        return self.given(family=self.text, given=lambda: self.some(self.text), text=self.text) or {
            "family": self.text()
        }

    def address(self) -> JSON:
        made = self.given(line=lambda: self.some(self.text), city=self.text, postalCode=self.text, country=self.text)
        return {"use": self.one(["home", "work"]), **made, **self.given(0.3, text=self.text)}

    def telecom(self) -> JSON:
        return {"system": self.one(["phone", "email"]), "value": self.one(pools.CONTACTS)}

    def gender(self) -> str:
        return str(self.one(["male", "female", "other", "unknown"]))

    def flag(self) -> bool:
        return self.maybe(0.5)

    def number(self) -> Decimal:
        return Decimal(self.one(pools.DECIMALS))

    def quantity(self) -> JSON:
        made: JSON = {"value": self.number()} if self.maybe(0.95) else {}
        if self.maybe(0.2):
            made["comparator"] = self.one(["<", "<=", ">", ">="])
        unit = self.one(pools.UNITS)
        if self.maybe(0.6):
            return {
                **made,
                "unit": self.one([unit, "a unit"]),
                "system": self.one([UCUM, UCUM, "urn:own"]),
                "code": unit,
            }
        return {**made, **({"unit": unit} if self.maybe() else {})} or {"unit": unit}

    def range(self) -> JSON:
        low, high = sorted([self.number(), self.number()])
        unit = {"unit": "a", "system": UCUM, "code": "a"} if self.maybe() else {}
        made = {"low": {"value": low, **unit}, "high": {"value": high, **unit}}
        return made if self.maybe(0.7) else dict([self.one(list(made.items()))])

    def span(self) -> tuple[int, int]:
        start = self.one([0, 5, 50, 95])
        return start, start + self.one([0, 4, 5, 45])

    def money(self) -> JSON:
        return {"value": self.number(), "currency": self.one(["EUR", "USD"])}

    def period(self) -> JSON:
        low, high = sorted([self.one(pools.ORDERED), self.one(pools.ORDERED)])
        made = {"start": pools.ORDERED_MOMENTS[low], "end": pools.ORDERED_MOMENTS[high]}
        return made if self.maybe(0.6) else dict([self.one(list(made.items()))])

    def timing(self) -> JSON:
        made = self.given(event=lambda: self.some(self.moment), repeat=lambda: {"boundsPeriod": self.period()})
        return made or {"event": [self.moment()]}

    def to(self, *types: str) -> JSON:
        """A Reference in one of its forms; mostly one that leads somewhere."""
        type_ = self.one(types)
        there = f"{type_}/{self.random.randint(1, 4)}"
        form = self.random.random()
        if form < 0.72:
            return {"reference": there, **self.given(0.3, display=self.text)}
        if form < 0.79:
            return {"reference": f"{there}/_history/{self.random.randint(1, 2)}"}
        if form < 0.85:
            return {"reference": f"http://other.example/fhir/{there}"}
        if form < 0.88:
            return {"reference": "urn:uuid:6b8a5a2e-0000-4000-8000-000000000001"}
        if form < 0.93 and type_ in ("Patient", "Practitioner"):
            if all(each["resourceType"] != type_ for each in self.contained):
                self.contained.append({"resourceType": type_, "id": type_.lower(), "name": [self.name()]})
            return {"reference": f"#{type_.lower()}"}
        if form < 0.98:
            return {"identifier": self.identifier(), **self.given(0.5, type=lambda: type_)}
        return {"display": self.text()}

    def meta(self) -> JSON:
        return self.given(
            0.4,
            tag=lambda: self.some(lambda: {"system": self.one(pools.SYSTEMS), "code": self.one(pools.CODES[:3])}),
            security=lambda: [{"system": "urn:own", "code": self.one(["x", "y"])}],
            profile=lambda: [self.one(pools.PROFILES)],
            source=lambda: self.one(pools.URIS),
        )
