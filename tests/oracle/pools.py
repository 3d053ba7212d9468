"""The values that random worlds and queries draw from: few, so that they meet, and of the kinds that go wrong."""

from __future__ import annotations

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"

TEXTS = [
    "Peter", "peters", "PETER", "Pétér", "Pe", "O'Brien-Évè", "Müller  Lüdenscheidt", "straße", "STRASSE",
    "van der Berg", "der", "a,b", "c|d", "e$f", "g\\h", "a", "İzmir", "Ångström", "A\u030angstro\u0308m",
    "%_*", 'say "x"', "100%", "日本", "Zoë z", "\\,", "-", "ß", "ΣΑΣ", "σας",
]  # fmt: skip
CODES = ["a", "A", "b", "8480-6", "8462-4", "b c", "a,b", "a|b", "a$b", "b\\c"]
PARTS = ["8480-6", "8462-4", "a"]
SYSTEMS = [LOINC, "http://snomed.info/sct", "urn:own", "http://loinc.org/other"]
NUMBERS_OF_RECORDS = ["1", "2", "00123", "00124", "x,y", "x|y", "Ab", "ab"]
CONTACTS = ["555-1234", "+1 (555) 1234", "peter@example.org", "Peter@example.org"]
PROFILES = ["http://own.example/p", "http://own.example/p|1", "http://own.example/p|2", "http://own.example/pq"]
URIS = [
    "http://acme.example/fhir/ValueSet/123", "http://acme.example/fhir/ValueSet", "http://acme.example/fhir",
    "http://acme.example/fhirs", "http://acme.example/fhir/ValueSet/123/x", "urn:oid:1.2.3", "urn:oid:1.2.34",
    "http://Acme.example/fhir",
]  # fmt: skip
DECIMALS = [
    "100", "100.0", "99.5", "99.49", "100.5", "95", "105", "104.9", "5.4", "5.40", "5.45", "5.35", "0.0054", "5400",
    "0", "-5", "-5.4", "1E+2", "5", "5.5", "4.5", "0.1", "0.3", "0.30000000000000004",
]  # fmt: skip
UNITS = ["mg", "g", "ug", "kg", "mg/dL", "g/L", "mmol/L", "umol/L", "h", "min", "{score}", "%", "own"]

DATES = [
    "2019",
    "2020",
    "2021",
    "2020-02",
    "2020-03",
    "2020-02-28",
    "2020-02-29",
    "2020-03-01",
    "2019-12-31",
    "2020-12-31",
]
MOMENTS = [
    "2020-02-29T10:00:00Z", "2020-02-29T12:00:00+02:00", "2020-03-01T00:30:00+01:00", "2020-02-28T23:30:00-01:00",
    "2020-02-29T23:59:59.999Z", "2020-03-01T00:00:00Z", "2020-02-29T10:00:00.500Z", "2019-12-31T23:59:59Z",
    "2020-12-31T23:59:59-12:00",
]  # fmt: skip
INSTANTS = [moment for moment in MOMENTS if moment.startswith("2020")]
ORDERED_MOMENTS = [
    "2018", "2019-06", "2019-12-31", "2020-01-15T10:00:00Z", "2020-02-28", "2020-02-29T10:00:00Z", "2020-03-01", "2021",
]  # fmt: skip
"""In order, so that a Period made of two of them does not end before it starts."""
ORDERED = range(len(ORDERED_MOMENTS))
PLACES = [
    ("52.5", "13.4"),
    ("52.51", "13.41"),
    ("48.85", "2.35"),
    ("-17.7", "179.9"),
    ("-17.7", "-179.9"),
    ("89.9", "0"),
    ("0", "0"),
]
