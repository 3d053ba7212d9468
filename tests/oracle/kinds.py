"""The resource types of random worlds: for each, how its elements are drawn."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from tests.oracle import pools
from tests.oracle.extract import JSON
from tests.oracle.maker import Maker

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition"
ASSERTED = "http://hl7.org/fhir/StructureDefinition/condition-assertedDate"
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


def patient(m: Maker) -> JSON:
    return {
        **_person(m),
        **m.either(deceasedBoolean=m.flag, deceasedDateTime=m.moment),
        **m.given(
            0.5,
            generalPractitioner=lambda: m.some(lambda: m.to("Practitioner", "Organization")),
            managingOrganization=lambda: m.to("Organization"),
            communication=lambda: [{"language": m.concept(["en", "de", "a"])}],
        ),
        **m.given(0.4, extension=lambda: [_extension(m, "us-core-race"), _extension(m, "us-core-ethnicity")]),
    }


def _extension(m: Maker, name: str) -> JSON:
    """US Core's race and ethnicity: codings and a text in extensions of their own."""
    parts = [{"url": "ombCategory", "valueCoding": m.coding()}, {"url": "text", "valueString": m.text()}]
    return {"url": f"{US_CORE}/{name}", "extension": parts}


def practitioner(m: Maker) -> JSON:
    return _person(m)


def related(m: Maker) -> JSON:
    return {**_person(m), "patient": m.to("Patient"), **m.given(relationship=lambda: [m.concept()])}


def _person(m: Maker) -> JSON:
    return m.given(
        identifier=lambda: m.some(m.identifier),
        active=m.flag,
        name=lambda: m.some(m.name),
        telecom=lambda: m.some(m.telecom),
        gender=m.gender,
        birthDate=m.date,
        address=lambda: m.some(m.address),
    )


def organization(m: Maker) -> JSON:
    return {
        "name": m.text(),
        **m.given(
            alias=lambda: m.some(m.text), type=lambda: [m.concept()], identifier=lambda: [m.identifier()], active=m.flag
        ),
        **m.given(0.4, partOf=lambda: m.to("Organization"), address=lambda: [m.address() | {"use": "work"}]),
    }


def location(m: Maker) -> JSON:
    latitude, longitude = m.one(pools.PLACES)
    return m.given(
        0.7,
        name=m.text,
        status=lambda: m.one(["active", "suspended"]),
        type=lambda: [m.concept()],
        position=lambda: {"latitude": Decimal(latitude), "longitude": Decimal(longitude)},
        address=m.address,
        managingOrganization=lambda: m.to("Organization"),
        partOf=lambda: m.to("Location"),
    )


def encounter(m: Maker) -> JSON:
    return {
        "status": m.one(["planned", "in-progress", "finished"]),
        "class": m.coding(),
        **m.given(
            type=lambda: m.some(m.concept),
            subject=lambda: m.to("Patient", "Patient", "Group"),
            participant=lambda: m.some(
                lambda: {"individual": m.to("Practitioner", "RelatedPerson"), "type": [m.concept()]}
            ),
            period=m.period,
            reasonCode=lambda: m.some(m.concept),
            location=lambda: m.some(lambda: {"location": m.to("Location"), **m.given(period=m.period)}),
            serviceProvider=lambda: m.to("Organization"),
        ),
        **m.given(
            0.4, length=lambda: {"value": m.number(), "unit": "min", "system": pools.UCUM, "code": m.one(["min", "h"])}
        ),
        **m.given(0.4, partOf=lambda: m.to("Encounter"), diagnosis=lambda: [{"condition": m.to("Condition")}]),
    }


def condition(m: Maker) -> JSON:
    abatement = m.either(
        abatementDateTime=m.moment, abatementAge=lambda: _age(m), abatementPeriod=m.period, abatementString=m.text
    )
    status = m.one(["inactive", "resolved", "remission"]) if abatement else m.one(["active", "recurrence", "inactive"])
    return {
        "clinicalStatus": {"coding": [{"system": CLINICAL, "code": status}]},
        "subject": m.to("Patient", "Patient", "Patient", "Group"),
        **m.either(
            onsetDateTime=m.moment,
            onsetAge=lambda: _age(m),
            onsetPeriod=m.period,
            onsetRange=m.range,
            onsetString=m.text,
        ),
        **abatement,
        **m.given(
            code=m.concept,
            category=lambda: m.some(m.concept),
            severity=m.concept,
            recordedDate=m.moment,
            encounter=lambda: m.to("Encounter"),
            asserter=lambda: m.to("Practitioner", "Patient"),
            evidence=lambda: m.some(lambda: {"code": [m.concept()], "detail": [m.to("Observation", "Condition")]}),
            bodySite=lambda: m.some(m.concept),
            extension=lambda: [
                {"url": ASSERTED, "valueDateTime": m.moment()},
                {"url": "urn:x", "valueDateTime": "2020"},
            ],
        ),
    }


def _age(m: Maker) -> JSON:
    return {"value": m.one([1, 5, 40]), "unit": "years", "system": pools.UCUM, "code": m.one(["a", "mo"])}


def observation(m: Maker) -> JSON:
    value = _value(m)
    code = m.concept()
    component = [{"code": m.concept(pools.PARTS), **_value(m)} for _ in range(m.random.randint(0, 3))]
    own = [(coding.get("system"), coding.get("code")) for coding in code.get("coding", ())]
    parts = [each for part in component for each in part["code"].get("coding", ())]
    if any((each.get("system"), each.get("code")) in own for each in parts):
        value = {}  # obs-7: a value belongs to the component that has the same code
    return {
        "status": m.one(["final", "preliminary", "amended"]),
        "code": code,
        **value,
        **({"component": component} if component else {}),
        **m.either(
            effectiveDateTime=m.moment, effectivePeriod=m.period, effectiveTiming=m.timing, effectiveInstant=m.instant
        ),
        **m.given(
            subject=lambda: m.to("Patient", "Patient", "Patient", "Group", "Location"),
            category=lambda: m.some(m.concept),
            encounter=lambda: m.to("Encounter"),
            performer=lambda: m.some(lambda: m.to("Practitioner", "Organization")),
            identifier=lambda: m.some(m.identifier),
        ),
        **m.given(0.3, hasMember=lambda: m.some(lambda: m.to("Observation")), method=m.concept),
    }


def _value(m: Maker) -> JSON:
    return m.either(
        valueQuantity=m.quantity,
        valueCodeableConcept=m.concept,
        valueString=m.text,
        valueDateTime=m.moment,
        valuePeriod=m.period,
        valueSampledData=lambda: {
            "origin": {"value": m.number(), "unit": "mg", "system": pools.UCUM, "code": "mg"},
            "period": 10,
            "dimensions": 1,
            "data": m.one(["1 2 3", "5 E 7", "-1 L"]),
            **m.given(0.3, factor=lambda: 2),
        },
    ) or m.given(0.6, valueQuantity=m.quantity)


def medication(m: Maker) -> JSON:
    return m.given(
        0.7,
        code=m.concept,
        status=lambda: m.one(["active", "inactive"]),
        manufacturer=lambda: m.to("Organization"),
        ingredient=lambda: m.some(
            lambda: (
                m.either(itemCodeableConcept=m.concept, itemReference=lambda: m.to("Medication"))
                or {"itemCodeableConcept": m.concept()}
            )
        ),
        batch=lambda: m.given(0.7, lotNumber=m.text, expirationDate=m.moment) or {"lotNumber": m.text()},
    )


def prescription(m: Maker) -> JSON:
    medication = m.either(medicationReference=lambda: m.to("Medication"), medicationCodeableConcept=m.concept)
    return {
        "status": m.one(["active", "completed", "stopped"]),
        "intent": m.one(["order", "plan"]),
        "subject": m.to("Patient"),
        **(medication or {"medicationReference": {"reference": "Medication/1"}}),
        **m.given(
            authoredOn=m.moment,
            requester=lambda: m.to("Practitioner", "Patient"),
            encounter=lambda: m.to("Encounter"),
            dosageInstruction=lambda: m.some(lambda: {"timing": {"event": m.some(m.moment)}}),
            identifier=lambda: m.some(m.identifier),
        ),
    }


def report(m: Maker) -> JSON:
    return {
        "status": m.one(["final", "partial"]),
        "code": m.concept(),
        **m.either(effectiveDateTime=m.moment, effectivePeriod=m.period),
        **m.given(
            subject=lambda: m.to("Patient", "Patient", "Group"),
            result=lambda: m.some(lambda: m.to("Observation"), 3),
            category=lambda: m.some(m.concept),
            issued=m.instant,
            performer=lambda: m.some(lambda: m.to("Practitioner", "Organization")),
            encounter=lambda: m.to("Encounter"),
            conclusionCode=lambda: m.some(m.concept),
        ),
    }


def value_set(m: Maker) -> JSON:
    return {
        "status": m.one(["draft", "active"]),
        **m.given(
            0.7,
            url=lambda: m.one(pools.URIS),
            version=lambda: m.one(["1", "2.0"]),
            name=m.text,
            title=m.text,
            date=m.moment,
            description=m.text,
            identifier=lambda: m.some(m.identifier),
            useContext=lambda: m.some(lambda: {"code": m.coding(), **_context(m)}),
            jurisdiction=lambda: m.some(m.concept),
            compose=lambda: {"include": m.some(lambda: {"system": m.one(pools.URIS)})},
        ),
    }


def _context(m: Maker) -> JSON:
    return m.either(valueCodeableConcept=m.concept, valueQuantity=m.quantity, valueRange=m.range) or {
        "valueCodeableConcept": m.concept()
    }


def provenance(m: Maker) -> JSON:
    return {
        "target": m.some(lambda: m.to("Observation", "Condition", "Patient", "Encounter"), 3),
        "recorded": m.instant(),
        "agent": m.some(lambda: {"who": m.to("Practitioner", "Organization"), **m.given(0.3, type=m.concept)}),
        **m.either(occurredDateTime=m.moment, occurredPeriod=m.period),
    }


def list_(m: Maker) -> JSON:
    return {
        "status": "current",
        "mode": m.one(["working", "snapshot"]),
        "entry": m.some(lambda: {"item": m.to("Patient", "Observation", "Condition")}, 5),
        **m.given(
            code=m.concept,
            title=m.text,
            date=m.moment,
            subject=lambda: m.to("Patient"),
            note=lambda: [{"text": m.text()}],
        ),
    }


def group(m: Maker) -> JSON:
    characteristics = m.some(lambda: {"code": m.concept(), "exclude": m.flag(), **_trait(m)})
    return {
        "type": "person",
        "actual": True,
        **m.given(
            code=m.concept,
            identifier=lambda: m.some(m.identifier),
            member=lambda: m.some(lambda: {"entity": m.to("Patient")}, 4),
            characteristic=lambda: characteristics,
            managingEntity=lambda: m.to("Organization"),
        ),
    }


def _trait(m: Maker) -> JSON:
    return m.either(valueCodeableConcept=m.concept, valueBoolean=m.flag) or {"valueCodeableConcept": m.concept()}


def risk(m: Maker) -> JSON:
    def prediction() -> JSON:
        share = m.one(["0.5", "0.50", "0.05", "5", "5.4", "95", "99.5", "100"])
        return {"outcome": m.concept(), **m.given(0.8, probabilityDecimal=lambda: Decimal(share))}

    return {
        "status": m.one(["final", "preliminary"]),
        "subject": m.to("Patient", "Group"),
        "prediction": m.some(prediction),
        **m.either(occurrenceDateTime=m.moment, occurrencePeriod=m.period),
        **m.given(method=m.concept, condition=lambda: m.to("Condition"), performer=lambda: m.to("Practitioner")),
    }


def request(m: Maker) -> JSON:
    return {
        "status": m.one(["active", "completed"]),
        "intent": m.one(["order", "plan"]),
        "subject": m.to("Patient", "Group", "Location"),
        **m.either(occurrenceDateTime=m.moment, occurrencePeriod=m.period, occurrenceTiming=m.timing),
        **m.given(
            code=m.concept,
            category=lambda: m.some(m.concept),
            authoredOn=m.moment,
            requester=lambda: m.to("Practitioner", "Organization"),
            requisition=m.identifier,
            instantiatesUri=lambda: m.some(lambda: m.one(pools.URIS)),
        ),
    }


def invoice(m: Maker) -> JSON:
    return {
        "status": m.one(["issued", "balanced"]),
        **m.given(
            totalNet=m.money,
            totalGross=m.money,
            date=m.moment,
            subject=lambda: m.to("Patient", "Group"),
            recipient=lambda: m.to("Patient", "Organization"),
            identifier=lambda: m.some(m.identifier),
        ),
    }


def sequence(m: Maker) -> JSON:
    named: list[JSON] = [
        {"chromosome": m.concept(pools.PARTS), "genomeBuild": m.text()},
        {"referenceSeqId": m.concept(pools.PARTS)},
    ]
    start, end = m.span()
    return {
        "coordinateSystem": m.one([0, 1]),
        "type": m.one(["aa", "dna", "rna"]),
        "referenceSeq": {**m.one(named), "windowStart": start, "windowEnd": end},
        "variant": m.some(lambda: dict(zip(("start", "end"), m.span(), strict=True)), 3),
        **m.given(patient=lambda: m.to("Patient"), identifier=lambda: m.some(m.identifier)),
    }


KINDS: dict[str, Callable[[Maker], JSON]] = {
    "Patient": patient,
    "Practitioner": practitioner,
    "RelatedPerson": related,
    "Organization": organization,
    "Location": location,
    "Encounter": encounter,
    "Condition": condition,
    "Observation": observation,
    "Medication": medication,
    "MedicationRequest": prescription,
    "DiagnosticReport": report,
    "ValueSet": value_set,
    "Provenance": provenance,
    "List": list_,
    "Group": group,
    "RiskAssessment": risk,
    "ServiceRequest": request,
    "Invoice": invoice,
    "MolecularSequence": sequence,
}
