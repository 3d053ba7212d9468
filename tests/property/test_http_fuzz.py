"""Requests that nobody would write, over real HTTP: never a failure of the server, never an answer that is no answer.

What is asked is drawn from the route table and the search parameters, then spoilt: any method, path, query, header, any
body. Whatever comes back is complete HTTP; a refusal is an OperationOutcome in FHIR JSON; afterwards the server answers
as before and the store is sound.
"""

from __future__ import annotations

import asyncio
import json
import re
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.http.routes import ROUTES
from fixtures import charts
from tests.build import practitioner
from tests.counts import examples
from tests.damage import NUMBERS, STRINGS, coded, damage, text, tree
from tests.rawhttp import Answer, Raw, exchange
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind
CASES = 500
BASE = "/FHIR/R4"
FHIR_JSON = "application/fhir+json"
OUR_TYPES = frozenset({FHIR_JSON, "application/json", "application/fhir+ndjson"})
NOT_HTTP = b"Invalid HTTP request received."
"""What the HTTP parser itself answers, in plain text, to what is no HTTP at all: no request reaches the server."""

SAMPLES = [charts.encode(one) for one in islice(charts.chart(40), 40)] + [
    json.dumps(practitioner("dr0")).encode(),
    b'{"resourceType":"Person","id":"n0","link":[{"target":{"reference":"Patient/p0"}}]}',
    b'{"resourceType":"Group","id":"g0","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p0"}}]}',
    b'{"resourceType":"Binary","id":"b0","contentType":"text/plain","data":"QUJD"}',
    b'{"resourceType":"Consent","id":"c0","status":"active","patient":{"reference":"Patient/p0"},'
    b'"scope":{"coding":[{"code":"patient-privacy"}]},"category":[{"text":"x"}],"policyRule":{"text":"x"},'
    b'"provision":{"type":"permit","actor":[{"role":{"text":"x"},"reference":{"reference":"Organization/o"}}]}}',
    b'{"resourceType":"List","id":"l0","status":"current","mode":"working","text":{"status":"generated","div":'
    b'"<div xmlns=\\"http://www.w3.org/1999/xhtml\\">x</div>"},"entry":[{"item":{"reference":"#a"}}],"contained":'
    b'[{"resourceType":"Patient","id":"a"}]}',
]
TREES = [(json.loads(one)["resourceType"], json.loads(one)["id"], one) for one in SAMPLES]
PATCHES = (
    b'[{"op":"replace","path":"/status","value":"final"},{"op":"test","path":"/id","value":"x"}]',
    b'[{"op":"add","path":"/extension/-","value":{"url":"urn:x","valueDecimal":1.00}},{"op":"remove","path":"/text"}]',
    b'[{"op":"move","from":"/name/0","path":"/name/-"},{"op":"copy","from":"/name","path":"/contact"}]',
    b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":[{"name":"type","valueCode":"replace"},'
    b'{"name":"path","valueString":"Patient.name.where(use = \'x\').first()"},{"name":"value","valueString":"y"}]}]}',
    b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":[{"name":"type","valueCode":"add"},'
    b'{"name":"path","valueString":"Observation"},{"name":"name","valueString":"note"},'
    b'{"name":"value","valueAnnotation":{"text":"x"}}]}]}',
)
PARAMETERS = (
    b'{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Observation"},'
    b'{"name":"_since","valueInstant":"2020-01-01T00:00:00Z"},{"name":"_count","valueInteger":3}]}',
    b'{"resourceType":"Parameters","parameter":[{"name":"meta","valueMeta":{"tag":[{"system":"urn:x","code":"y"}]}}]}',
    b'{"resourceType":"Parameters","parameter":[{"name":"mode","valueCode":"create"},{"name":"resource","resource":'
    b'{"resourceType":"Patient","id":"p0"}}]}',
)
GENERAL = (
    "_count", "_offset", "_page", "_type", "_since", "_at", "_elements", "_summary", "_format", "_pretty", "_id",
    "_sort",
    "_total", "_include", "_revinclude", "_has", "_lastUpdated", "_deleted", "start", "end", "mode", "profile", "",
    "_totalMethod", "_list", "identifier:of-type", "subject:Patient", "name:contains", "_id:missing", "a b", "\x00",
)  # fmt: skip
VALUES = (*STRINGS[:4], *STRINGS[7:], *NUMBERS, "json", "xml", "text", "count", "Observation,Patient",
    "Patient,Nonsense",
          "2020", "ge2020-01-01", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00+14:00", "p0,p1", "http://a|b", "|",
          "true",
          "2999-01-01T00:00:00.123456789Z", "Patient:link", "Provenance:target")  # fmt: skip
HEADERS: dict[bytes, tuple[bytes, ...]] = {
    b"Accept": (
        b"*/*",
        b"application/fhir+json",
        b"application/fhir+ndjson",
        b"text/html",
        b"application/fhir+xml",
        b"",
        b"application/json;q=0",
        b";;q=x,,",
        b"application/fhir+json; fhirVersion=3.0",
        b"a/b;q=" + b"9" * 400,
        b"*/*;q=nan",
        b"application/octet-stream",
        b"\xff\xfe",
    ),
    b"Content-Type": (
        b"application/fhir+json",
        b"application/json-patch+json",
        b"application/json; charset=latin-1",
        b"application/x-www-form-urlencoded",
        b"text/plain",
        b"",
        b"\xe9",
        b"multipart/form-data; boundary=a",
        b"application/fhir+json;;;=",
        b"application/fhir+json; fhirVersion=5.0",
        b"application/octet-stream",
    ),
    b"Prefer": (
        b"return=minimal",
        b"return=OperationOutcome",
        b"handling=strict",
        b"respond-async",
        b"return=",
        b'="',
        b"\xff",
    ),
    b"If-Match": (b'W/"1"', b'W/"2"', b'"1"', b"*", b"1", b'W/"' + b"9" * 400 + b'"', b"", b"W/", b'W/"1", W/"2"'),
    b"If-None-Match": (b'W/"1"', b"*", b"", b",,,", b"\xff"),
    b"If-Modified-Since": (
        b"Sat, 01 Jan 2000 00:00:00 GMT",
        b"Fri, 99 Foo 99999 00:00:00 GMT",
        b"1",
        b"",
        b"\xff",
        b"Mon, 01 Jan 0001 00:00:00 +2359",
        b"Fri, 31 Dec 9999 23:59:59 -2359",
        b"x, 1 Jan 1 1:1:1 +99999999999",
    ),
    b"If-None-Exist": (
        b"identifier=a|b",
        b"",
        b"_id=p0",
        b"nonsense=1",
        b"identifier=",
        b"&&&",
        b"identifier=%ff",
        b"\xff",
        b"Patient?identifier=x",
        b"identifier=" + b"a," * 500,
    ),
    b"Accept-Encoding": (b"gzip", b"zstd", b"gzip;q=0, *", b"gzip;q=x", b"br", b"zstd;q=nan", b"\xff"),
    b"X-Request-Id": (b"a", b"a" * 200, b"\xff", b"a b"),
    b"X-Correlation-Id": (b"a", b"\xe9\x80", b" "),
    b"Origin": (b"http://a.example", b"null", b"\xff"),
    b"Access-Control-Request-Method": (b"PUT", b"\xff", b""),
    b"Range": (b"bytes=0-1", b"bytes=9-1", b"x"),
    b"X-Security-Context": (b"Patient/p0", b"\xff", b"x"),
    b"Authorization": (b"Bearer x", b"Basic YTpi", b"Bearer", b"Bearer \xff", b"Bearer a.b.c", b""),
    b"Expect": (b"100-continue",),
    b"Content-Encoding": (b"gzip", b"deflate"),
    b"Host": (b"evil.example", b"a:b:c", b"[::1", b"", b"\xff"),
    b"Forwarded": (b"for=x",),
    b"X-Forwarded-Proto": (b"https", b"\xff"),
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

WRITES = ("create", "update", "patch", "transaction")
rows = st.sampled_from([row for row in ROUTES for _ in range(4 if row.interaction in WRITES else 1)])
types = st.sampled_from([kind for kind, _, _ in TREES[::4]] + sorted(RESOURCE_TYPES))
ids = st.sampled_from([id for _, id, _ in TREES]) | st.sampled_from(
    ["p0", "x", "-", ".", "..", "a" * 64, "a" * 65, "%00", "%ff", "%2F", "a%20b", "$x", "_x", "%24everything", "é", "%"]
)
versions = st.sampled_from(["1", "2", "0", "-1", "9" * 30, "01", "1.0", "x", "%00", "%D9%A1", "_history"])


def seldom(draw: st.DrawFn, times: int) -> bool:
    """Once in so many times; the middle of the range, since Hypothesis likes its ends."""
    return draw(st.integers(1, 2 * times)) in (times - 1, times)


@st.composite
def targets(draw: st.DrawFn, path: str) -> bytes:
    """A row's path with something in each place, a query, and once in a while a spoilt character."""

    kind, id_, _ = draw(st.sampled_from(TREES))
    fits = not seldom(draw, 4)
    choice = re.search(r"\{type=([\w|]+)\}", path)
    if choice and fits:
        kind, id_, _ = draw(st.sampled_from([one for one in TREES if one[0] in choice[1].split("|")] or TREES))

    def place(found: re.Match[str]) -> str:
        name, offered = found[1], (found[2] or "").split("|")
        if name == "type":
            if fits and (offered == [""] or kind in offered):
                return kind
            other: str = draw(types) if offered == [""] else draw(st.sampled_from(offered))
            return other
        if fits:
            return "1" if name == "version" else id_
        given: str = draw(versions if name == "version" else ids)
        return given

    made = re.sub(r"\{(\w+)(?:=([\w|]+))?\}", place, path)
    if seldom(draw, 15):
        at = draw(st.integers(0, len(made)))
        made = (
            made[:at]
            + draw(st.sampled_from(["/", "//", "%2e%2e", "%", "%zz", "$", "_", "?", "&", "é", "\x7f"]))
            + made[at:]
        )
    names = [*GENERAL, *_parameters(made)]
    pair = st.tuples(st.sampled_from(names), st.sampled_from(VALUES) | st.text(max_size=8))
    pairs = draw(st.lists(pair, max_size=3)) if draw(st.booleans()) else []
    if pairs:
        raw = seldom(draw, 9)
        made += "?" + "&".join(f"{_quoted(name)}={value if raw else _quoted(value)}" for name, value in pairs)
    if seldom(draw, 30):
        made = draw(st.text(max_size=20))
    encoded = made.encode(errors="surrogatepass")
    # A blank ends the target, and a line feed the line: what is left is what a client can write there.
    return re.sub(rb"[\x00-\x20]", b"%20", encoded) or b"/"


def _quoted(value: str) -> str:
    return quote(value.encode(errors="surrogatepass")[:300], safe=":|,")


def _parameters(path: str) -> list[str]:
    kind = path.removeprefix(BASE + "/").partition("/")[0]
    return sorted(search_parameters(kind))[:20] if kind in RESOURCE_TYPES else []


def _resource(random: Random, path: list[str]) -> Any:
    """The sample that the path names, one of its type, or any."""
    fitting = [one for one in TREES if [*one[:2]] == path[:2]] or [one for one in TREES if one[0] in path] or TREES
    return tree(random.choice(fitting)[2])


def _bundle(random: Random) -> Any:
    """A transaction or batch of entries that may even fit together."""
    entries = []
    for number in range(random.randrange(6)):
        kind, id_, raw = random.choice(TREES)
        method = random.choice(("GET", "POST", "POST", "PUT", "PUT", "PUT", "PUT", "PATCH", "DELETE", "HEAD", "x"))
        fitting = {"POST": kind}.get(method, f"{kind}/{id_}")
        other = (f"{kind}?identifier=a|{number}", f"{kind}/new{number}", f"{kind}?_id={id_}", "metadata", "_history",
                 f"{kind}/$validate", f"{kind}/{id_}/_history/1", "%ff", "", kind)  # fmt: skip
        url = fitting if random.random() < 0.8 else random.choice(other)
        entry: dict[str, Any] = {"request": {"method": method, "url": url}}
        if random.random() < 0.6:
            entry["fullUrl"] = random.choice((f"urn:uuid:{number}", f"urn:uuid:{number % 4}", f"http://x/{kind}/{id_}"))
        if random.random() < 0.1:
            entry["request"][random.choice(("ifMatch", "ifNoneExist", "ifNoneMatch", "ifModifiedSince"))] = (
                random.choice(('W/"1"', "identifier=a|b", "x", "", "_id=p0"))
            )
        made = json.dumps(entry)
        if method in ("POST", "PUT", "PATCH"):
            body = random.choice(PATCHES[3:]) if method == "PATCH" else raw
            made = made[:-1] + ',"resource":' + body.decode() + "}"
        entries.append(made)
    kind = random.choice((*["transaction"] * 6, *["batch"] * 3, "collection"))
    return tree(f'{{"resourceType":"Bundle","type":"{kind}","entry":[{",".join(entries)}]}}'.encode())


def _body(random: Random, interaction: str, path: list[str]) -> bytes:
    if interaction == "transaction":
        value = _bundle(random)
    elif interaction == "patch":
        value = tree(random.choice(PATCHES))
    elif interaction.startswith("$") and random.random() < 0.8:
        value = tree(random.choice(PARAMETERS))
    else:
        value = _resource(random, path)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 5))):
        value = damage(value, random)
    return text(value, random)


@st.composite
def requests(draw: st.DrawFn) -> Raw:
    """A request, without its token."""
    row = draw(rows)
    method = draw(st.sampled_from(METHODS)) if seldom(draw, 7) else draw(st.sampled_from(row.methods))
    target = draw(targets(row.path))
    random = Random(draw(st.integers(0, 2**32)))  # noqa: S311  no secret; a body has too many places to draw each: the seed says them all
    body, headers = b"", []
    if method in ("POST", "PUT", "PATCH") or random.random() < 0.05:
        path = target.decode(errors="replace").removeprefix(BASE + "/").partition("?")[0].split("/")
        body = _body(random, row.interaction, path)
        usual = b"application/json-patch+json" if body.startswith(b"[") else b"application/fhir+json"
        headers.append((b"Content-Type", usual))
        if random.random() < 0.1:
            coding, body = coded(body, random)
            headers.append((b"Content-Encoding", coding))
    for name in draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=3, unique=True)):
        if draw(st.booleans()):
            headers = [each for each in headers if each[0] != name]
            headers.append((name, draw(st.sampled_from(HEADERS[name]))))
    return Raw(method, target, tuple(headers), body)


def check(request: Raw, answer: Answer) -> None:
    """What every answer keeps to."""
    assert answer.status < 500, (request, answer)
    if request.method == "HEAD" or answer.status in (204, 304):
        assert answer.body == b"", (request, answer)
    elif answer.status >= 400:
        if answer.status == 400 and answer.body == NOT_HTTP:
            return
        if answer.type == "application/json" and request.target.startswith(b"/oauth/"):
            assert json.loads(_decoded(answer))["error"], (request, answer)
            return
        assert answer.type == FHIR_JSON, (request, answer)
        outcome = json.loads(_decoded(answer))
        assert outcome["resourceType"] == "OperationOutcome", (request, answer)
        assert outcome["issue"][0]["diagnostics"], (request, answer)
    elif "Binary" in request.target.decode(errors="replace"):
        assert answer.headers["x-content-type-options"] == "nosniff", (request, answer)
    elif answer.body:
        assert answer.type in OUR_TYPES, (request, answer)
        for line in _decoded(answer).splitlines() if answer.type.endswith("ndjson") else [_decoded(answer)]:
            assert isinstance(json.loads(line), dict), (request, answer)


def _decoded(answer: Answer) -> bytes:
    import gzip

    import zstandard

    coding = answer.headers.get("content-encoding")
    if coding == "gzip":
        return gzip.decompress(answer.body)
    return zstandard.ZstdDecompressor().decompressobj().decompress(answer.body) if coding == "zstd" else answer.body


class Fuzzed:
    """A server with some resources, and the tokens of those who ask."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.port = int(server.url.rpartition(":")[2])
        self.tokens = {
            "operator": server.token(scope="system/*.cruds"),
            "member": server.token("member", org="clinic", scope="system/*.cruds"),
            "patient": server.token("patient", org="clinic", scope="patient/*.cruds", patient=TREES[0][1]),
            "third-party": server.token("third-party", org="reader"),
        }
        self.statuses: dict[int, int] = {}

    async def fill(self) -> None:
        async with self.server.client(self.tokens["member"]) as client:
            for kind, id_, raw in TREES:
                answer = await client.put(f"{kind}/{id_}", content=raw, headers={"Content-Type": FHIR_JSON})
                assert answer.status_code in (201, 403), (kind, answer.text)

    async def ask(self, request: Raw, who: str) -> None:
        headers = request.headers
        if all(name != b"Authorization" for name, _ in headers):
            headers = (*headers, (b"Authorization", b"Bearer " + self.tokens[who].encode()))
        answer = await exchange(self.port, request._replace(headers=headers))
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        check(request, answer)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_request_whatever_makes_the_server_fail(tmp_path: Path, kind: str) -> None:
    with asyncio.Runner() as runner:
        holding = served(tmp_path, kind, max_body=1 << 20, max_binary=1 << 20, cors_origins="http://a.example")
        fuzzed = Fuzzed(runner.run(holding.__aenter__()))
        try:
            runner.run(fuzzed.fill())

            @settings(max_examples=examples(CASES, kind), suppress_health_check=list(HealthCheck), deadline=None)
            @given(requests(), st.sampled_from(("operator", "member", "member", "member", "patient", "third-party")))
            def ask(request: Raw, who: str) -> None:
                runner.run(fuzzed.ask(request, who))

            ask()
            print(f"{sum(fuzzed.statuses.values())} answers: {dict(sorted(fuzzed.statuses.items()))}")
            runner.run(_sound(fuzzed))
        finally:
            runner.run(holding.__aexit__(None, None, None))


MANY = 500
"""Answers among which there is a resource that was made, and one that was refused for its content."""


async def _sound(fuzzed: Fuzzed) -> None:
    """The server answers as before, it had something to do, and the store holds nothing but what is right."""
    rare = {201, 422} if sum(fuzzed.statuses.values()) >= MANY else set()
    assert {200, 400, 404} | rare <= fuzzed.statuses.keys()
    answer = await fuzzed.server.get("metadata")
    assert answer.json()["resourceType"] == "CapabilityStatement"
    assert [one async for one in fuzzed.server.gate.upkeep(subject="test").verify()] == []
