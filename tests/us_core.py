"""What US Core 7 has a server search by, and a plain reading of files that says what such a search must find.

Source: US Core 7.0.0, CapabilityStatement us-core-server: every parameter and combination that it says SHALL or SHOULD.
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

Resource = dict[str, Any]
Asked = tuple[tuple[str, str], ...]

SHALL = """
AllergyIntolerance  patient
CarePlan            patient category
CareTeam            patient status
Condition           patient | patient category
Coverage            patient
Device              patient
DiagnosticReport    patient | patient category | patient code | patient category date
DocumentReference   _id | patient | patient category | patient category date | patient type
Encounter           _id | patient | date patient
Goal                patient
Immunization        patient
Location            name | address
MedicationDispense  patient
MedicationRequest   patient intent | patient intent status
Observation         patient code | patient category | patient category date
Organization        name | address
Patient             _id | identifier | name | birthdate name | gender name
Practitioner        name | identifier
PractitionerRole    specialty | practitioner
Procedure           patient | patient date
QuestionnaireResponse  patient
RelatedPerson       patient
ServiceRequest      _id | patient | patient category | patient code | patient category authored
"""
SHOULD = """
AllergyIntolerance  patient clinical-status
CarePlan            patient category date | patient category status | patient category status date
CareTeam            patient role
Condition           patient clinical-status | patient category encounter | patient asserted-date | patient code
Condition           patient onset-date | patient abatement-date | patient recorded-date | patient _lastUpdated
Device              patient status | patient type
DiagnosticReport    patient status | patient code date | patient _lastUpdated
DocumentReference   patient status | patient type period
Encounter           identifier | patient status | patient location | class patient | patient type
Encounter           patient discharge-disposition | patient _lastUpdated
Goal                patient description | patient lifecycle-status | patient target-date
Immunization        patient date | patient status
Location            address-city | address-state | address-postalcode
MedicationDispense  patient status | patient status type
MedicationRequest   patient intent authoredon | patient intent encounter
Observation         patient code date | patient category status | patient _lastUpdated
Patient             family gender | birthdate family | death-date family | given | race | ethnicity | gender-identity
Practitioner        _id
Procedure           patient status | patient code date
QuestionnaireResponse  _id | patient status | patient authored | patient questionnaire | patient _tag
RelatedPerson       _id | name
ServiceRequest      patient status | patient code authored
Specimen            _id | patient
"""
REVINCLUDED = sorted({line.split()[0] for line in SHALL.strip().splitlines()} - {
    "Location", "Organization", "Practitioner", "PractitionerRole"})  # fmt: skip
"""Types for which Provenance:target SHALL be supported."""


class Combination(NamedTuple):
    type: str
    codes: tuple[str, ...]


def combinations(table: str) -> Iterator[Combination]:
    for line in table.strip().splitlines():
        type_, _, rest = line.partition(" ")
        for each in rest.split("|"):
            yield Combination(type_, tuple(each.split()))


COMBINATIONS = [*combinations(SHALL), *combinations(SHOULD)]

EXTENSION = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
ASSERTED = "http://hl7.org/fhir/StructureDefinition/condition-assertedDate"

# code -> the kind of its values, and where they stand; of one type only where the name is qualified
PLACES: dict[str, tuple[str, str]] = {
    "_id": ("id", "id"),
    "_tag": ("token", "meta.tag"),
    "patient": ("reference", "subject patient beneficiary"),
    "abatement-date": ("date", "abatementDateTime abatementPeriod"),
    "address": (
        "string",
        "address.text address.line address.city address.district address.state address.country address.postalCode",
    ),
    "address-city": ("string", "address.city"),
    "address-postalcode": ("string", "address.postalCode"),
    "address-state": ("string", "address.state"),
    "asserted-date": ("date", f"extension[{ASSERTED}].valueDateTime"),
    "authored": ("date", "authored authoredOn"),
    "authoredon": ("date", "authoredOn"),
    "birthdate": ("date", "birthDate"),
    "category": ("token", "category"),
    "class": ("token", "class"),
    "clinical-status": ("token", "clinicalStatus"),
    "code": ("token", "code"),
    "date": (
        "date",
        "date period effectiveDateTime effectivePeriod occurrenceDateTime performedDateTime performedPeriod",
    ),
    "death-date": ("date", "deceasedDateTime"),
    "description": ("token", "description"),
    "discharge-disposition": ("token", "hospitalization.dischargeDisposition"),
    "encounter": ("reference", "encounter"),
    "ethnicity": ("code", f"extension[{EXTENSION}ethnicity].extension.valueCoding.code"),
    "family": ("string", "name.family"),
    "gender": ("code", "gender"),
    "gender-identity": ("code", f"extension[{EXTENSION}genderIdentity].valueCodeableConcept.coding.code"),
    "given": ("string", "name.given"),
    "identifier": ("token", "identifier"),
    "intent": ("code", "intent"),
    "lifecycle-status": ("code", "lifecycleStatus"),
    "location": ("reference", "location.location"),
    "name": ("string", "name.family name.given name.prefix name.suffix name.text"),
    "Location.name": ("string", "name alias"),
    "Organization.name": ("string", "name alias"),
    "onset-date": ("date", "onsetDateTime onsetPeriod"),
    "period": ("date", "context.period"),
    "practitioner": ("reference", "practitioner"),
    "questionnaire": ("id", "questionnaire"),
    "race": ("code", f"extension[{EXTENSION}race].extension.valueCoding.code"),
    "recorded-date": ("date", "recordedDate"),
    "role": ("token", "participant.role"),
    "specialty": ("token", "specialty"),
    "status": ("code", "status"),
    "target-date": ("date", "target.dueDate"),
    "type": ("token", "type"),
}


# -- a plain reading of the files


class World:
    """What the files hold: resources by type and id, with the references that a server can resolve made local."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.types: dict[str, dict[str, Resource]] = defaultdict(dict)
        for each in resources:
            self.types[each["resourceType"]][each["id"]] = each
        for each in self.types.values():
            for id_, resource in each.items():
                each[id_] = json.loads(json.dumps(resource), object_hook=self._resolved)

    def _resolved(self, element: dict[str, Any]) -> dict[str, Any]:
        """`Location?identifier=system|value` as the Location with that identifier."""
        type_, _, query = str(element.get("reference", "")).partition("?identifier=")
        if query:
            wanted = dict(zip(("system", "value"), query.split("|"), strict=True))
            for id_, resource in self.types[type_].items():
                if any(wanted.items() <= each.items() for each in resource.get("identifier", ())):
                    element["reference"] = f"{type_}/{id_}"
        return element

    def of(self, type_: str) -> list[Resource]:
        return list(self.types[type_].values())

    def expected(self, type_: str, asked: Asked, among: Callable[[Resource], bool] = lambda _: True) -> set[str]:
        """The ids of the resources that the search must find."""
        return {each["id"] for each in self.of(type_) if all(meets(each, *pair) for pair in asked) and among(each)}


def read(folder: Path) -> Iterator[Resource]:
    """The resources of the files, those of transactions by their ids."""
    for path in sorted(folder.iterdir()):
        for line in path.read_text().splitlines() if path.suffix == ".ndjson" else [path.read_text()]:
            resource = json.loads(line)
            if resource.get("type") != "transaction":
                yield resource
                continue
            ids = {each["fullUrl"]: each["resource"] for each in resource["entry"]}
            for each in ids.values():
                text = json.dumps(each)
                for url, named in ids.items():
                    text = text.replace(f'"{url}"', f'"{named["resourceType"]}/{named["id"]}"') if url in text else text
                yield json.loads(text)


def place(type_: str, code: str) -> tuple[str, list[str]]:
    kind, paths = PLACES.get(f"{type_}.{code}") or PLACES[code]
    return kind, paths.split()


def values(resource: Resource, code: str) -> list[Any]:
    """What stands where the parameter looks."""
    _, paths = place(resource["resourceType"], code)
    return [value for path in paths for value in walk(resource, path)]


def walk(value: Any, path: str) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from walk(each, path)
    elif not path:
        if value is not None:
            yield value
    elif isinstance(value, dict):
        if path.startswith("extension["):
            url, _, rest = path.removeprefix("extension[").partition("].")
            yield from walk([each for each in value.get("extension", ()) if each["url"] == url], rest)
        else:
            name, _, rest = path.partition(".")
            yield from walk(value.get(name), rest)


def tokens(value: Any) -> Iterator[tuple[str, str]]:
    """(system, code) of a CodeableConcept, Coding or Identifier."""
    for each in value.get("coding", [value]) if isinstance(value, dict) else ():
        code = each.get("code") or each.get("value")
        if isinstance(code, str):
            yield each.get("system", ""), code


def plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in decomposed if not unicodedata.combining(each))


def moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def covered(value: Any) -> tuple[float, float]:
    """The first and last moment of a date, a time or a Period, in seconds."""
    if isinstance(value, dict):
        return (
            covered(value["start"])[0] if "start" in value else -inf,
            covered(value["end"])[1] if "end" in value else inf,
        )
    if len(value) > 10:
        first = moment(value).timestamp()
        return first, first if "." in value else first + 0.999
    year, month, day = (int(each) for each in (value + "-01-01")[:10].split("-"))
    start = datetime(year, month, day, tzinfo=UTC)
    if len(value) == 10:
        end = start + timedelta(days=1)
    else:
        end = datetime(year + (month == 12 or len(value) == 4), 1 if len(value) == 4 else month % 12 + 1, 1, tzinfo=UTC)
    return start.timestamp(), end.timestamp() - 0.001


PREFIXES: dict[str, Callable[[tuple[float, float], tuple[float, float]], bool]] = {
    "gt": lambda has, asked: has[1] > asked[1],
    "lt": lambda has, asked: has[0] < asked[0],
    "eq": lambda has, asked: asked[0] <= has[0] and has[1] <= asked[1],
    "ge": lambda has, asked: PREFIXES["gt"](has, asked) or PREFIXES["eq"](has, asked),
    "le": lambda has, asked: PREFIXES["lt"](has, asked) or PREFIXES["eq"](has, asked),
}


def meets(resource: Resource, code: str, asked: str) -> bool:
    """Whether the resource has a value that this asks for."""
    if code == "_lastUpdated":
        return asked.startswith("ge")
    kind, _ = place(resource["resourceType"], code)
    found = values(resource, code)
    match kind:
        case "reference":
            wanted = asked if "/" in asked else f"/{asked}"
            return any(each.get("reference", "").endswith(wanted) for each in found)
        case "token":
            system, bar, wanted = asked.rpartition("|")
            pairs = {pair for each in found for pair in tokens(each)}
            return (system, wanted) in pairs if bar else any(wanted == each for _, each in pairs)
        case "date":
            prefix, text = (asked[:2], asked[2:]) if asked[:2] in PREFIXES else ("eq", asked)
            return any(PREFIXES[prefix](covered(each), covered(text)) for each in found if each)
        case "string":
            return any(plain(each).startswith(plain(asked)) for each in found if isinstance(each, str))
        case _:
            return asked in found


# -- the questions


def forms(resource: Resource, code: str) -> list[str]:
    """The ways to ask for a value that this resource has."""
    if code == "_lastUpdated":
        return ["ge2020-01-01", "gt2099-01-01T00:00:00Z"]
    kind, _ = place(resource["resourceType"], code)
    usable = {"token": lambda value: [*tokens(value)], "reference": lambda value: "reference" in value}
    found = [each for each in values(resource, code) if usable.get(kind, bool)(each)]
    if not found:
        return []
    first = found[0]
    match kind:
        case "reference":
            return [first["reference"], first["reference"].partition("/")[2]]
        case "token":
            system, wanted = next(tokens(first))
            return [f"{system}|{wanted}", wanted] if system else [wanted]
        case "date":
            text = first if isinstance(first, str) else first.get("start") or first["end"]
            second = moment(text).replace(microsecond=0).isoformat()
            return [prefix + each for each in (text[:10], second) for prefix in ("gt", "lt", "ge", "le")] + [text[:10]]
        case "string":
            return [first, first[: len(first) // 2 + 1].upper()]
        case _:
            return [first]


def has(resource: Resource, codes: Iterable[str]) -> bool:
    return all(forms(resource, code) for code in codes)


def questions(world: World, combination: Combination) -> Iterator[Asked]:
    """Each form of each value once, of the first, the middle and the last resource that has them all."""
    having = [each for each in world.of(combination.type) if has(each, combination.codes)]
    assert having, f"nothing in the data has {combination}"
    for resource in [having[0], having[len(having) // 2], having[-1]]:
        columns = [forms(resource, code) for code in combination.codes]
        for at in range(max(map(len, columns))):
            yield tuple(
                (code, column[at % len(column)]) for code, column in zip(combination.codes, columns, strict=True)
            )
