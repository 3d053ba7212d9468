"""The invariants of the datatypes (https://hl7.org/fhir/R4/datatypes.html, metadatatypes.html)."""

from __future__ import annotations

from fhirserver.core.dates import interval
from fhirserver.core.invariants.rule import Json, Make, apart, by_names, check, has, needs, number, one, some, text
from fhirserver.core.lexical import date_time_problem

_UCUM = "http://unitsofmeasure.org"
_ZONES = 14 * 3_600_000
"""The farthest a zone is from UTC, in milliseconds."""
_MEALS = ("C", "CM", "CD", "CV")


def is_after(first: str, second: str) -> bool:
    """Whether one date or time is surely later than another: both are read as generously as their precision allows."""
    if not first or not second or first == second:
        return False
    if len(first) == len(second) and first[19:] == second[19:]:
        return first > second  # the same form and zone, so text order is time order
    if date_time_problem(first) or date_time_problem(second):
        return False
    slack = 0 if ("T" in first) == ("T" in second) else _ZONES  # a day without a time may be meant in any zone
    try:
        return interval(first)[0] - slack > interval(second)[1]
    except ValueError:
        return False  # the first hours of the year 1 in a zone ahead of UTC


def later(key: str, first: str, second: str) -> Make:
    """The date or time ``second`` must not be before ``first``."""
    return check(key, lambda element: is_after(text(element, first), text(element, second)), first, second)


def _other_system(element: Json) -> bool:
    return bool(element.get("system", _UCUM) != _UCUM)


def _below(name: str, least: float) -> Make:
    return check(
        {"duration": "tim-4", "period": "tim-5"}[name],
        lambda element: (value := number(element, name)) is not None and value < least,
        name,
        where=name,
    )


def _wrong_size(attachment: Json) -> bool:
    data, size = "".join(text(attachment, "data").split()), number(attachment, "size")
    if not data or size is None or len(data) % 4:
        return False  # nothing to compare, or no base64
    return size != len(data) // 4 * 3 - len(data[-2:]) + len(data[-2:].rstrip("="))


def _rng_2(range_: Json) -> bool:
    low, high = range_.get("low"), range_.get("high")
    if not isinstance(low, dict) or not isinstance(high, dict):
        return False
    if any(low.get(unit) != high.get(unit) for unit in ("unit", "code", "system")):
        return False  # quantities of different units are not compared here
    least, most = number(low, "value"), number(high, "value")
    return least is not None and most is not None and least > most


def _tim_9(repeat: Json) -> bool:
    when = repeat.get("when")
    if isinstance(when, list):
        return any(each in _MEALS for each in when if isinstance(each, str))
    return not has(repeat, "when")


def _trd_3(trigger: Json) -> bool:
    type_ = text(trigger, "type")
    return (
        (type_ == "named-event" and not has(trigger, "name"))
        or (type_ == "periodic" and not any(name.lstrip("_").startswith("timing") for name in trigger))
        or (type_.startswith("data-") and not has(trigger, "data"))
    )


def _other_type(reference: Json) -> bool:
    named, literal = text(reference, "type"), text(reference, "reference")
    if ":" in literal or not named[:1].isupper():
        return False
    head, slash, _ = literal.partition("/")
    return bool(slash) and head[:1].isupper() and head != named


RULES: dict[str, tuple[Make, ...]] = {
    "Extension": (one("ext-1", "extension", "value"),),
    "Reference": (
        check(
            "ref-type",  # Reference.type: "if both […] are populated and […] a FHIR URL, both SHALL be consistent"
            _other_type,
            *("type", "reference"),
            where="type",
            says="type and reference name different types",
        ),
    ),
    "Period": (later("per-1", "start", "end"),),
    "Range": (check("rng-2", _rng_2, "low", "high"),),
    "Quantity": (needs("qty-3", "code", "system"),),
    "SimpleQuantity": (
        needs("qty-3", "code", "system"),
        by_names("sqty-1", "comparator", broken=lambda there: there, where="comparator"),
    ),
    "Age": (
        needs("qty-3", "code", "system"),
        needs("age-1", "value", "code"),
        check("age-1", _other_system, "system", where="system"),
        check("age-1", lambda age: (value := number(age, "value")) is not None and value <= 0, "value", where="value"),
    ),
    "Count": (
        needs("qty-3", "code", "system"),
        needs("cnt-3", "value", "code"),
        check("cnt-3", _other_system, "system", where="system"),
        check("cnt-3", lambda count: count.get("code", "1") != "1", "code", where="code"),
        check("cnt-3", lambda count: (number(count, "value") or 0) % 1 != 0, "value", where="value"),
    ),
    "Distance": (
        needs("qty-3", "code", "system"),
        needs("dis-1", "value", "code"),
        check("dis-1", _other_system, "system", where="system"),
    ),
    "Duration": (
        needs("qty-3", "code", "system"),
        needs("drt-1", "code", "value"),
        check("drt-1", lambda duration: duration.get("system") != _UCUM, "code", where="system"),
    ),
    "Money": (
        check(
            "currency",  # bound to all codes of ISO 4217, which the definitions do not list
            lambda money: (
                bool(code := text(money, "currency"))
                and not (len(code) == 3 and code.isascii() and code.isalpha() and code.isupper())
            ),
            "currency",
            where="currency",
            says="a currency is three capital letters (ISO 4217)",
        ),
    ),
    "Ratio": (
        by_names("rat-1", "numerator", "denominator", broken=lambda numerator, denominator: numerator != denominator),
        some("rat-1", "numerator", "denominator", "extension"),
    ),
    "Attachment": (
        needs("att-1", "data", "contentType"),
        check(
            "size",  # Attachment.size: "the number of bytes of data that make up this attachment"
            _wrong_size,
            *("data", "size"),
            where="size",
            says="is not the number of bytes of the data",
        ),
    ),
    "ContactPoint": (needs("cpt-2", "value", "system"),),
    "Expression": (some("exp-1", "expression", "reference"),),
    "DataRequirement.codeFilter": (one("drq-1", "path", "searchParam"),),
    "DataRequirement.dateFilter": (one("drq-2", "path", "searchParam"),),
    "Timing.repeat": (
        needs("tim-1", "duration", "durationUnit"),
        needs("tim-2", "period", "periodUnit"),
        _below("duration", 0),
        _below("period", 0),
        needs("tim-6", "periodMax", "period"),
        needs("tim-7", "durationMax", "duration"),
        needs("tim-8", "countMax", "count"),
        check("tim-9", _tim_9, "offset"),
        apart("tim-10", "timeOfDay", "when"),
    ),
    "TriggerDefinition": (
        apart("trd-1", "data", "timing"),
        needs("trd-2", "condition", "data"),
        check("trd-3", _trd_3, "type"),
    ),
}
