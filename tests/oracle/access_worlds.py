"""Random worlds for the oracle of access: patients of two hospitals, what is kept about them, and their Consents."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.oracle.access import Caller

JSON = dict[str, Any]
Step = tuple[str, JSON, bool]
"""(custodian, resource, whether it is deleted by this step)."""

CUSTODIANS = ("north", "south")
PATIENTS = ("a", "b", "c")
CATEGORY = "urn:category"
KINDS = ("lab", "vital")
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
LOINC = "http://loinc.org"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
DATES = ("2020", "2021-03", "2021-03-10", "2021-04-01", "2022-06-15", "2023-12-31")
OPENED = ("Patient", "Observation", "Condition", "Encounter", "DocumentReference", "Provenance", "Consent")


def coded(code: str) -> JSON:
    return {"system": CONFIDENTIALITY if code in "RN" else ACT, "code": code}


class Maker:
    """One world. ``steps``: what is written, in order; ``consents``: (Consent, whether it counts)."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  a world, no secret
        self.custody = {name: self.random.choice(CUSTODIANS) for name in PATIENTS}
        self.steps: list[Step] = [("operator", {"resourceType": "Practitioner", "id": "dr"}, False)]
        for name in PATIENTS:
            sex = self.random.choice(("male", "female"))
            self.steps.append((self.custody[name], {"resourceType": "Patient", "id": name, "gender": sex}, False))
        self._fill()
        self.consents = [(self._consent(f"k{at}"), self.one_in(8) is False) for at in range(self.random.randint(1, 6))]
        self.callers = self._callers()

    def one_in(self, many: int) -> bool:
        return self.random.randrange(many) == 0

    def some(self, values: tuple[str, ...], least: int = 0) -> list[str]:
        return self.random.sample(values, self.random.randint(least, min(2, len(values))))

    # -- resources ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        still: list[tuple[str, str]] = []
        for at in range(self.random.randint(5, 9)):
            of = self.random.choice(PATIENTS)
            made = self._resource(at, of)
            self.steps.append((self.custody[of], made, False))
            if made["resourceType"] == "DocumentReference":
                binary = {"resourceType": "Binary", "id": f"b{at}", "contentType": "text/plain", "data": "eA=="}
                self.steps.append((self.custody[of], binary, False))
            elif self.one_in(3):
                near = [name for name in PATIENTS if self.custody[name] == self.custody[of]]
                again = {**self._resource(at, self.random.choice(near), made["resourceType"]), "language": "en"}
                self.steps.append((self.custody[of], again, False))
                if self.one_in(3):
                    self.steps.append((self.custody[of], again, True))
            else:
                still.append((self.custody[of], f"{made['resourceType']}/{made['id']}"))
        if still and self.one_in(2):
            targets = self.random.sample(still, min(len(still), 2))
            agent = [{"who": {"display": "x"}}]
            about = [{"reference": key} for _, key in targets]
            self.steps.append(
                (targets[0][0], {"resourceType": "Provenance", "id": "pr", "target": about, "agent": agent,
                                 "recorded": "2024-01-01T00:00:00Z"}, False)
            )  # fmt: skip

    def _resource(self, at: int, of: str, type_: str = "") -> JSON:
        type_ = type_ or self.random.choice(("Observation", "Observation", "Observation", "Condition", "Encounter",
                                             "DocumentReference"))  # fmt: skip
        made: JSON = {"resourceType": type_, "id": f"r{at}", "subject": {"reference": f"Patient/{of}"}}
        labels = self.some(("HIV", "MH", "R", "N")) if self.one_in(3) else []
        if labels:
            made["meta"] = {"security": [coded(code) for code in labels]}
        if type_ in ("Observation", "Condition"):
            kinds = self.some(KINDS)
            if kinds:
                made["category"] = [{"coding": [{"system": CATEGORY, "code": code}]} for code in kinds]
            made["code"] = {"text": "x"}
        if type_ == "Observation":
            made["status"] = "final"
            if not self.one_in(4):
                made["effectiveDateTime"] = self.random.choice(DATES)
            if self.one_in(2):
                made["derivedFrom"] = [{"reference": f"Observation/r{self.random.randrange(5)}"}]
        if type_ == "Encounter":
            made |= {"status": "finished", "class": {"system": ACT, "code": "AMB"}}
            if not self.one_in(4):
                made["period"] = self._period()
        if type_ == "DocumentReference":
            made |= {"status": "current", "content": [{"attachment": {"url": f"Binary/b{at}"}}]}
        return made

    def _period(self) -> JSON:
        first, last = sorted(self.random.sample(DATES, 2))
        return self.random.choice(({"start": first, "end": last}, {"start": first}, {"end": last}))

    # -- Consents -------------------------------------------------------------------------------------------------

    def _consent(self, id: str) -> JSON:
        root = self._plain() if self.one_in(2) else self._rule(root=True)
        if "provision" not in root and self.one_in(2):
            root["provision"] = [self._rule() for _ in range(self.random.randint(1, 2))]
        project = self.random.choice((None, None, "x", "y"))
        uri = f"urn:test:policy/project/{project}" if project else f"urn:test:general/{self.random.choice('uv')}"
        made = {
            "resourceType": "Consent", "id": id, "status": "active",
            "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope",
                                  "code": "patient-privacy"}]},
            "category": [{"coding": [{"system": LOINC, "code": self.random.choice(("59284-0", "64292-6"))}]}],
            "patient": {"reference": f"Patient/{self.random.choice(PATIENTS)}"},
            "policy": [{"uri": uri}], "provision": root,
        }  # fmt: skip
        if "type" not in root:
            made["policyRule"] = {"coding": [{"system": ACT, "code": self.random.choice(("OPTIN", "OPTOUT"))}]}
        return made

    def _plain(self) -> JSON:
        """A permit with one condition, or with one exception: most Consents are."""
        rule: JSON = {"type": "permit", "actor": [self._actor("app")]}
        condition = self.random.choice((self._dates, self._data, self._classes))()
        if self.one_in(3):
            return {**rule, **condition}
        return {**rule, "provision": [{"type": "deny", **condition}]}

    def _dates(self) -> JSON:
        return {"dataPeriod": self._period()}

    def _classes(self) -> JSON:
        codes = self.random.sample(OPENED, self.random.randint(1, 4))
        return {"class": [{"system": "http://hl7.org/fhir/resource-types", "code": code} for code in codes]}

    def _data(self) -> JSON:
        meaning = "related" if self.one_in(6) else "instance"
        keys = [f"{made['resourceType']}/{made['id']}" for _, made, _ in self.steps if made["resourceType"] in OPENED]
        named = self.random.sample(keys, min(len(keys), 6))
        return {"data": [{"meaning": meaning, "reference": {"reference": key}} for key in named]}

    def _actor(self, organization: str) -> JSON:
        role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
        return {"role": role, "reference": {"reference": f"Organization/{organization}"}}

    def _rule(self, *, root: bool = False) -> JSON:
        rule: JSON = {"type": self.random.choice(("permit", "permit", "permit", "deny"))}
        if root and self.one_in(5):
            del rule["type"]
        if root or self.one_in(3):
            rule["actor"] = [self._actor(self.random.choice(("app", "app", "app", "rival")))]
        if self.one_in(3 if not root else 6):
            rule |= self._classes()
        if self.one_in(5):
            rule["securityLabel"] = [coded(code) for code in self.some(("HIV", "MH", "R", "N", "N"), 1)]
        if self.one_in(6):
            rule["purpose"] = [{"system": REASON, "code": self.random.choice(("TREAT", "HPAYMT"))}]
        if self.one_in(8):
            rule["period"] = self.random.choice(({"start": "2020"}, {"end": "2021"}, {"start": "2090"}))
        if self.one_in(4):
            rule |= self._dates()
        if self.one_in(6):
            rule |= self._data()
        if self.one_in(25):
            rule["code"] = [{"text": "not evaluated"}]
        return rule

    # -- callers --------------------------------------------------------------------------------------------------

    def _callers(self) -> list[Caller]:
        purpose = self.random.choice((None, "TREAT", "HPAYMT"))
        every = (("*", "rs", None),)
        return [
            Caller("operator", "operator", self._scopes()),
            Caller("member", "north", every),
            Caller("member", "south", self._scopes()),
            Caller("third-party", "app", every, purpose=purpose),
            Caller("third-party", "app", self._scopes(), purpose=purpose),
            Caller("third-party", "rival", every, purpose=purpose),
            Caller("patient", self.custody["a"], self._scopes(), patient="a"),
        ]

    def _scopes(self) -> tuple[tuple[str, str, tuple[str | None, str] | None], ...]:
        found: list[tuple[str, str, tuple[str | None, str] | None]] = []
        for type_ in ("Observation", "Condition"):
            for _ in range(self.random.randint(0, 2)):
                kind = (self.random.choice((CATEGORY, None)), self.random.choice(KINDS))
                found.append((type_, self.random.choice(("rs", "rs", "r", "s")), kind))
        for type_ in ("Patient", "Encounter", "DocumentReference", "Binary", "Provenance", "Consent", "Condition"):
            if self.one_in(2):
                found.append((type_, self.random.choice(("rs", "rs", "r", "s")), None))
        return tuple(found or [("*", "rs", None)])


def scope_text(caller: Caller) -> str:
    """The scopes as a token has them."""
    context = "patient" if caller.kind in ("third-party", "patient") else "system"
    words = []
    for type_, letters, kind in caller.scopes:
        code = "" if kind is None else f"?category={kind[1] if kind[0] is None else '|'.join(filter(None, kind))}"
        words.append(f"{context}/{type_}.{letters}{code}")
    return " ".join(words)
