"""Who may see what, said a second time: resource by resource, from the JSON alone, without anything of `fhirserver`.

Slow, plain, and written apart from `policy`. It knows the types and codes that `access_worlds` makes, and no more.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

JSON = dict[str, Any]
DIRECTORY = {"Organization", "Practitioner"}
TYPES = ("Patient", "Observation", "Condition", "Encounter", "DocumentReference", "Binary", "Provenance", "Consent",
         "Practitioner", "Organization", "Basic")  # fmt: skip
"""All that are made, and one for all others."""
RESTRICTED = {"R", "HIV", "MH"}
KNOWN_PURPOSES = {"TREAT", "HPAYMT"}
EVER = (date.min, date.max)


@dataclass(frozen=True)
class Version:
    """One version of a resource. A deletion has the content of what was deleted."""

    custodian: str
    number: int
    content: JSON
    deleted: bool = False

    @property
    def type(self) -> str:
        return str(self.content["resourceType"])

    @property
    def key(self) -> str:
        return f"{self.type}/{self.content['id']}"

    @property
    def labels(self) -> set[str]:
        return {each["code"] for each in self.content.get("meta", {}).get("security", [])}

    @property
    def kinds(self) -> set[tuple[str, str]]:
        concepts = self.content.get("category", [])
        return {(each.get("system", ""), each["code"]) for concept in concepts for each in concept.get("coding", [])}

    @property
    def care(self) -> tuple[date, date] | None:
        """First and last day."""
        if "effectiveDateTime" in self.content:
            return days(self.content["effectiveDateTime"])
        return span(self.content["period"]) if self.type == "Encounter" and "period" in self.content else None


@dataclass(frozen=True)
class Caller:
    """``scopes``: (type or ``*``, letters, (system, code) or None); a system of None is any."""

    kind: str
    organization: str
    scopes: tuple[tuple[str, str, tuple[str | None, str] | None], ...]
    patient: str = ""
    purpose: str | None = None


def days(text: str) -> tuple[date, date]:
    """The days of a FHIR date."""
    parts = [int(part) for part in text.split("-")]
    year, month, day = (*parts, 0, 0)[:3]
    last = calendar.monthrange(year, month or 12)[1]
    return date(year, month or 1, day or 1), date(year, month or 12, day or last)


def span(period: JSON) -> tuple[date, date]:
    return (
        days(period["start"])[0] if "start" in period else EVER[0],
        days(period["end"])[1] if "end" in period else EVER[1],
    )


class World:
    """``versions``: of each key all of them, oldest first. ``counting``: the Consents that were written by one who
    may decide; ``now``: the day."""

    def __init__(self, versions: dict[str, list[Version]], counting: set[str]) -> None:
        self.versions = versions
        self.counting = counting
        self.now = datetime.now(UTC).date()

    def current(self) -> Iterable[Version]:
        return (every[-1] for every in self.versions.values() if not every[-1].deleted)

    # -- what a caller sees ---------------------------------------------------------------------------------------

    def sees(self, caller: Caller, version: Version, letters: str) -> bool:
        """By itself: as it is now, and for an old version as it was, too."""
        now = self.versions[version.key][-1]
        return all(self._sees(caller, each, letters) for each in (now, version))

    def reads(self, caller: Caller, version: Version, letters: str) -> bool:
        """By itself, or because something that is seen names it."""
        if self.sees(caller, version, letters):
            return True
        if version.type != "Binary" or not any(type_ in ("*", "Binary") for type_, given, kind in caller.scopes
                                               if kind is None and set(letters) <= set(given)):  # fmt: skip
            return False
        namers = [each for each in self.current() if version.key in named(each.content)]
        namers = [each for each in namers if each.custodian in (version.custodian, *self._shared(version))]
        if caller.kind not in ("third-party", "patient", "member"):
            return False
        seen = [each for each in namers if self._sees(caller, each, letters)]
        if caller.kind != "third-party":
            return bool(seen)
        return bool(seen) and all(
            self.opens_anything(caller, owner, letters, version) or not self.opens_anything(caller, owner, letters)
            for each in namers
            for owner in self.owners(each)
        )

    def _shared(self, version: Version) -> set[str]:
        return {each.custodian for every in self.versions.values() for each in every} if (
            version.custodian == "operator") else set()  # fmt: skip

    def _sees(self, caller: Caller, version: Version, letters: str) -> bool:
        if not self._scoped(caller, version, letters):
            return False
        owners = self.owners(version)
        if caller.kind == "operator" or (version.type in DIRECTORY and not owners):
            return True
        if caller.kind == "member":
            return caller.organization in (version.custodian, *parties(version))
        if caller.kind == "patient":
            return owners == {caller.patient}
        if version.type == "Consent" and caller.organization not in parties(version):
            return False
        return bool(owners) and all(self.opens(caller, owner, version) for owner in owners)

    def _scoped(self, caller: Caller, version: Version, letters: str) -> bool:
        def allows(letter: str) -> bool:
            for type_, given, kind in caller.scopes:
                if letter in given and type_ in ("*", version.type):
                    if kind is None:
                        return True
                    if any(code == kind[1] and kind[0] in (None, system) for system, code in version.kinds):
                        return True
            return False

        return all(map(allows, letters))

    def owners(self, version: Version) -> set[str]:
        """The patients it is about; ``?`` for one who cannot be known."""
        if version.type == "Patient":
            return {version.content["id"]}
        if version.type == "Provenance":
            found: set[str] = set()
            for each in version.content["target"]:
                target = self.versions[each["reference"]][-1]
                found |= self.owners(target) if target.custodian == version.custodian else {"?"}
            return found
        subject = version.content.get("subject") or version.content.get("patient")
        return {subject["reference"].partition("/")[2]} if subject else set()

    def labels(self, version: Version) -> set[str]:
        if version.type != "Provenance":
            return version.labels
        targets = [self.versions[each["reference"]][-1] for each in version.content["target"]]
        return version.labels.union(*(each.labels for each in targets))

    # -- what Consents open ---------------------------------------------------------------------------------------

    def opens(self, caller: Caller, patient: str, version: Version) -> bool:
        return self._opens(caller, patient, version.type, self.labels(version), version.care, version.key)

    def opens_anything(self, caller: Caller, patient: str, letters: str, version: Version | None = None) -> bool:
        """Whether any type is opened at all; ``version``: any type that carries what it carries."""
        named_ = [type_ for type_ in TYPES
                  if all(any(type_ == each or (each == "*" and kind is None)
                             for each, given, kind in caller.scopes if letter in given)
                         for letter in letters)]  # fmt: skip
        if version is not None:
            return any(self._opens(caller, patient, type_, version.labels, None, version.key) for type_ in named_)
        tried = [version.care for every in self.versions.values() for version in every]
        keys = [f"{type_}/?" for type_ in named_] + list(self.versions)
        wanted = [set(), *({code} for code in RESTRICTED), {"HIV", "MH"}, {"HIV", "R"}, {"MH", "R"}, set(RESTRICTED)]
        return any(
            self._opens(caller, patient, type_, labels, care, key)
            for type_ in named_ for labels in wanted for care in [None, *dict.fromkeys(tried)] for key in keys
        )  # fmt: skip

    def _opens(self, caller: Caller, patient: str, type_: str, labels: set[str], care: Any, key: str) -> bool:
        consents = [
            each.content for each in self.current()
            if each.type == "Consent" and each.key in self.counting and each.content["status"] == "active"
            and each.content["patient"]["reference"] == f"Patient/{patient}"
        ]  # fmt: skip
        asked = Asked(caller.organization, caller.purpose, self.now, type_, frozenset(labels), care, key)
        return any(
            opened(each, asked) and not any(closes(other, each, asked) for other in consents if other is not each)
            for each in consents
        )


@dataclass(frozen=True)
class Asked:
    """One resource, for one organisation and purpose, today."""

    organization: str
    purpose: str | None
    now: date
    type: str
    labels: frozenset[str]
    care: tuple[date, date] | None
    key: str


def named(content: JSON) -> set[str]:
    return {each["attachment"]["url"] for each in content.get("content", []) if "url" in each.get("attachment", {})}


def parties(version: Version) -> set[str]:
    """The organisations that a Consent names as actors."""
    if version.type != "Consent":
        return set()
    root = version.content.get("provision", {})
    return {found for rule in (root, *root.get("provision", [])) for found in actors(rule) or ()}


def actors(rule: JSON) -> set[str] | None:
    if "actor" not in rule:
        return None
    return {each["reference"]["reference"].removeprefix("Organization/") for each in rule["actor"]}


def base_of(consent: JSON) -> str:
    """permit, deny or nothing."""
    root = consent.get("provision", {})
    if "type" in root:
        return str(root["type"])
    codes = [each["code"] for each in consent.get("policyRule", {}).get("coding", [])]
    return {"OPTIN": "permit", "OPTOUT": "deny"}.get(codes[0], "") if codes else ""


def opened(consent: JSON, asked: Asked) -> bool:
    """Whether this Consent alone opens it."""
    root = consent.get("provision", {})
    nested = root.get("provision", [])
    permits = [rule for rule in nested if rule.get("type") == "permit"]
    if not permitted(root, asked):
        return False
    if permits:
        chains = [[root, rule] for rule in permits if permitted(rule, asked)]
    else:
        chains = [[root]] if base_of(consent) == "permit" else []
    chains = [chain for chain in chains if any(actors(rule) for rule in chain) and shows_labels(chain, asked.labels)]
    return bool(chains) and not any(denied(rule, asked) for rule in nested if rule.get("type") != "permit")


def closes(refusing: JSON, other: JSON, asked: Asked) -> bool:
    """Whether the first closes what the second opens."""
    root = refusing.get("provision", {})
    permits = [rule for rule in root.get("provision", []) if rule.get("type") == "permit"]
    if base_of(refusing) != "deny" or (permits and "type" not in root):
        return False
    mine, others = (([each["uri"] for each in consent.get("policy", [])]) for consent in (refusing, other))
    projects = [re.fullmatch(r"urn:test:policy/project/(\w+)", uri) for uri in mine]
    if mine and all(projects) and not set(mine) & set(others):
        return False
    return denied(root, asked) and not opened(refusing, asked)


def permitted(rule: JSON, asked: Asked) -> bool:
    """Whether the conditions of a permit hold, labels apart; what is not understood never holds."""
    if "code" in rule:
        return False
    if actors(rule) is not None and asked.organization not in (actors(rule) or ()):
        return False
    if "purpose" in rule and asked.purpose not in {each["code"] for each in rule["purpose"]}:
        return False
    if "period" in rule and not (span(rule["period"])[0] <= asked.now <= span(rule["period"])[1]):
        return False
    if "class" in rule and asked.type not in {each["code"] for each in rule["class"]}:
        return False
    if "dataPeriod" in rule and not (asked.care and overlap(asked.care, span(rule["dataPeriod"]))):
        return False
    if "data" in rule:
        if any(each["meaning"] != "instance" for each in rule["data"]):
            return False
        return asked.key in {each["reference"]["reference"] for each in rule["data"]}
    return True


def shows_labels(chain: Sequence[JSON], labels: frozenset[str]) -> bool:
    """Whether a permit shows what carries these labels: without any list, unrestricted data only."""
    lists = [{each["code"] for each in rule["securityLabel"]} for rule in chain if "securityLabel" in rule]
    restricted = labels & RESTRICTED
    if not lists:
        return not restricted
    return all(shown_by(listed & (RESTRICTED | {"N"}), restricted) for listed in lists)


def shown_by(listed: set[str], restricted: frozenset[str]) -> bool:
    if "N" in listed and restricted <= listed:
        return True
    topics = listed - {"N", "R"}
    if restricted & topics and restricted <= topics | {"R"}:
        return True  # R stands beside the topic that is its reason
    return "R" in listed and bool(restricted) and restricted <= listed


def denied(rule: JSON, asked: Asked) -> bool:
    """Whether a deny covers it; a condition that is not understood is none."""
    if actors(rule) is not None and asked.organization not in (actors(rule) or ()):
        return False
    reasons = {each["code"] for each in rule.get("purpose", [])}
    if reasons and asked.purpose in KNOWN_PURPOSES and asked.purpose not in reasons:
        return False
    if "period" in rule and not (span(rule["period"])[0] <= asked.now <= span(rule["period"])[1]):
        return False
    if "class" in rule and asked.type not in {each["code"] for each in rule["class"]}:
        return False
    if "securityLabel" in rule:
        codes = {each["code"] for each in rule["securityLabel"]}
        covered = RESTRICTED if "R" in codes else codes
        if "N" not in codes and not covered & asked.labels:
            return False
    if "dataPeriod" in rule and asked.care and not overlap(asked.care, span(rule["dataPeriod"])):
        return False
    if "data" in rule and all(each["meaning"] == "instance" for each in rule["data"]):
        return asked.key in {each["reference"]["reference"] for each in rule["data"]}
    return True


def overlap(one: tuple[date, date], other: tuple[date, date]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
