"""The command line: each mistake is one sentence, results are alone on standard output."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fhirserver import config
from fhirserver.cli import explain, serve, session
from fhirserver.config import mongo_place
from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.policy.keys import load_keys
from fhirserver.policy.principal import CallerClass, Principal, authenticate, issue_token
from fhirserver.policy.scopes import Scopes
from fixtures import charts
from tests.clients import jwk, jwks
from tests.stores import client_of, database_of, fresh

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
NOW = 1_800_000_000_000
DEMO = Path(charts.__file__).parent / "demo"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``fhirserver WORDS`` in a folder of its own, with no settings but those given."""

    def command(*words: str, **environment: str) -> Done:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FHIRSERVER_")}
        return subprocess.run(
            [sys.executable, "-m", "fhirserver", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean | environment,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    return command


def operator() -> Principal:
    """An operator for half an hour."""
    return Principal(
        subject="test",
        organization="operator",
        caller=CallerClass.OPERATOR,
        scopes=Scopes("system/*.rs"),
        until=NOW + 1_800_000,
    )


def sentence(done: Done, code: int) -> str:
    """The one sentence of a command that failed with ``code`` and printed no result."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fhirserver: ")
    return lines[0].removeprefix("fhirserver: ")


MISTAKES: tuple[tuple[tuple[str, ...], int, str], ...] = (
    (("tokn",), 2, "tokn"),
    (("serve", "--prot", "1"), 2, "--prot"),
    (("org", "add"), 2, "NAME"),
    (("serve", "--port", "many"), 2, "--port"),
    (("serve", "--port", "70000"), 1, "--port"),
    (("serve", "--workers", "0"), 1, "--workers"),
    (("serve", "--host", "no.such.host.invalid"), 1, "no.such.host.invalid"),
    (("stats", "--store", "postgres://h/d"), 1, "sqlite:///"),
    (("stats", "--store", "sqlite://one-slash-too-few.db"), 1, "sqlite:///"),
    (("stats", "--store", "sqlite:////proc/nowhere/fhir.db"), 1, "/proc/nowhere"),
    (("ingest", "nowhere.json"), 1, "nowhere.json"),
    (("ingest", "-", "-"), 1, "once"),
    (("ingest", ".", "--organization", "nobody"), 1, "fhirserver org add"),
    (("org", "add", "  "), 1, "name"),
    (("org", "add", "Clinic", "--id", "not an id"), 1, "not an id"),
    (("org", "add", "Clinic", "--slug", "Not_A_Slug"), 1, "Not_A_Slug"),
    (("token",), 1, "--org"),
    (("token", "--org", "nobody"), 1, "fhirserver org add"),
    (("token", "--as", "wizard"), 2, "--as"),
    (("token", "--as", "patient"), 1, "--patient"),
    (("token", "--as", "patient", "--patient", "nobody"), 1, "nobody"),
    (("token", "--as", "operator", "--patient", "p"), 1, "--patient"),
    (("token", "--as", "operator", "--expires", "3601"), 1, "3600"),
    (("token", "--as", "operator", "--expires", "0"), 1, "--expires"),
    (("token", "--as", "operator", "--scope", "everything"), 1, "everything"),
    (("consent", "grant", "--org", "nobody"), 1, "--person"),
    (("consent", "grant", "--org", "nobody", "--person", "a", "--patient", "b"), 1, "--person"),
    (("consent", "grant", "--patient", "a"), 2, "--org"),
    (("consent", "grant", "--patient", "a", "--org", "nobody"), 1, "fhirserver org add"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--until", "soon"), 1, "soon"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--types", "Observaton"), 1, "Observaton"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--until", "2020-01-01"), 1, "2020-01-01"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--types", ""), 1, "--types"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--labels", ","), 1, "--labels"),
    (("consent", "grant", "--patient", "a", "--org", "operator", "--project", ""), 1, "--project"),
    (("consent", "explain", "--resource", "Nothing/1", "--org", "operator"), 1, "Nothing/1"),
    (("consent", "explain", "--resource", "Patient/1", "--org", "operator", "--as", "king"), 1, "--as"),
    (("consent", "explain", "--resource", "Patient/1", "--org", "operator"), 1, "Patient/1"),
    (("consent", "revoke", "--person", "nobody", "--org", "operator"), 1, "nobody"),
    (("client", "add", "bulk", "--jwks", "nowhere.json"), 2, "--org"),
    (("client", "add", "bulk", "--org", "operator", "--jwks", "nowhere.json"), 1, "nowhere.json"),
    (("client", "add", "bulk", "--org", "operator"), 1, "its keys"),
    (("client", "add", "bulk", "--org", "operator", "--jwks-url", "http://x/"), 1, "https://"),
    (("client", "add", "bulk", "--org", "nobody", "--jwks-url", "https://x/"), 1, "fhirserver org add"),
    (("client", "add", "bulk", "--org", "operator", "--jwks-url", "https://x/", "--as", "operator"), 2, "--as"),
    (("client", "show", "nobody"), 1, "fhirserver client list"),
    (("client", "disable", "nobody"), 1, "fhirserver client list"),
    (("client", "remove", "../nobody"), 1, "fhirserver client list"),
    (("person", "link", "Patient/1", "2"), 1, "Patient/1"),
    (("person", "link", "p", "nobody"), 1, "nobody"),
    (("person", "unlink", "nobody", "1"), 1, "nobody"),
)


@pytest.mark.parametrize(("words", "code", "named"), MISTAKES, ids=[" ".join(mistake[0]) for mistake in MISTAKES])
def test_a_mistake_is_one_sentence_that_names_it(run: Run, words: tuple[str, ...], code: int, named: str) -> None:
    assert named in sentence(run(*words), code)


def test_a_port_in_use_is_one_sentence(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in sentence(run("serve", "--port", port), 1)
        assert port in sentence(run("demo", PORT=port), 1)


def test_a_setting_that_cannot_be_understood_is_one_sentence(run: Run) -> None:
    assert "FHIRSERVER_PORT" in sentence(run("stats", FHIRSERVER_PORT="many"), 1)
    assert "nowhere" in sentence(run("stats", FHIRSERVER_STORE_FILE="/nowhere"), 1)


def test_a_store_that_is_no_file_needs_a_key_file_and_nothing_is_made_without_one(run: Run, tmp_path: Path) -> None:
    store = "mongodb://user:secret@127.0.0.1:1/charts?replicaSet=rs0"
    for words in (("stats",), ("serve", "--port", "0")):
        told = sentence(run(*words, FHIRSERVER_STORE=store), 1)
        assert "FHIRSERVER_KEYS_FILE" in told
        assert "secret" not in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mongodb://user:secret@127.0.0.1:1/charts?serverSelectionTimeoutMS=200", "mongodb://127.0.0.1:1/charts"),
        ("mongodb://user:se/cret@127.0.0.1:1/charts", "mongodb://host:27017/database?replicaSet=rs0"),
    ],
)
def test_a_mongodb_that_is_not_there_is_told_without_user_and_password(run: Run, url: str, told: str) -> None:
    said = sentence(run("stats", FHIRSERVER_STORE=url, FHIRSERVER_KEYS_FILE="keys.json"), 1)
    assert told in said
    assert not re.search("user:|cret", said)


@pytest.mark.parametrize(
    ("code", "told"), [(18, "password"), (8000, "password"), (13, "docs/mongodb.md"), (None, "replicaSet")]
)
def test_why_a_store_is_away_is_told_as_far_as_it_is_known(code: int | None, told: str) -> None:
    class Failure(Exception):
        pass

    fault, cause = Unavailable(), Failure("user:secret@host")
    cause.code = code  # type: ignore[attr-defined]
    fault.__cause__ = cause
    said = session._why(fault, config.load({"FHIRSERVER_STORE": "mongodb://user:secret@host/charts"}))
    assert "mongodb://host/charts" in said
    assert told in said
    assert "secret" not in said
    assert session._why(Unavailable("Its own sentence."), config.load({})) == "Its own sentence."


def test_workers_are_handed_what_was_given_and_no_url_that_came_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "store"
    secret.write_text("mongodb://user:secret@h/charts")
    monkeypatch.setattr(os, "environ", {"FHIRSERVER_STORE_FILE": str(secret)})
    serve._hand_down(session.settings(None), 8001)
    assert os.environ["FHIRSERVER_PORT"] == "8001"
    assert "secret" not in " ".join(os.environ.values())
    serve._hand_down(session.settings("sqlite:///other.db"), 8001)
    assert os.environ["FHIRSERVER_STORE"] == "sqlite:///other.db"


def test_a_store_that_is_none_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fhir.db").write_text("This is no database, but a text of more than a hundred bytes.\n" * 40)
    sentence(run("stats", "--store", "sqlite:///fhir.db"), 1)


def test_help_needs_no_store(run: Run, tmp_path: Path) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "ingest" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_command_without_its_word_shows_the_help(run: Run) -> None:
    done = run("consent")
    assert done.returncode == 2
    assert "grant" in done.stdout + done.stderr


def test_the_first_command_makes_the_store_and_a_key_file_for_their_owner_only(run: Run, tmp_path: Path) -> None:
    assert run("org", "list").returncode == 0
    assert (tmp_path / "data" / "fhir.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data" / "fhir.db.keys.json").stat().st_mode & 0o777 == 0o600


def test_a_command_without_standard_streams_does_its_work(tmp_path: Path) -> None:
    shell = ["/bin/sh", "-c", 'exec "$0" -m fhirserver org add Clinic >&- 2>&-', sys.executable]
    assert subprocess.run(shell, cwd=tmp_path, timeout=60, check=False).returncode == 0


def test_an_organisation_is_added_once_and_listed(run: Run) -> None:
    assert run("org", "add", "Älvdalen Clinic").stdout == "alvdalen-clinic\n"
    assert "already" in run("org", "add", "Älvdalen Clinic").stderr
    run("org", "add", "Recovery House", "--id", "rh", "--slug", "recovery", "--part2-program")
    assert json.loads(run("org", "list", "--json").stdout) == [
        {"id": "alvdalen-clinic", "name": "Älvdalen Clinic", "slug": "", "part2": False},
        {"id": "rh", "name": "Recovery House", "slug": "recovery", "part2": True},
    ]
    assert "rh" in sentence(run("org", "add", "Somebody Else", "--id", "rh"), 1)


def test_an_organisation_that_is_added_again_keeps_what_is_not_mentioned(run: Run) -> None:
    run("org", "add", "Clinic", "--slug", "clinic", "--part2-program")
    assert "is there already" in run("org", "add", "Clinic").stderr
    assert "updated" in run("org", "add", "Clinic", "--slug", "other").stderr
    (row,) = json.loads(run("org", "list", "--json").stdout)
    assert row == {"id": "clinic", "name": "Clinic", "slug": "other", "part2": True}


def test_what_a_new_program_holds_is_labelled_at_once(run: Run, tmp_path: Path) -> None:
    run("org", "add", "Harbour", "--id", "harbour")
    patient = {"resourceType": "Patient", "id": "p"}
    (tmp_path / "p.ndjson").write_text(json.dumps(patient))
    run("ingest", "p.ndjson", "--org", "harbour")
    assert "updated" in run("org", "add", "Harbour", "--id", "harbour", "--part2-program").stderr
    assert "0 labelled otherwise" in run("relabel").stderr
    assert run("check").returncode == 0


def test_lists_of_the_installation_are_put_in_force_by_relabel(run: Run, tmp_path: Path) -> None:
    own = {"version": "1", "topics": {"MH": {"ICD-10-CM": ["I10"]}}}
    coding = {"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "I10"}
    condition = {"resourceType": "Condition", "id": "c", "subject": {"display": "x"}, "code": {"coding": [coding]}}
    (tmp_path / "c.ndjson").write_text(json.dumps(condition))
    (tmp_path / "codes.json").write_text(json.dumps(own))
    run("ingest", "c.ndjson")
    lists = {"FHIRSERVER_SENSITIVE_CODES": str(tmp_path / "codes.json")}
    assert "fhirserver relabel" in sentence(run("org", "list", **lists), 1)
    assert "1 resources looked at, 1 labelled otherwise" in run("relabel", **lists).stderr
    assert run("org", "list", **lists).returncode == 0
    assert "fhirserver relabel" in sentence(run("org", "list"), 1)


def test_a_file_of_codes_that_cannot_be_used_is_refused_in_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text('{"version": "1", "topics": {"SECRET": {"LOINC": ["1-2"]}}}')
    lists = {"FHIRSERVER_SENSITIVE_CODES": str(tmp_path / "codes.json")}
    assert "'SECRET'" in sentence(run("org", "list", **lists), 1)
    assert "codes.json" in sentence(run("org", "list", FHIRSERVER_SENSITIVE_CODES="no/codes.json"), 1)


def test_an_emergency_needs_a_member_and_a_reason(run: Run) -> None:
    run("org", "add", "Clinic")
    member = ("token", "--as", "member", "--org", "clinic", "--purpose", "BTG")
    assert "reason" in sentence(run(*member), 1)
    assert "members alone" in sentence(run("token", "--org", "clinic", "--purpose", "BTG", "--reason", "INC-1"), 1)
    assert run(*member, "--reason", "INC-1").stdout.count(".") == 2


def test_a_slug_has_one_owner(run: Run) -> None:
    run("org", "add", "Clinic", "--slug", "clinic")
    assert "'clinic'" in sentence(run("org", "add", "Another", "--slug", "clinic"), 1)


def test_an_organisation_that_came_with_data_is_nobody_to_deal_with(run: Run, tmp_path: Path) -> None:
    run("org", "add", "North", "--id", "north")
    file = tmp_path / "organizations.ndjson"
    file.write_text(
        '{"resourceType":"Organization","id":"operator","name":"Hijack"}\n'
        '{"resourceType":"Organization","id":"stranger","name":"Stranger"}\n'
    )
    assert run("ingest", str(file), "--organization", "north").returncode == 1
    assert [row["id"] for row in json.loads(run("org", "list", "--json").stdout)] == ["north"]
    assert "stranger" in sentence(run("token", "--org", "stranger"), 1)
    assert "--id" in sentence(run("org", "add", "Stranger", "--id", "stranger"), 1)


def test_a_token_stands_alone_on_standard_output(run: Run) -> None:
    run("org", "add", "CareBridge")
    done = run("token", "--org", "carebridge")
    assert done.returncode == 0
    assert done.stdout.count(".") == 2
    assert len(done.stdout.split()) == 1
    assert done.stdout.strip() not in done.stderr


def test_operator_tokens_can_be_switched_off(run: Run) -> None:
    assert "OPERATOR_TOKENS" in sentence(run("token", "--as", "operator", FHIRSERVER_OPERATOR_TOKENS="false"), 1)


def test_charts_are_ingested_counted_and_checked_and_a_second_run_changes_nothing(run: Run, tmp_path: Path) -> None:
    run("org", "add", "Northfield Clinic")
    words = ("ingest", str(DEMO / "northfield-clinic.ndjson"), "--organization", "northfield-clinic", "--json")
    first = json.loads(run(*words).stdout)
    assert (first["created"], first["rejected"]) == (31, 0)
    second = json.loads(run(*words).stdout)
    assert (second["created"], second["updated"], second["unchanged"]) == (0, 0, 31)
    counted = json.loads(run("stats", "--json").stdout)
    assert counted["types"]["Patient"] == counted["types"]["Person"] == 2
    assert run("reindex").returncode == 0
    assert json.loads(run("check", "--json").stdout) == {"ok": True, "problems": []}


def test_commands_do_the_same_on_mongodb_and_reindex_makes_native_documents_what_they_shall_be(
    run: Run, tmp_path: Path, mongodb: str
) -> None:
    with fresh("mongo", tmp_path) as url, client_of(url) as client:
        charts_there = client[database_of(url)]
        store = {"FHIRSERVER_STORE": url, "FHIRSERVER_KEYS_FILE": "keys.json"}
        without = store | {"FHIRSERVER_NATIVE_DOCUMENTS": "false"}
        words = ("ingest", str(DEMO / "northfield-clinic.ndjson"), "--json")
        assert json.loads(run(*words, **store).stdout)["created"] == 31
        assert json.loads(run(*words, **without).stdout)["unchanged"] == 31
        counted = json.loads(run("stats", "--json", **without).stdout)
        assert counted["store"] == mongo_place(url)
        assert counted["files"] == {}
        assert charts_there.Patient.count_documents({}) == counted["types"]["Patient"] == 2
        assert run("reindex", **without).returncode == 0
        assert "Patient" not in charts_there.list_collection_names()
        assert run("reindex", **store).returncode == 0
        assert charts_there.Patient.count_documents({}) == 2
        assert json.loads(run("check", "--json", **store).stdout) == {"ok": True, "problems": []}


def test_what_is_not_valid_is_rejected_reported_and_leaves_the_rest(run: Run, tmp_path: Path) -> None:
    good = (DEMO / "northfield-clinic.ndjson").read_text().splitlines()[0]
    (tmp_path / "in.ndjson").write_text(good + '\n{"resourceType":"Patient","id":"x","gender":"both"}\n')
    done = run("ingest", "in.ndjson")
    assert done.returncode == 1
    assert "created 1" in done.stdout
    assert "rejected 1" in done.stdout
    assert "ingest.rejects.ndjson" in done.stderr
    (line,) = (tmp_path / "ingest.rejects.ndjson").read_text().splitlines()
    rejected = json.loads(line)
    assert rejected["line"] == 2
    assert "gender" in json.dumps(rejected)


@pytest.mark.parametrize(
    ("number", "interrupts"),
    [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_IGN)],
    ids=["SIGINT", "SIGTERM", "SIGTERM in the background"],
)
def test_an_ingest_that_waits_for_its_input_is_stopped_at_once_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, interrupts: signal.Handlers
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started = subprocess.Popen(
        [sys.executable, "-m", "fhirserver", "ingest", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(scratch)},
        # A shell has SIGINT ignored in what it starts in the background, and a child would inherit that from us.
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts),
    )
    with started:
        until = time.monotonic() + 30
        while not list(scratch.glob("*/input-0")) and time.monotonic() < until:
            time.sleep(0.05)
        started.send_signal(number)
        try:
            assert started.wait(10) == 130
        finally:
            started.kill()
        assert started.stderr is not None
        assert started.stderr.read() == "fhirserver: stopped.\n"
    assert not list(scratch.iterdir())


def test_consents_are_granted_listed_and_revoked(run: Run) -> None:
    run("org", "add", "CareBridge")
    run("ingest", str(DEMO / "northfield-clinic.ndjson"))
    assert run("consent", "grant", "--patient", "amara-northfield", "--org", "carebridge").returncode == 0
    (row,) = json.loads(run("consent", "list", "--json").stdout)
    assert row["patient"] == "amara-northfield"
    assert row["organization"] == "carebridge"
    assert row["status"] == "active"
    why = ("consent", "explain", "--resource", "Patient/amara-northfield", "--org", "carebridge", "--json")
    assert json.loads(run(*why).stdout)["shown"] is True
    assert run("consent", "revoke", "--patient", "amara-northfield", "--org", "carebridge").returncode == 0
    told = json.loads(run(*why).stdout)
    assert told["shown"] is False
    assert any(reason.endswith("does not open it; it refuses.") for reason in told["reasons"])
    rows = json.loads(run("consent", "list", "--json").stdout)
    assert [row["decision"] for row in rows if row["status"] == "active"] == ["deny"]


def test_patients_are_linked_to_one_person_and_unlinked(run: Run) -> None:
    run("ingest", str(DEMO / "northfield-clinic.ndjson"), "--no-persons")
    assert run("person", "link", "amara", "amara-northfield", "elias-northfield").returncode == 0
    assert run("person", "unlink", "amara", "Patient/elias-northfield").returncode == 0
    assert json.loads(run("check", "--json").stdout)["ok"]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Fault(Kind.UNAVAILABLE, "The store is away"), "The store is away."),
        (ValueError("a line\nand another"), "a line and another."),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "x.json: No such file or directory."),
    ],
)
def test_a_failure_becomes_one_line(failure: Exception, told: str) -> None:
    assert explain(failure) == (told, 1)


def test_a_defect_of_ours_is_not_dressed_up_as_a_mistake() -> None:
    assert explain(RuntimeError("a defect")) == ("", 1)


def test_a_client_is_registered_shown_disabled_and_removed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(jwks()))
    assert run("org", "add", "Reader").stdout == "reader\n"
    words = ("--org", "reader", "--jwks", "jwks.json", "--scope", "system/Patient.rs", "--purpose", "TREAT")
    added = run("client", "add", "bulk", *words)
    assert (added.returncode, added.stdout) == (0, "bulk\n")
    assert "--replace" in sentence(run("client", "add", "bulk", *words), 1)
    shown = json.loads(run("client", "show", "bulk").stdout)
    assert shown == {
        "id": "bulk", "organization": "reader", "class": "third-party", "scope": "system/Patient.rs",
        "jwks": jwks(), "purpose": "TREAT", "enabled": True, "epoch": 1,
    }  # fmt: skip
    assert run("client", "disable", "bulk").returncode == 0
    assert [each["enabled"] for each in json.loads(run("client", "list", "--json").stdout)] == [False]
    assert "bulk  reader        third-party  no       system/Patient.rs" in run("client", "list").stdout
    assert run("client", "enable", "bulk").returncode == 0
    assert run("client", "add", "bulk", "--replace", *words).returncode == 0
    assert run("client", "remove", "bulk").returncode == 0
    assert json.loads(run("client", "list", "--json").stdout) == []


def test_a_private_key_is_not_registered_and_not_repeated(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk("RS384", d="very-secret")]}))
    told = sentence(run("client", "add", "bulk", "--org", "operator", "--jwks", "jwks.json"), 1)
    assert "private key" in told
    assert "very-secret" not in told
    (tmp_path / "jwks.json").write_text("very-secret")
    assert "very-secret" not in sentence(run("client", "add", "bulk", "--org", "operator", "--jwks", "jwks.json"), 1)


def test_a_rotated_key_leaves_earlier_tokens_good_unless_it_is_dropped(run: Run, tmp_path: Path) -> None:
    run("stats")
    path = tmp_path / "data" / "fhir.db.keys.json"
    first = load_keys(path)
    token = issue_token(first, operator(), NOW)
    second = run("key", "rotate").stdout.strip()
    assert [line.split()[:2] for line in run("key", "list").stdout.splitlines()[1:]] == [
        [second, "yes"],
        [first.kid, "no"],
    ]
    assert authenticate(load_keys(path), token, NOW).subject == "test"
    third = run("key", "rotate", "--drop").stdout.strip()
    assert [line.split()[0] for line in run("key", "list").stdout.splitlines()[1:]] == [third]
    with pytest.raises(Fault):
        authenticate(load_keys(path), token, NOW)
