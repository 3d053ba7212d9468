"""The invariants of questionnaires, measures and test scripts: what people fill in and machines run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fhirserver.core.invariants.rule import (
    Json,
    Make,
    apart,
    below,
    by_names,
    check,
    has,
    one,
    repeated,
    text,
)

# fmt: off
_WITH_OPTIONS = ("choice", "open-choice", "decimal", "integer", "date", "dateTime", "time", "string", "quantity")
_WITH_LENGTH = ("boolean", "decimal", "integer", "string", "text", "url", "open-choice")
_WITHOUT_TARGET = ("capabilities", "search", "transaction", "history")
_ASSERTIONS = (
    "contentType", "expression", "headerField", "minimumId", "navigationLinks", "path", "requestMethod", "resource",
    "responseCode", "response", "validateProfileId",
)
# fmt: on


# --- Questionnaire


def _link_ids(questionnaire: Json) -> Iterator[tuple[str, str]]:
    """The linkId of every item at any depth, with its place, in document order."""
    pending = list(below(questionnaire, "item"))[::-1]
    while pending:
        place, item = pending.pop()
        if link := text(item, "linkId"):
            yield f"{place}.linkId", link
        pending += [(f"{place}.{inner}", each) for inner, each in below(item, "item")][::-1]


def _que_1(item: Json) -> bool:
    type_ = item.get("type")
    return (type_ == "group" and "item" not in item) or (type_ == "display" and "item" in item)


def _que_12(item: Json) -> bool:
    """More than two, as the expression has it, although the words say more than one."""
    conditions = item.get("enableWhen")
    return isinstance(conditions, list) and len(conditions) > 2 and not has(item, "enableBehavior")


def _que_13(item: Json) -> bool:
    initial = item.get("initial")
    return isinstance(initial, list) and len(initial) > 1 and item.get("repeats") is not True


def _not_for(key: str, types: tuple[str, ...], *names: str) -> list[Make]:
    return [check(key, lambda item: item.get("type") in types, name, where=name) for name in names]


def _only_for(key: str, types: tuple[str, ...], *names: str) -> list[Make]:
    return [check(key, lambda item: item.get("type") not in types, name, where=name) for name in names]


# --- TestScript: the operations and assertions of setup, test and teardown are the same elements under other keys


def _without_target(operation: Json) -> bool:
    if has(operation, "sourceId") or sum(has(operation, name) for name in ("targetId", "url", "params")) == 1:
        return False
    type_ = operation.get("type")
    return not (isinstance(type_, dict) and type_.get("code") in _WITHOUT_TARGET)


def _asserts_much(assertion: Json) -> bool:
    return "extension" not in assertion and sum(has(assertion, name) for name in _ASSERTIONS) > 1


def _compares_half(assertion: Json) -> bool:
    compared = has(assertion, "compareToSourceExpression") or has(assertion, "compareToSourcePath")
    return has(assertion, "compareToSourceId") is not compared


def _expects_of_request(assertion: Json) -> bool:
    return assertion.get("direction") == "request" and (has(assertion, "response") or has(assertion, "responseCode"))


def _inside(key: str, name: str, test: Callable[[Json], bool]) -> Make:
    return check(key, lambda action: [place for place, each in below(action, name) if test(each)], name)


RULES: dict[str, tuple[Make, ...]] = {
    "Measure.group.stratifier": (
        by_names(
            "mea-1",
            *("code", "description", "criteria", "component"),
            broken=lambda *there: any(there[:3]) is there[3],
        ),
    ),
    "MeasureReport": (check("mrp-1", lambda report: report.get("type") == "data-collection", "group", where="group"),),
    "MeasureReport.group.stratifier.stratum": (one("mrp-2", "value", "component"),),
    "Questionnaire": (check("que-2", lambda questionnaire: repeated(_link_ids(questionnaire)), "item"),),
    "Questionnaire.item": (
        check("que-1", _que_1, where="item"),
        *_not_for("que-3", ("display",), "code"),
        apart("que-4", "answerOption", "answerValueSet"),
        *_only_for("que-5", _WITH_OPTIONS, "answerOption", "answerValueSet"),
        *_not_for("que-6", ("display",), "required", "repeats"),
        *_not_for("que-8", ("group", "display"), "initial"),
        *_not_for("que-9", ("display",), "readOnly"),
        *_only_for("que-10", _WITH_LENGTH, "maxLength"),
        apart("que-11", "answerOption", "initial"),
        check("que-12", _que_12, "enableWhen", where="enableBehavior"),
        check("que-13", _que_13, "initial", where="initial"),
    ),
    "Questionnaire.item.enableWhen": (
        check(
            "que-7",
            lambda condition: condition.get("operator") == "exists" and not has(condition, "answerBoolean"),
            where="answer",
        ),
    ),
    "QuestionnaireResponse.item": (apart("qrs-1", "answer", "item"),),
    "TestReport.setup.action": (one("inv-1", "operation", "assert"),),
    "TestReport.test.action": (one("inv-2", "operation", "assert"),),
    "TestScript.metadata": (
        check(
            "tst-4",
            lambda metadata: (
                not any(has(each, "required") or has(each, "validated") for _, each in below(metadata, "capability"))
            ),
            where="capability",
        ),
    ),
    "TestScript.variable": (by_names("tst-3", "expression", "headerField", "path", broken=lambda *there: all(there)),),
    "TestScript.setup.action": (
        one("tst-1", "operation", "assert"),
        _inside("tst-5", "assert", _asserts_much),
        _inside("tst-7", "operation", _without_target),
        _inside("tst-10", "assert", _compares_half),
        _inside("tst-12", "assert", _expects_of_request),
    ),
    "TestScript.test.action": (
        one("tst-2", "operation", "assert"),
        _inside("tst-6", "assert", _asserts_much),
        _inside("tst-8", "operation", _without_target),
        _inside("tst-11", "assert", _compares_half),
        _inside("tst-13", "assert", _expects_of_request),
    ),
    "TestScript.teardown.action": (_inside("tst-9", "operation", _without_target),),
}
