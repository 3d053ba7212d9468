"""What is asked in the rows of search: each kind of search about one of the generated small charts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from fhirserver.cli.bench.client import Ask
from fhirserver.config import BASE_PATH as FHIR
from fixtures import charts
from fixtures.vocabulary import FAMILIES, LOINC, MEASURES

CHART = 24
"""Resources of a small chart."""
LATE_CHARTS = 5
"""Charts that come last into each store, years later than all the others."""
LATE = "2021"
_MIDDLE = "2000-06-01"
"""Before it lie some two thirds of what is not late."""


def small_charts(numbers: range) -> Iterator[charts.Resource]:
    """The charts of these numbers."""
    for number in numbers:
        yield from charts.chart(CHART, number=number)


def late_charts(number: int) -> Iterator[charts.Resource]:
    """A few more, the first of this number, whose Observations are of years later."""
    for resource in small_charts(range(number, number + LATE_CHARTS)):
        if "effectiveDateTime" in resource:
            resource["effectiveDateTime"] = "2024" + resource["effectiveDateTime"][4:]
        yield resource


class Kind(NamedTuple):
    """One kind of search. ``about``: from a chart's number to its type and parameters. ``consented``: asked by a third
    party to whom a few of the patients have given consent; else by a member."""

    name: str
    about: Callable[[int], tuple[str, Mapping[str, str]]]
    consented: bool = False

    def ask(self, number: int) -> Ask:
        """The request about the chart of this number: its first page."""
        type_, parameters = self.about(number)
        return Ask(f"{FHIR}/{type_}?{urlencode({**parameters, '_count': '50'})}")


def _code(number: int) -> str:
    """One of the codes, each as common as any other."""
    return f"{LOINC}|{MEASURES[number % len(MEASURES)].code}"


def _patient(number: int) -> dict[str, Any]:
    return next(charts.chart(1, number=number))


def _patient_and_code(number: int) -> tuple[str, Mapping[str, str]]:
    observed = [one["code"]["coding"][0]["code"] for one in small_charts(range(number, number + 1)) if _seen(one)]
    return "Observation", {"patient": f"Patient/{charts.patient_id(number)}", "code": f"{LOINC}|{observed[0]}"}


def _seen(resource: charts.Resource) -> bool:
    return bool(resource["resourceType"] == "Observation")


def _name_and_birthdate(number: int) -> tuple[str, Mapping[str, str]]:
    patient = _patient(number)
    return "Patient", {"name": patient["name"][0]["family"][:4], "birthdate": patient["birthDate"]}


def _code_and_date(number: int) -> tuple[str, Mapping[str, str]]:
    return "Observation", {"code": _code(number), "date": f"ge{_MIDDLE}"}


def _code_and_late_date(number: int) -> tuple[str, Mapping[str, str]]:
    return "Observation", {"code": _code(number), "date": f"ge{LATE}"}


def _chain_of_one(number: int) -> tuple[str, Mapping[str, str]]:
    identifier = _patient(number)["identifier"][0]
    named = f"{identifier['system']}|{identifier['value']}"
    return "Observation", {"subject:Patient.identifier": named, "status": "final"}


def _chain_of_many(number: int) -> tuple[str, Mapping[str, str]]:
    family = FAMILIES[number % len(FAMILIES)]
    return "Observation", {"subject:Patient.name": family, "code": _code(number)}


def _has_many(number: int) -> tuple[str, Mapping[str, str]]:
    return "Patient", {"_has:Observation:patient:code": _code(number)}


def _has_few(_: int) -> tuple[str, Mapping[str, str]]:
    return "Patient", {"_has:Observation:patient:date": f"ge{LATE}", "active": "true"}


def _code_alone(number: int) -> tuple[str, Mapping[str, str]]:
    return "Observation", {"code": _code(number)}


def _patients(number: int) -> tuple[str, Mapping[str, str]]:
    return "Patient", {"name": FAMILIES[number % len(FAMILIES)]}


PATIENT_AND_CODE = Kind("Observation?patient=&code=", _patient_and_code)
CODE = Kind("Observation?code=", _code_alone)
KINDS = (
    PATIENT_AND_CODE,
    Kind("Patient?name=&birthdate=", _name_and_birthdate),
    Kind("Observation?code=&date=ge", _code_and_date),
    Kind("Observation?code=&date=ge, few and written last", _code_and_late_date),
    Kind("Observation?subject:Patient.identifier=, one patient", _chain_of_one),
    Kind("Observation?subject:Patient.name=&code=, a tenth of all patients", _chain_of_many),
    Kind("Patient?_has:Observation:patient:code=", _has_many),
    Kind("Patient?_has:Observation:patient:date=ge, few and written last", _has_few),
    Kind("third party of 20 consents: Observation?code=", _code_alone, True),
    Kind("third party of 20 consents: Patient?name=", _patients, True),
)
