"""Random searches of a random world: mostly for values that are in it, bent a little; and searches without a meaning.

Left out because R4 does not say what they find, or a server need not have them: modifiers of `_id`; `:above` and
`:below` of a URN; `system|` in a composite; a system for what has none; `:identifier`, `:text` and `:missing` where the
expression asks what a reference resolves to; `deceased:missing`; canonicals as references; `system|` in a quantity; a
place within 2 % of the edge of `near`; the composite DocumentReference `relationship`, whose published parts are
exchanged; `_sort` by what has several values in no order of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from fhirserver.core.definitions import SearchParameter, search_parameters
from tests.oracle import pools
from tests.oracle.evaluate import references
from tests.oracle.extract import JSON, Node, below, elements
from tests.oracle.kinds import KINDS
from tests.oracle.match import displays, distance, strings
from tests.oracle.values import PREFIXES, bare

Pair = tuple[str, str]

SORTABLE = {
    "Patient": ["birthdate", "gender", "family", "given", "address-city", "death-date", "active"],
    "Observation": ["date", "status", "value-quantity", "value-date", "value-string"],
    "Encounter": ["date", "status", "length"],
    "Condition": ["onset-date", "recorded-date", "onset-age", "abatement-date"],
    "ValueSet": ["url", "date", "name", "status", "version"],
    "RiskAssessment": ["probability", "date"],
    "Invoice": ["totalnet", "date", "status"],
    "Organization": ["active"],
    "ServiceRequest": ["occurrence", "authored", "intent"],
    "MedicationRequest": ["authoredon", "status"],
}


def escaped(text: str) -> str:
    """With a backslash before what separates values (R4 3.1.1.4.7)."""
    return "".join(f"\\{c}" if c in "\\,|$" else c for c in text)


class Asker:
    """Draws searches of one world from one seed."""

    def __init__(
        self, world: Sequence[JSON], seed: int, known: dict[tuple[str, str], list[Node]] | None = None
    ) -> None:
        self.world = world
        self.known = {} if known is None else known
        self.random = Random(seed)  # noqa: S311  no secret

    def one(self, pool: Sequence[Any]) -> Any:
        return self.random.choice(pool)

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def again(self, seed: int) -> Asker:
        """Another draw from the same world."""
        return Asker(self.world, seed, self.known)

    def query(self) -> tuple[str | None, list[Pair]]:
        """A type, and one to three parameters that all must hold; sometimes an order. Seldom of several types."""
        if self.maybe(0.05):
            return None, self._of_types()
        type_ = self.one([resource["resourceType"] for resource in self.world] or sorted(KINDS))
        pairs = [self.pair(type_) for _ in range(self.one([1, 1, 1, 2, 3]))]
        if type_ in SORTABLE and self.maybe(0.2):
            codes = self.random.sample([*SORTABLE[type_], "_id", "_lastUpdated"], k=self.one([1, 2]))
            pairs.append(("_sort", ",".join(self.one(["", "-"]) + code for code in codes)))
        return type_, pairs

    def _of_types(self) -> list[Pair]:
        """A search of the whole system: its types, and a parameter that every type has."""
        types = sorted({resource["resourceType"] for resource in self.world})
        named = self.random.sample(types, k=min(len(types), self.one([1, 2, 3])))
        common = ("_id", "_tag", "_security", "_profile", "_source", "_lastUpdated")
        pairs = [
            self._plain(search_parameters(named[0])[code], [])
            for code in self.random.sample(common, k=self.one([1, 1, 2]))
        ]
        return [("_type", ",".join(named)), *pairs]

    def includes(self, type_: str) -> list[Pair]:
        """One to three parameters that ask for more than the matches."""
        return [self._include(type_) for _ in range(self.one([1, 2, 3]))]

    def _include(self, type_: str) -> Pair:
        iterate = self.one(["", "", ":iterate"])
        source = self.one([resource["resourceType"] for resource in self.world]) if iterate else type_
        if self.maybe(0.5):
            name = f"_revinclude{iterate}"
            ways = self._referring(source) or [("Provenance", "target")]
        else:
            name = f"_include{iterate}"
            ways = [(source, each.code) for each in self._ways(source)]
            if self.maybe(0.15) or not ways:
                return name, self.one(["*", f"{source}:*"])
        source, code = self.one(ways)
        nodes = self._nodes(source, search_parameters(source)[code])
        known = {str(node.value.get("reference", "")).partition("/")[0] for node in nodes if node.type == "Reference"}
        target = self.one([f":{each}" for each in sorted(known & set(KINDS))] or [""])
        return name, f"{source}:{code}" + self.one(["", target])

    def pair(self, type_: str, depth: int = 3) -> Pair:
        """One parameter of this type with a value; chains go through at most ``depth`` links."""
        if depth and self.maybe(0.1):
            found = self._has(type_, depth)
            if found:
                return found
        if self.maybe(0.03):
            return "_list", ",".join(self.random.sample(["1", "2", "3", "9"], k=self.one([1, 1, 2])))
        parameter = self._parameter(type_)
        nodes = self._nodes(type_, parameter)
        if parameter.type == "reference" and depth and self.maybe(0.35):
            found = self._chain(type_, parameter, depth)
            if found:
                return found
        return self._plain(parameter, nodes)

    def _parameter(self, type_: str) -> SearchParameter:
        every = [p for p in search_parameters(type_).values() if p.expression and p.code != "relationship"]
        full = [parameter for parameter in every if self._nodes(type_, parameter)]
        found: SearchParameter = self.one(full if full and self.maybe(0.9) else every)
        return found

    def _nodes(self, type_: str, parameter: SearchParameter) -> list[Node]:
        if (type_, parameter.code) not in self.known:
            of_type = [resource for resource in self.world if resource["resourceType"] == type_]
            nodes = [node for resource in of_type for node in elements(resource, parameter.expression)]
            self.known[type_, parameter.code] = nodes
        return self.known[type_, parameter.code]

    def _has(self, type_: str, depth: int) -> Pair | None:
        ways = self._referring(type_)
        if not ways:
            return None
        source, code = self.one(ways)
        name, value = self.pair(source, depth - 1)
        return f"_has:{source}:{code}:{name}", value

    def _referring(self, type_: str) -> list[tuple[str, str]]:
        """The types and parameters whose references in the world lead to this type."""
        return [
            (source, parameter.code)
            for source in sorted({resource["resourceType"] for resource in self.world})
            for parameter in self._ways(source)
            if any(str(node.value).find(f"'{type_}/") > 0 for node in self._nodes(source, parameter))
        ]

    def _ways(self, source: str) -> list[SearchParameter]:
        """The parameters of this type whose references stand in the world."""
        every = [parameter for parameter in search_parameters(source).values() if parameter.type == "reference"]
        return [each for each in every if any(node.type == "Reference" for node in self._nodes(source, each))]

    def _chain(self, type_: str, parameter: SearchParameter, depth: int) -> Pair | None:
        of_type = [resource for resource in self.world if resource["resourceType"] == type_]
        targets = sorted({key.partition("/")[0] for each in of_type for key in references(each, parameter)})
        targets = [each for each in targets if each in parameter.targets or parameter.targets == ("Resource",)]
        if not targets:
            return None
        target = self.one(targets)
        name, value = self.pair(target, depth - 1)
        named = f":{target}" if self.maybe(0.5) else ""
        if not named and not self._same_everywhere(parameter, target, name):
            named = f":{target}"
        return f"{parameter.code}{named}.{name}", value

    def _same_everywhere(self, parameter: SearchParameter, target: str, name: str) -> bool:
        """Whether what follows an untyped chain means the same kind of thing in every type it may lead to."""
        code = name.partition(".")[0].partition(":")[0]
        own = search_parameters(target).get(code)
        if own is None or "." in name or ":" in name or parameter.targets == ("Resource",):
            return False
        others = [search_parameters(other).get(code) for other in parameter.targets]
        return all(other is None or other.type == own.type != "composite" for other in others)

    def _plain(self, parameter: SearchParameter, nodes: list[Node]) -> Pair:
        resolved = "resolve()" in parameter.expression
        if parameter.type != "composite" and parameter.code != "deceased" and not resolved and self.maybe(0.06):
            return f"{parameter.code}:missing", self.one(["true", "false"])
        modifier = ""
        if parameter.type in _MODIFIERS and self.maybe(0.35):
            modifier = self.one(_MODIFIERS[parameter.type])
            if parameter.code == "identifier":
                modifier = self.one(["of-type", "not", "text"])
            if resolved and modifier in ("identifier", "text"):
                modifier = ""
            if parameter.code == "_id":
                modifier = ""
            if modifier == "text" and not any(displays(node) for node in nodes):
                modifier = ""
        if modifier == "[type]":
            known = {node.value.get("reference", "").partition("/")[0] for node in nodes if node.type == "Reference"}
            possible = sorted(known & set(KINDS) & set(parameter.targets)) or [""]
            modifier = self.one(possible)
        if modifier in ("above", "below"):
            nodes = [node for node in nodes if node.value.startswith("http")]
        values = [self._value(parameter, modifier, nodes) for _ in range(self.one([1, 1, 1, 2, 3]))]
        if None in values:
            return self._plain(parameter, nodes)
        return parameter.code + (f":{modifier}" if modifier else ""), ",".join(map(str, values))

    def _value(self, parameter: SearchParameter, modifier: str, nodes: list[Node]) -> str | None:
        if parameter.code == "_id":
            return str(self.one(["1", "2", "3", "4", "9"]))
        if parameter.type == "composite":
            return self._composite(parameter, nodes)
        return self._single(parameter.type, modifier, nodes)

    def _composite(self, parameter: SearchParameter, contexts: list[Node]) -> str:
        parts = []
        context = self.one(contexts) if contexts else None
        for component in parameter.components:
            nodes = below(context, component.expression) if context else []
            parts.append(str(self._single(component.type, "$" if component.type == "token" else "", nodes)))
        return "$".join(parts)

    def _single(self, kind: str, modifier: str, nodes: list[Node]) -> str | None:
        node = self.one(nodes) if nodes and self.maybe(0.85) else None
        if modifier == "text":
            return self._text([text for each in nodes for text in displays(each)])
        if modifier == "of-type":
            return self._of_type(nodes)
        if kind == "token":
            return self._token(modifier, node, nodes)
        make: dict[str, Callable[[str, Node | None], str | None]] = {
            "string": self._string, "reference": self._reference, "date": self._date,
            "number": self._number, "quantity": self._quantity, "uri": self._uri, "special": self._near,
        }  # fmt: skip
        return make[kind](modifier, node)

    def _text(self, known: Sequence[str]) -> str:
        text = str(self.one(known if known and self.maybe(0.8) else pools.TEXTS))
        if self.maybe(0.5):
            start = self.one([0, 0, self.random.randrange(len(text))])
            text = text[start : start + self.random.randint(1, len(text))]
        text = self.one([text, text.upper(), text.lower()]).strip()
        return escaped(text) if bare(text) else "a"

    def _string(self, modifier: str, node: Node | None) -> str:
        known = strings(node) if node else []
        if modifier == "exact":
            return escaped(self.one(known or pools.TEXTS))
        return self._text(known)

    def _token(self, modifier: str, node: Node | None, known: Sequence[Node] = ()) -> str:
        """Plain values as they are; codings and identifiers in every form, of which a composite has no ``system|``."""
        if node is None or not isinstance(node.value, dict) or node.type == "ContactPoint":
            return escaped(self._bare(node, known))
        value: Any = node.value
        if node.type == "CodeableConcept":
            value = self.one(value.get("coding") or [{"code": "a"}])
        code, system = value.get("value" if node.type == "Identifier" else "code", ""), value.get("system", "")
        if not code or self.maybe(0.1):
            code = code or self.one(pools.CODES)
            system = self.one(pools.SYSTEMS)
        forms = ["", "|", f"{escaped(system)}|", f"{pools.LOINC}|"]
        if system and modifier != "$" and self.maybe(0.15):
            return f"{escaped(system)}|"
        return str(self.one(forms)) + escaped(code)

    def _bare(self, node: Node | None, known: Sequence[Node]) -> str:
        if node is None and known:
            node = self.one(known)
            if node.type == "boolean":
                return str(self.one(["true", "false"]))
            if node.type in ("code", "string", "CodeableConcept", "Coding"):
                return str(self.one(pools.CODES))
        if node is None:
            return "true"
        value = node.value.get("value", "x") if isinstance(node.value, dict) else node.value
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _of_type(self, nodes: Sequence[Node]) -> str | None:
        for node in self.random.sample(nodes, k=len(nodes)):
            for coding in node.value.get("type", {}).get("coding", ()):
                if node.type == "Identifier" and {"system", "code"} <= coding.keys() and "value" in node.value:
                    return "|".join(map(escaped, (coding["system"], coding["code"], node.value["value"])))
        return "urn:own|a|1"

    def _reference(self, modifier: str, node: Node | None) -> str:
        given = node.value if node and isinstance(node.value, dict) else {}
        if modifier == "identifier":
            identifier = given.get("identifier") or {"value": "1"}
            return self._token("", Node("Identifier", "Identifier", identifier, {}))
        text = given.get("reference") or f"{self.one(['Patient', 'Observation'])}/{self.one(['1', '2', '9'])}"
        if text.startswith("#"):
            text = "Patient/1"
        if modifier:
            return str(self.one(["1", "2", "3"]))
        relative = not text.startswith(("http", "urn"))
        forms = [text, text.partition("/_history")[0]]
        return escaped(self.one([*forms, text.split("/")[1]] if relative else forms))

    def _date(self, _: str, node: Node | None) -> str:
        value = node.value if node else None
        if isinstance(value, dict):
            known = [value.get("start"), value.get("end"), *value.get("event", ())]
            value = self.one([each for each in known if each] or [None])
        text = value or self.one(pools.DATES + pools.MOMENTS)
        cut = self.one([len(text), len(text), 10, 7, 4])
        return self._prefix() + str(text[:cut])

    def _prefix(self) -> str:
        return str(self.one(["", "", "", *PREFIXES]))

    def _digits(self, value: Any) -> str:
        text = format(Decimal(str(value)), "f")
        bent = [text, text, f"{text}0" if "." in text else f"{text}.0", self.one(pools.DECIMALS[:20]), "1e2"]
        if len(text) > 2 and text[-2] not in ".-":
            bent.append(text[:-1])
        return str(self.one(bent)).replace("1E+2", "1e2")

    def _number(self, _: str, node: Node | None) -> str:
        value = node.value if node and not isinstance(node.value, dict) else "0.5"
        return self._prefix() + self._digits(value)

    def _quantity(self, _: str, node: Node | None) -> str:
        given = node.value if node and isinstance(node.value, dict) else {}
        given = self.one(
            [each for each in (given.get("low"), given.get("high"), given.get("origin"), given) if each] or [{}]
        )
        text = self._prefix() + self._digits(given.get("value", "5.4"))
        code, system = given.get("code", given.get("currency")), given.get("system", pools.UCUM)
        if "currency" in given:
            system = "urn:iso:std:iso:4217"
        units = [code or "mg", given.get("unit", "mg"), self.one(pools.UNITS)]
        unit = escaped(self.one(units))
        return str(self.one([text, f"{text}||{unit}", f"{text}|{escaped(system)}|{unit}"]))

    def _uri(self, modifier: str, node: Node | None) -> str:
        text = node.value if node else self.one(pools.URIS[:5])
        if modifier == "below":
            text = text[: self.one([len(text), 26, 25, 20])]
        elif modifier == "above" and text.startswith("http"):
            text += self.one(["", "/x", "/x/y", "x"])
        return escaped(text)

    def _near(self, _: str, node: Node | None) -> str | None:
        latitude, longitude = self.one(pools.PLACES)
        if node and self.maybe(0.7):
            latitude, longitude = node.value["latitude"], node.value["longitude"]
        reach, unit, km = self.one(
            [("1", "km", 1), ("500", "m", 0.5), ("50", "km", 50), ("1000", "", 1000), ("9000", "km", 9000)]
        )
        positions = [each["position"] for each in self.world if "position" in each]
        far = [
            distance(float(latitude), float(longitude), float(p["latitude"]), float(p["longitude"])) for p in positions
        ]
        if any(abs(each - km) < km * 0.02 for each in far):
            return "0|0|1|km"
        return f"{latitude}|{longitude}|{reach}" + (f"|{unit}" if unit else "")


_MODIFIERS = {
    "string": ["exact", "contains"],
    "token": ["not", "not", "text"],
    "uri": ["above", "below"],
    "reference": ["[type]", "identifier", "text"],
}
