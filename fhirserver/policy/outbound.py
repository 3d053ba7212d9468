"""The one HTTP client of this server: for JWKS and discovery, and whatever else it ever asks of others.

Whom it asks comes from registrations, so it is guarded as if an attacker chose it: https only, no proxies of the
environment, no redirects, the address resolved once and the connection made to that address, none that is not public,
and a bound on bytes and on seconds. TLS is verified against the name.

Source: RFC 9112 (HTTP/1.1), RFC 6890 (special-purpose addresses).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from asyncio import LimitOverrunError, StreamReader
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import msgspec

SECONDS = 5.0
"""How long a whole exchange may take."""

MOST_BYTES = 256 * 1024
"""The longest body that is taken."""

_HEAD = 16 * 1024
_PORTS = range(1, 65536)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NEVER: tuple[_Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # a cloud's own services, although the address is a public one
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::ffff:0:0/96",  # IPv4 in IPv6, in all its forms: it would be judged as something else than it is
        "::/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "fec0::/10",
    )
)
"""What the standard library takes for global, or did in some version."""


class Unreachable(Exception):
    """Nothing could be had; the message is for logs and names no address."""


class Answer(msgspec.Struct, frozen=True):
    """A complete answer; names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outbound:
    """Asks others. ``loopback``: this machine may be asked too; ``ca_file``: certificates (PEM) trusted instead of the
    system's (ValueError where it holds none)."""

    def __init__(self, *, loopback: bool = False, ca_file: str = "") -> None:
        self._loopback = loopback
        self._context = _trusting(ca_file) if ca_file else None

    async def get(self, url: str, *, accept: str = "application/json") -> Answer:
        """The answer to one GET, whatever its status; Unreachable for everything that is none."""
        try:
            target = must_be_https(url)
        except ValueError as error:
            raise Unreachable(str(error)) from None
        try:
            async with asyncio.timeout(SECONDS):
                return await self._exchange(target, accept)
        except (TimeoutError, OSError, EOFError, LimitOverrunError, ValueError) as error:
            raise Unreachable(f"{type(error).__name__} while asking {target.hostname}") from None

    async def _exchange(self, target: SplitResult, accept: str) -> Answer:
        host, port = target.hostname or "", target.port or 443
        address = await self._resolve(host, port)
        reader, writer = await asyncio.open_connection(
            address, port, ssl=self._tls(), server_hostname=host, limit=_HEAD
        )
        try:
            path = (target.path or "/") + (f"?{target.query}" if target.query else "")
            name = f"[{host}]" if ":" in host else host
            lines = (
                f"GET {path} HTTP/1.1",
                f"Host: {name}" + (f":{port}" if target.port else ""),
                f"Accept: {accept}",
                "Accept-Encoding: identity",
                "User-Agent: fhirserver",
                "Connection: close",
            )
            writer.write("\r\n".join((*lines, "", "")).encode("ascii"))
            await writer.drain()
            return await _answer(reader)
        finally:
            writer.transport.abort()

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = _trusting(None)  # it takes a while, and most installations never ask anybody
        return self._context

    async def _resolve(self, host: str, port: int) -> str:
        """The one address to connect to; ValueError if any that the name has is not to be asked."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        if not addresses or not all(permitted(address, loopback=self._loopback) for address in addresses):
            raise ValueError("the address is not a public one")
        return addresses[0]


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError:
        raise ValueError(f"{ca_file} holds no certificates in PEM that can be read.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def permitted(address: str, *, loopback: bool = False) -> bool:
    """Whether this address may be connected to: a public one of IPv4 or IPv6, or with ``loopback`` this machine's."""
    try:
        ip: _Address = ipaddress.ip_address(address)  # one with a zone (fe80::1%eth0) is link-local, and refused below
    except ValueError:
        return False
    if loopback and ip.is_loopback:
        return True
    special = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_reserved
    return (
        ip.is_global and not special and not any(ip in network for network in _NEVER if network.version == ip.version)
    )


def must_be_https(url: str) -> SplitResult:
    """The URL's parts; ValueError for what is not a plain https URL with a host."""
    told = "The URL must begin with https:// and have a host, no user, no fragment and only plain characters."
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > 2048 or "\\" in url:
        raise ValueError(told)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(told) from None
    plain = parts.username is None and parts.password is None and "#" not in url
    if parts.scheme != "https" or not parts.hostname or not plain or (port is not None and port not in _PORTS):
        raise ValueError(told)
    return parts


async def _answer(reader: StreamReader) -> Answer:
    """One answer of HTTP/1.1; interim ones (1xx) are passed over."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = head[0].partition(" ")
        status = int(rest[:3]) if rest[:3].isdigit() else 0
        if not version.startswith("HTTP/1.") or status < 100:
            raise ValueError("not an answer of HTTP/1.1")
        if status >= 200:
            break
    headers: dict[str, str] = {}
    for line in filter(None, head[1:]):
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("not a header of HTTP/1.1")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Answer(status, headers, await _body(reader, status, headers))


async def _body(reader: StreamReader, status: int, headers: Mapping[str, str]) -> bytes:
    if headers.get("content-encoding", "identity") != "identity":
        raise ValueError("an encoding that was not asked for")
    if status in (204, 304):
        return b""
    coding = headers.get("transfer-encoding", "").lower()
    if coding == "chunked":
        return await _chunked(reader)
    length = headers.get("content-length", "")
    if coding or (length and not length.isdigit()):
        raise ValueError("a length that cannot be understood")
    if length:
        _bounded(int(length[:16]))
        return await reader.readexactly(int(length))
    body = b""
    while piece := await reader.read(_HEAD):
        body += piece
        _bounded(len(body))
    return body


async def _chunked(reader: StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0].strip()[:8], 16)
        if size == 0:
            return body
        _bounded(len(body) + size)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk that does not end")


def _bounded(size: int) -> None:
    if not 0 <= size <= MOST_BYTES:
        raise ValueError("an answer that is too long")
