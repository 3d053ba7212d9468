"""The guarded client: what it refuses to ask, whom it refuses to trust, and when it gives up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fhirserver.policy import outbound
from fhirserver.policy.outbound import Outbound, Unreachable, must_be_https, permitted
from tests.provider import Provider, certify, provider


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider(tmp_path) as running:
        yield running


def client(other: Provider, *, loopback: bool = True) -> Outbound:
    return Outbound(loopback=loopback, ca_file=str(other.ca_file))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_may_be_asked(address: str) -> None:
    assert permitted(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.1", "10.0.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.170.2", "172.16.0.1",
        "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
        "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "", "localhost", "1.2.3",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_may_not(address: str) -> None:
    assert not permitted(address)
    if address not in ("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"):
        assert not permitted(address, loopback=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_setting_opens_this_machine(address: str) -> None:
    assert permitted(address, loopback=True)


@pytest.mark.parametrize(
    "url",
    [
        "", "http://example.org/jwks", "ftp://example.org", "file:///etc/passwd", "https://", "https:///x",
        "https://user@example.org/", "https://user:secret@example.org/", "https://example.org/#x",
        "https://example.org/ x", "https://example.org/\r\nX: y", "https://exämple.org/", "https://example.org:0/", "https://example.org:70000/",
        "https://example.org:x/", "https://example.org\\@localhost/", "https://[::1/", "//example.org", "example.org",
        "https://example.org/" + "x" * 3000,
    ],
)  # fmt: skip
def test_a_url_that_is_not_plain_https_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        must_be_https(url)


async def test_what_is_there_is_given(other: Provider) -> None:
    answer = await client(other).get(other.tell("/a?b=c", {"x": 1}, Cache_Control="max-age=5"))
    assert (answer.status, answer.body, answer.headers["cache-control"]) == (200, b'{"x": 1}', "max-age=5")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1"])
async def test_this_machine_is_not_asked_by_any_of_its_names(other: Provider, name: str) -> None:
    other.tell("/", {})
    with pytest.raises(Unreachable):
        await client(other, loopback=False).get(other.url.replace("localhost", name) + "/")
    assert other.asked == []


async def test_a_name_with_one_address_that_is_not_public_is_not_asked(
    other: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("127.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    with pytest.raises(Unreachable):
        await client(other).get(other.tell("/", {}))
    assert other.asked == []


async def test_the_address_is_resolved_once(other: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, resolve = asyncio.get_running_loop(), asyncio.get_running_loop().getaddrinfo
    asked: list[object] = []

    async def resolving(host: object, port: object, **options: object) -> object:
        asked.append(host)
        return await resolve(host, port, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "getaddrinfo", resolving)
    await client(other).get(other.tell("/", {}))
    assert [host for host in asked if host == "localhost"] == ["localhost"]


async def test_a_certificate_that_is_not_trusted_ends_it(other: Provider, tmp_path: Path) -> None:
    stranger, _ = certify(tmp_path / "stranger")
    for ca_file in ("", str(stranger)):
        with pytest.raises(Unreachable):
            await Outbound(loopback=True, ca_file=ca_file).get(other.tell("/", {}))
    assert other.asked == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_told_at_once(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(ValueError, match=r"ca\.pem holds no certificates"):
        Outbound(ca_file=str(tmp_path / "ca.pem"))


async def test_a_certificate_of_another_name_ends_it(other: Provider) -> None:
    with pytest.raises(Unreachable):
        await client(other).get(other.url.replace("localhost", "127.0.0.2") + "/")


async def test_a_redirect_is_not_followed(other: Provider) -> None:
    other.tell("/there", {"secret": 1})
    answer = await client(other).get(other.tell("/", {}, status=302, Location=other.url + "/there"))
    assert answer.status == 302
    assert other.asked == ["/"]


async def test_proxies_of_the_environment_do_not_count(other: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await client(other).get(other.tell("/", {}))).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 X\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 X\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 1, 1\r\n\r\nx",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 X\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 X\r\n\r\n" + b"x" * 300_000,
    ],
    ids=lambda raw: repr(raw[:50]),
)
async def test_an_answer_that_is_broken_or_too_long_is_none(other: Provider, raw: bytes) -> None:
    other.answers["/"] = raw
    with pytest.raises(Unreachable):
        await client(other).get(other.url + "/")


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
    ],
)
async def test_a_body_is_understood_in_each_of_its_forms(other: Provider, raw: bytes) -> None:
    other.answers["/"] = raw
    assert (await client(other).get(other.url + "/")).body == b"abc"


async def test_a_server_that_stalls_is_given_up(other: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "SECONDS", 0.3)
    other.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na"
    other.stall.add("/")
    with pytest.raises(Unreachable, match="TimeoutError"):
        await client(other).get(other.url + "/")
