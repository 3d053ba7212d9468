"""`fhirserver audit`: the trail at the command line, over a real store, real files and real sockets."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fhirserver.app import wall_clock
from fhirserver.cli import audit
from fhirserver.cli.syslog import Syslog
from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow, Key
from fhirserver.core.validate import parse
from tests.admitted import World, observation, patient, world
from tests.unit.test_cli import Run, run

__all__ = ["run"]

JSON = dict[str, Any]


async def a_few(folder: Path) -> None:
    """A store with what was imported, read, and searched for by name."""
    async with world(folder) as w:
        w.now = wall_clock() - 3_600_000
        await w.load("north", patient("n"), observation("n1", "n"))
        await some_reads(w, 3)


async def some_reads(w: World, number: int) -> None:
    for _ in range(number):
        w.now += 1000
        scoped = await w.caller("member", "north")
        await scoped.read(Key("Observation", "n1"))
        detail = {"resource": "Observation/n1", "query": "?birthdate=1970-01-01"}
        async with scoped.disclosure(interaction="read", patients=("n",), detail=detail) as note:
            note.count = 1
            note.complete()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    asyncio.run(a_few(tmp_path))
    return tmp_path / "fhir.db"


@pytest.fixture
def command(run: Run, store: Path) -> Callable[..., Any]:
    def on_it(*words: str) -> Any:
        return run(*words, "--store", f"sqlite:///{store}")

    return on_it


def lines(file: Path) -> list[JSON]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_trail_is_listed_and_that_is_in_the_trail(command: Callable[..., Any]) -> None:
    done = command("audit", "list", "--patient", "n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5  # a title, three reads, an import
    assert "Observation/n1" in done.stdout
    events = json.loads(command("audit", "list", "--json", "--limit", "3").stdout)
    assert [each["subtype"][-1]["code"] for each in events] == ["audit-list", "read", "read"]
    assert [each["outcome"] for each in events] == ["0", "0", "0"]
    assert command("audit", "list", "--org", "nobody").stdout.count("\n") == 1


def test_listing_consents_is_in_the_trail(command: Callable[..., Any]) -> None:
    assert command("consent", "list", "--patient", "n").returncode == 0
    (event, *_) = json.loads(command("audit", "list", "--json", "--patient", "n").stdout)
    assert event["subtype"][-1]["code"] == "consent-list"


def test_events_are_appended_to_a_file_and_none_twice(command: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "trail.ndjson"
    assert command("audit", "export", "--file", str(file)).returncode == 0
    first = lines(file)
    for event in first:
        parse(json.dumps(event).encode())
    assert [each["subtype"][-1]["code"] for each in first].count("read") == 3
    assert "1970" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("a") as opened:
        opened.write('{"half":')  # of a run that was killed before it noted how far it came
    assert command("audit", "export", "--file", str(file)).returncode == 0
    second = lines(file)
    assert second[: len(first)] == first
    again = second[len(first) :]
    # What was under way came as incomplete: it comes again, with the same id.
    assert [(each["subtype"][-1]["code"], each["outcome"]) for each in again] == [
        ("audit-export", "0"),
        ("audit-export", "8"),
    ]
    assert again[0]["id"] == first[-1]["id"]


def test_a_file_of_something_else_is_left_alone(command: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "diary.txt"
    file.write_text("dear diary")
    done = command("audit", "export", "--file", str(file))
    assert done.returncode == 1
    assert "is not the file of this export" in done.stderr
    assert file.read_text() == "dear diary"


def test_rows_come_with_their_links(command: Callable[..., Any]) -> None:
    done = command("audit", "export", "--file", "-", "--rows")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["place"] for row in rows] == [str(at) for at in range(1, len(rows) + 1)]
    assert len({row["link"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--file", "a", "--syslog", "udp://h"),
        *(("--syslog", url) for url in ("http://h", "udp://", "unix://h", "unix:///no/such")),
    ],
)
def test_a_target_that_is_none_is_told(command: Callable[..., Any], words: tuple[str, ...]) -> None:
    done = command("audit", "export", *words)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_old_is_dropped_and_the_rest_verifies(command: Callable[..., Any]) -> None:
    done = command("audit", "retain", "--days", "1")
    assert (done.returncode, done.stderr) == (0, "0 rows dropped.\n")
    assert command("check").returncode == 0
    assert command("audit", "retain", "--days", "0").returncode == 2
    events = json.loads(command("audit", "list", "--json").stdout)
    assert "audit-retain" in [each["subtype"][-1]["code"] for each in events]


async def test_retention_counts_days_from_now(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.load("north", patient("n"), observation("n1", "n"))
        await some_reads(w, 3)
        before = len(await w.audit())
        w.now += 3 * 86_400_000
        archive = w.gate.archive(subject="test")
        with pytest.raises(ValueError, match="at least 1"):
            await archive.retain(0, w.now)
        assert await archive.retain(4, w.now) == 0
        assert await archive.retain(2, w.now) == before
        rows = await w.audit()
        assert {row.interaction for row in rows} == {"audit-retain"}
        assert [row.outcome for row in rows] == ["intent", "complete"] * 2
        assert rows[-1].detail["count"] == before
        upkeep = w.gate.upkeep(subject="test")
        assert [sentence async for sentence in upkeep.verify()] == []


async def test_what_cannot_be_audited_is_neither_handed_on_nor_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w:
        await w.load("north", patient("n"))
        before = await w.audit()
        w.now += 30 * 86_400_000

        async def fail(rows: object) -> None:
            raise Unavailable

        monkeypatch.setattr(w.store.audit, "append", fail)
        archive = w.gate.archive(subject="test")
        with pytest.raises(Unavailable):
            async with archive.handing_on():
                pytest.fail("a row could have left")
        with pytest.raises(Unavailable):
            await archive.retain(1, w.now)
        assert await w.audit() == before


# -- syslog --

ROW = AuditRow(id="1", at=1_800_000_000_000, organization="o", subject="s", interaction="read", outcome="denied")
MESSAGE = re.compile(
    rb"<(\d+)>1 (2027-01-15T08:00:00\.000Z) (\S+) fhirserver (\d+) audit "
    rb"\[origin software=\"fhirserver\"\] (.*)",
    re.DOTALL,
)


def certified(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret, public = folder / "key.pem", folder / "certificate.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(*form))
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return secret, public


@contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A TCP or TLS receiver: its port, and what each connection has sent once it has ended."""
    listening = socket.create_server(("127.0.0.1", 0))
    taken: list[bytes] = []

    def serve() -> None:
        opened, _ = listening.accept()
        with context.wrap_socket(opened, server_side=True) if context else opened as connection:
            data = b""
            while piece := connection.recv(65536):
                data += piece
            taken.append(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1], taken
        thread.join(10)
    finally:
        listening.close()


def counted(data: bytes) -> list[bytes]:
    """The messages of a stream, by their lengths (RFC 6587 §3.4.1)."""
    found = []
    while data:
        length, _, rest = data.partition(b" ")
        found.append(rest[: int(length)])
        data = rest[int(length) :]
    return found


def test_a_message_goes_by_datagram(tmp_path: Path) -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, f"{tmp_path}/log")):
        with socket.socket(family, socket.SOCK_DGRAM) as taking:
            taking.bind(address)
            taking.settimeout(10)
            port = taking.getsockname()[1] if family == socket.AF_INET else 0
            sender = Syslog(f"udp://127.0.0.1:{port}" if port else f"unix://{tmp_path}/log")
            sender.send(ROW, b'{"a":1}')
            match = MESSAGE.fullmatch(taking.recv(65536))
            sender.close()
        assert match is not None
        assert (match[1], match[5]) == (b"109", b'{"a":1}')  # log audit, notice


def test_messages_go_by_stream_and_by_tls(tmp_path: Path) -> None:
    secret, public = certified(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, secret)
    for scheme, how in (("tcp", None), ("tls", context)):
        with receiver(how) as (port, taken):
            sender = Syslog(f"{scheme}://127.0.0.1:{port}", authorities=str(public))
            for at in range(3):
                sender.send(ROW, b'{"a":%d}' % at)
            sender.close()
        texts = [match[5] for each in counted(taken[0]) if (match := MESSAGE.fullmatch(each))]
        assert texts == [b'{"a":0}', b'{"a":1}', b'{"a":2}']


def test_a_tls_receiver_that_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    secret, public = certified(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, secret)
    listening = socket.create_server(("127.0.0.1", 0))
    heard: list[object] = []

    def serve() -> None:
        opened, _ = listening.accept()
        try:
            with context.wrap_socket(opened, server_side=True) as connection:
                heard.append(connection.recv(100))
        except OSError as error:
            heard.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(ssl.SSLCertVerificationError):
        Syslog(f"tls://127.0.0.1:{listening.getsockname()[1]}").send(ROW, b"{}")
    thread.join(10)
    listening.close()
    assert not [each for each in heard if isinstance(each, bytes) and each]


def test_an_export_to_syslog_goes_on_where_it_was(command: Callable[..., Any], tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    told: list[list[JSON]] = []
    for _ in range(2):
        with receiver() as (port, taken):
            done = command("audit", "export", "--syslog", f"tcp://127.0.0.1:{port}", "--state", state, "--rows")
            assert done.returncode == 0, done.stderr
        told.append([json.loads(each.partition(b"] ")[2]) for each in counted(taken[0])])
    places = [int(row["place"]) for row in told[0] + told[1]]
    assert places == list(range(1, len(places) + 1))
    assert len(told[1]) == 2


async def test_a_followed_trail_outlasts_a_receiver_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAUSE", 0.01)
    failures = iter([OSError(111, "refused")] * 3)
    taken: list[str] = []

    class Flaky:
        def take(self, told: Any, state: audit.State) -> None:
            for place, row, _ in told:
                if len(taken) in (1, 2, 3) and (error := next(failures, None)):
                    raise error
                taken.append(row.id)
                state.after = place

        def close(self) -> None:
            return

    async with world(tmp_path) as w:
        await w.load("north", patient("n"), observation("n1", "n"))
        state = audit.State()
        archive = w.gate.archive(subject="test")
        following = asyncio.create_task(
            audit._handed_on(archive, Flaky(), state, None, rows=True, follow=True, retries=True)
        )
        for _ in range(200):
            if len(taken) >= 2:
                break
            await asyncio.sleep(0.01)
        await some_reads(w, 2)
        for _ in range(200):
            if len(taken) == len(await w.audit()):
                break
            await asyncio.sleep(0.01)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        rows = await w.audit()
        assert taken == [row.id for row in rows][:-1]
        assert (rows[-1].interaction, rows[-1].outcome) == ("audit-export", "cut")
