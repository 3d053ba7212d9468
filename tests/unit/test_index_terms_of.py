"""The terms of one parameter are those that the whole index has of it."""

from __future__ import annotations

from itertools import chain

import pytest

from fhirserver.core.definitions import search_parameters
from fhirserver.core.index import extract, terms_of
from fhirserver.core.validate import parse
from fixtures import charts


def test_of_every_parameter_they_are_those_of_the_whole() -> None:
    found = 0
    for line in charts.lines(chain(charts.directory(), charts.chart(300))):
        resource = parse(line)
        type_ = resource["resourceType"]
        whole = extract(resource).terms
        for code, parameter in search_parameters(type_).items():
            if parameter.absent or parameter.type == "composite":
                continue
            begins = (f"{type_}|{code}=", f"{type_}|{code}:")
            expected = tuple(term for term in whole if term.startswith(begins))
            assert terms_of(resource, code) == expected, (type_, code)
            found += len(expected)
    assert found > 3_000


@pytest.mark.parametrize("type_", ["Patient", "Nonsense"])
def test_of_what_is_no_parameter_there_are_none(type_: str) -> None:
    assert terms_of({"resourceType": type_, "gender": "male"}, "nonsense") == ()
