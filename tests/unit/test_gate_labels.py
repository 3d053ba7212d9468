"""Derived labels: from codes, from the program that keeps a resource, from what it refers to; who may take one away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.core import sensitive
from fhirserver.core.errors import Fault, Unavailable
from fhirserver.core.model import Key, Query, parse_facts
from fhirserver.core.sensitive import PROGRAM, lists_of
from fhirserver.policy.gate import Erase, Gate
from fhirserver.policy.items import Put
from fhirserver.policy.labelling import PART2
from tests.admitted import KEYS, World, consent, content, marks, observation, patient, put, seen, status_of, world
from tests.stores import every_kind

kind = every_kind
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
HIV, MH = f"{ACT}|HIV", f"{ACT}|MH"
JSON = dict[str, Any]


def coded(code: str, system: str = "http://hl7.org/fhir/sid/icd-10-cm") -> JSON:
    return {"coding": [{"system": system, "code": code}]}


def condition(id: str, of: str, code: str = "B20", **more: Any) -> JSON:
    return {
        "resourceType": "Condition",
        "id": id,
        "subject": {"reference": f"Patient/{of}"},
        "code": coded(code),
        **more,
    }


def report(id: str, of: str, *results: str, **more: Any) -> JSON:
    return {
        "resourceType": "DiagnosticReport",
        "id": id,
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{of}"},
        "result": [{"reference": f"Observation/{each}"} for each in results],
        **more,
    }


def medication(id: str, code: str | None) -> JSON:
    return {"resourceType": "Medication", "id": id, "code": coded(code) if code else {"text": "x"}}


def request(id: str, of: str, medication: str) -> JSON:
    return {
        "resourceType": "MedicationRequest",
        "id": id,
        "status": "active",
        "intent": "order",
        "subject": {"reference": f"Patient/{of}"},
        "medicationReference": {"reference": f"Medication/{medication}"},
    }


def binary(id: str) -> JSON:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "eA=="}


def document(id: str, of: str, binary: str, *labels: str) -> JSON:
    return {
        "resourceType": "DocumentReference",
        "id": id,
        **({"meta": {"security": marks(*labels)}} if labels else {}),
        "status": "current",
        "subject": {"reference": f"Patient/{of}"},
        "content": [{"attachment": {"url": f"Binary/{binary}"}}],
    }


def program(id: str, *, flagged: bool = True) -> JSON:
    kind = {"type": [{"coding": [PROGRAM]}]} if flagged else {}
    return {"resourceType": "Organization", "id": id, **kind, "name": id}


async def labels(here: World, reference: str) -> tuple[str, ...]:
    record = await here.store.get(Key.parse(reference))
    assert record is not None
    return parse_facts(record.facts).labels


def quietly(_done: int, _total: int) -> None:
    """Nobody listens."""


async def relabel(here: World) -> tuple[int, int]:
    return await here.gate.upkeep(subject="test").relabel(quietly)


async def sound(here: World) -> list[str]:
    return [sentence async for sentence in here.gate.upkeep(subject="test").verify()]


# -- by codes


async def test_a_code_labels_a_resource_by_every_door_and_leaves_its_bytes_alone(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), condition("loaded", "p"))
        member = await here.writer("a")
        [record] = await member.write([put(condition("written", "p"))])
        for name in ("loaded", "written"):
            assert await labels(here, f"Condition/{name}") == (HIV,)
        assert "security" not in (await content(member, record))["meta"]
        assert await sound(here) == []


async def test_third_parties_get_what_codes_restrict_only_under_a_permit(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), condition("hiv", "p"), condition("plain", "p", "I10"))
        await here.consent(consent("c", "p"))
        reader = await (await here.caller("third-party", "reader")).about({"p"})
        assert await seen(reader, "Condition") == ["Condition/plain"]
        await here.consent(consent("c", "p", securityLabel=marks("N", "HIV")))
        reader = await (await here.caller("third-party", "reader")).about({"p"})
        assert await seen(reader, "Condition") == ["Condition/hiv", "Condition/plain"]


async def test_a_derived_label_is_put_back_and_goes_with_its_reason(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), condition("c", "p", meta={"security": marks("HIV")}))
        member = await here.writer("a")
        await member.write([put(condition("c", "p"))])
        assert await labels(here, "Condition/c") == (HIV,)
        await member.write([put(condition("c", "p", "I10"))])
        assert await labels(here, "Condition/c") == ()
        row = (await here.audit())[-1]
        assert row.detail["unlabelled"] == [f"Condition/c {HIV}"]


# -- who takes one away


async def test_given_labels_are_removed_by_the_custodian_alone(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), observation("o", "p", "MH"))
        operator = await here.writer("operator", "operator")
        with pytest.raises(Fault, match="its custodian alone"):
            await operator.write([put(observation("o", "p"))])
        assert (await here.audit())[-1].outcome == "denied"
        await operator.write([put(observation("o", "p", "MH", "R"))])
        with pytest.raises(Fault, match="its custodian alone"):
            await operator.write([put(observation("o", "p", "MH"))])
        [record] = await (await here.writer("a")).write([put(observation("o", "p"))])
        assert await labels(here, "Observation/o") == ()
        assert (await here.audit())[-1].detail["unlabelled"][0].startswith("Observation/o ")
        await operator.write([Erase(key=record.key)])


async def test_what_was_derived_is_no_given_label(tmp_path: Path, kind: str) -> None:
    """An operator who corrects a code takes no label away."""
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), condition("c", "p"))
        operator = await here.writer("operator", "operator")
        await operator.write([put(condition("c", "p", "I10"))])
        assert await labels(here, "Condition/c") == ()


# -- by the program


async def test_a_part_2_program_labels_all_that_it_holds_about_patients(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("operator", program("rehab"), program("clinic", flagged=False))
        await here.load("rehab", patient("p"), condition("c", "p", "I10"), medication("m", None))
        await here.load("clinic", patient("q"), condition("d", "q", "I10"), condition("e", "q", "F11.20"))
        assert await labels(here, "Patient/p") == await labels(here, "Condition/c") == (PART2,)
        assert await labels(here, "Person/p") == (PART2,)
        assert await labels(here, "Medication/m") == ()
        assert await labels(here, "Condition/d") == await labels(here, "Patient/q") == ()
        assert await labels(here, "Condition/e") == (f"{ACT}|SUD",)
        [record] = await (await here.writer("rehab")).write([put(condition("c2", "p", "I10"))])
        assert parse_facts(record.facts).labels == (PART2,)
        await (await here.writer("operator", "operator")).write([put(condition("c", "p", "I11"))])
        assert await labels(here, "Condition/c") == (PART2,)
        assert await sound(here) == []
        await here.gate.upkeep(subject="test").reindex(quietly)
        assert await labels(here, "Condition/c") == (PART2,)


async def test_third_parties_get_a_programs_data_only_under_a_permit_for_it(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("operator", program("rehab"))
        await here.load("rehab", patient("p"), condition("c", "p", "I10"))
        for permitted, expected in ((("N",), []), (("N", "SUD"), []), (("N", "42CFRPart2"), ["Condition/c"])):
            await here.consent(consent("c", "p", securityLabel=marks(*permitted)))
            reader = await (await here.caller("third-party", "reader")).about({"p"})
            assert await seen(reader, "Condition") == expected


async def test_only_an_organization_that_the_operator_keeps_is_a_program(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", program("a"), patient("p"))
        assert await labels(here, "Patient/p") == ()


async def test_third_parties_wait_until_what_a_new_program_holds_is_labelled(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("rehab", patient("p"), condition("c", "p", "I10"))
        await here.consent(consent("k", "p"))
        token = here.token("third-party", "reader")
        reader = await (await here.gate.admit(token, interaction="read")).about({"p"})
        assert await seen(reader, "Condition") == ["Condition/c"]
        await here.load("operator", program("rehab"))
        with pytest.raises(Unavailable, match="derived again"):
            await reader.still_admitted()
        again = await here.gate.admit(token, interaction="read")
        with pytest.raises(Unavailable, match="derived again"):
            await again.about({"p"})
        member = await here.caller("member", "rehab")
        assert await seen(member, "Condition") == ["Condition/c"]
        before = await here.store.get(Key("Condition", "c"))
        assert await relabel(here) == (5, 4)
        after = await here.store.get(Key("Condition", "c"))
        assert before
        assert after
        assert (before.version, before.seq, before.body) == (after.version, after.seq, after.body)
        reader = await (await here.gate.admit(token, interaction="read")).about({"p"})
        assert await seen(reader, "Condition") == []
        assert await relabel(here) == (5, 0)


async def test_a_new_program_without_data_keeps_nobody_waiting(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("operator", program("rehab"))
        assert await here.gate.labelled()


async def test_a_program_that_comes_between_the_look_and_the_commit_is_not_missed(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("rehab", patient("p"))
        member = await here.writer("rehab")
        commit, raced = here.store.commit, []

        async def raced_commit(*arguments: Any, **options: Any) -> Any:
            if not raced:
                raced.append(True)
                await here.load("operator", program("rehab"))
            return await commit(*arguments, **options)

        here.store.commit = raced_commit  # type: ignore[method-assign]
        await member.write([put(condition("c", "p", "I10"))])
        assert raced
        assert await labels(here, "Condition/c") == (PART2,)


# -- by what it refers to


async def test_a_report_takes_over_the_labels_of_its_results_whichever_comes_first(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), observation("plain", "p"), observation("marked", "p", "MH"))
        await here.load(
            "a", report("r1", "p", "plain"), report("r2", "p", "plain", "marked"), report("r3", "p", "later")
        )
        await here.load("a", observation("later", "p", "HIV"))
        assert await labels(here, "DiagnosticReport/r1") == ()
        assert await labels(here, "DiagnosticReport/r2") == (MH,)
        assert await labels(here, "DiagnosticReport/r3") == (HIV,)
        member = await here.writer("a")
        await member.write([put(observation("plain", "p", "HIV")), put(observation("marked", "p"))])
        assert await labels(here, "DiagnosticReport/r1") == (HIV,)
        assert await labels(here, "DiagnosticReport/r2") == (HIV,)
        await member.write([put(observation("n", "p", "MH")), put(report("r4", "p", "n"))])
        assert await labels(here, "DiagnosticReport/r4") == (MH,)
        assert await sound(here) == []


async def test_a_request_takes_over_what_its_medication_says(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("operator", medication("shared", "B20"), medication("plain", None))
        await here.load("a", patient("p"), request("r", "p", "shared"), request("s", "p", "plain"))
        assert await labels(here, "MedicationRequest/r") == (HIV,)
        await (await here.writer("operator", "operator")).write([put(medication("plain", "F33.1"))])
        assert await labels(here, "MedicationRequest/s") == (MH,)


async def test_another_custodians_labels_are_not_learned_by_reference(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), observation("secret", "p", "HIV"))
        await here.load("b", patient("q"), report("r", "q", "secret"))
        assert await labels(here, "DiagnosticReport/r") == ()


async def test_a_binary_takes_over_the_labels_of_what_names_it(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), binary("x"), binary("y"), document("d", "p", "x", "MH"))
        await here.load("a", document("e", "p", "z", "HIV"))
        await here.load("a", binary("z"))
        assert await labels(here, "Binary/x") == (MH,)
        assert await labels(here, "Binary/y") == ()
        assert await labels(here, "Binary/z") == (HIV,)
        member = await here.writer("a")
        await member.write([put(document("d", "p", "y", "MH"))])
        assert await labels(here, "Binary/x") == ()
        assert await labels(here, "Binary/y") == (MH,)
        await member.write([put(document("f", "p", "y"))])
        reader = await (await here.caller("third-party", "reader")).about({"p"})
        await here.consent(consent("k", "p"))
        reader = await here.caller("third-party", "reader")
        assert await status_of(reader, "Binary/y") == 403  # though one that is open names it
        await member.write([Erase(key=Key("DocumentReference", "d"))])
        assert await labels(here, "Binary/y") == ()
        assert await status_of(await here.caller("third-party", "reader"), "Binary/y") == 200


async def test_labels_go_on_from_one_to_the_next(tmp_path: Path, kind: str) -> None:
    """Observation → DiagnosticReport → its Binary, and the Provenance of that."""
    async with world(tmp_path, kind) as here:
        provenance = {
            "resourceType": "Provenance",
            "id": "v",
            "target": [{"reference": "Binary/x"}],
            "recorded": "2026-01-01T00:00:00Z",
            "agent": [{"who": {"display": "x"}}],
        }
        form = {"presentedForm": [{"url": "Binary/x"}]}
        await here.load("a", patient("p"), binary("x"), report("r", "p", "o", **form), provenance)
        await here.load("a", observation("o", "p", "HIV"))
        for reference in ("DiagnosticReport/r", "Binary/x", "Provenance/v"):
            assert await labels(here, reference) == (HIV,)
        await (await here.writer("a")).write([put(observation("o", "p"))])
        for reference in ("DiagnosticReport/r", "Binary/x", "Provenance/v"):
            assert await labels(here, reference) == ()


# -- other lists


@pytest.fixture
def added() -> Any:
    """The lists with one code more, put in force by the test; those of before are back afterwards."""
    before = sensitive.lists()
    own = {"version": "1", "topics": {"MH": {"ICD-10-CM": ["I10"]}}}
    yield lambda: sensitive.put_in_force(lists_of(msgspec.json.encode(own)))
    sensitive.put_in_force(before)


async def test_changed_lists_are_refused_until_all_is_labelled_by_them(tmp_path: Path, kind: str, added: Any) -> None:
    async with world(tmp_path, kind) as here:
        conditions = [condition(f"c{number}", "p", "I10" if number % 2 else "I11") for number in range(9)]
        await here.load("a", patient("p"), *conditions)
        token = here.token("member", "a")
        added()
        with pytest.raises(Unavailable, match="fhirserver relabel"):
            await Gate(here.store, KEYS, clock=lambda: here.now).start()
        gate = Gate(here.store, KEYS, clock=lambda: here.now)
        await gate.start(upkeep=True)
        heard: list[tuple[int, int]] = []
        assert await gate.upkeep(subject="test").relabel(lambda *told: heard.append(told)) == (11, 4)
        assert heard[-1] == (11, 11)
        assert await labels(here, "Condition/c1") == (MH,)
        assert await labels(here, "Condition/c2") == ()
        await Gate(here.store, KEYS, clock=lambda: here.now).start()
        sensitive.put_in_force(lists_of())  # as another server still has them
        with pytest.raises(Unavailable, match="restart this server"):
            await here.gate.admit(token, interaction="read")


async def test_a_relabel_that_is_killed_goes_on_where_it_was(tmp_path: Path, kind: str, added: Any) -> None:
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), *(condition(f"c{number:03}", "p", "I10") for number in range(600)))
        added()

        def killed(done: int, total: int) -> None:
            if done > 500:
                raise KeyboardInterrupt

        upkeep = here.gate.upkeep(subject="test")
        with pytest.raises(KeyboardInterrupt):
            await upkeep.relabel(killed)
        done, changed = await upkeep.relabel(quietly)
        assert done < 400
        assert changed < 200
        count = 0
        async for batch in here.store.scan(Query(types=frozenset({"Condition"}), bodies=False)):
            count += sum(parse_facts(record.facts).labels == (MH,) for record in batch)
        assert count == 600


async def test_a_relabel_that_is_killed_before_others_have_followed_loses_none(
    tmp_path: Path, kind: str, added: Any
) -> None:
    async with world(tmp_path, kind) as here:
        marked = observation("o", "p", valueCodeableConcept=coded("I10"))
        await here.load("a", patient("p"), report("r", "p", "o"))
        await here.load("a", marked)
        added()
        reindex = here.store.reindex

        async def killed(items: Any) -> None:
            await reindex(items)
            raise KeyboardInterrupt

        here.store.reindex = killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            await relabel(here)
        here.store.reindex = reindex  # type: ignore[method-assign]
        assert await labels(here, "Observation/o") == (MH,)
        assert await labels(here, "DiagnosticReport/r") == ()
        gate = Gate(here.store, KEYS, clock=lambda: here.now)
        await gate.start(upkeep=True)
        assert await labels(here, "DiagnosticReport/r") == (MH,)


async def test_a_put_of_what_was_read_keeps_given_and_derived_apart(tmp_path: Path, kind: str) -> None:
    """What is read holds the given labels only, so what was derived does not become given by writing it back."""
    async with world(tmp_path, kind) as here:
        await here.load("a", patient("p"), condition("c", "p", meta={"security": marks("MH")}))
        member = await here.writer("a")
        record = await member.read(Key("Condition", "c"))
        body = await content(member, record)
        assert [coding["code"] for coding in body["meta"]["security"]] == ["MH"]
        raw = msgspec.json.encode(body)
        await member.write([Put(resource=body, raw=raw, id="c")])
        assert await labels(here, "Condition/c") == (HIV, MH)
