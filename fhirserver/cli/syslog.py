"""Syslog messages (RFC 5424) over UDP (RFC 5426), TCP (RFC 6587, octet counting), TLS (RFC 5425) or a local socket."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from fhirserver.core.model import AuditRow
from fhirserver.core.stamp import instant

_FACILITY = 13
"""log audit"""
_INFORMATIONAL, _NOTICE = 6, 5
_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}
_SECONDS = 10.0
_FAREWELL_SECONDS = 2.0


class Syslog:
    """One receiver: ``udp://host:port``, ``tcp://host:port``, ``tls://host:port`` or ``unix:///dev/log``.

    ``authorities``: a file of certificates that a TLS receiver may be certified by; None: the system's. ValueError for
    anything else. A connection is made when it is needed, and anew after a failure, which is an OSError.
    """

    def __init__(self, url: str, *, authorities: str | None = None) -> None:
        parts = urlsplit(url)
        self._scheme = parts.scheme
        if self._scheme not in (*_PORTS, "unix") or parts.username or parts.query or parts.fragment:
            raise ValueError("--syslog is udp://HOST:PORT, tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH.")
        if (self._scheme == "unix") != (not parts.hostname) or (self._scheme == "unix" and not parts.path):
            raise ValueError("--syslog needs a host, or with unix:/// a path.")
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS.get(self._scheme, 0)
        self._path = parts.path
        self._authorities = authorities
        self._socket: socket.socket | None = None

    def send(self, row: AuditRow, message: bytes) -> None:
        """Hand over one row; blocks for as long as the receiver takes it, at most some seconds."""
        if self._socket is None:
            self._socket = self._connected()
        text = framed(row, message)
        try:
            if self._socket.type == socket.SOCK_DGRAM:
                self._socket.send(text)
            else:
                self._socket.sendall(b"%d %b" % (len(text), text))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """End the connection so that what was sent still arrives: closed with anything unread (a TLS receiver sends
        tickets of its own accord) it would be reset, and its last messages lost."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        with suppress(OSError, ValueError), opened:
            if opened.type != socket.SOCK_DGRAM:
                opened.settimeout(_FAREWELL_SECONDS)
                if isinstance(opened, ssl.SSLSocket):
                    opened = opened.unwrap()
                opened.shutdown(socket.SHUT_WR)
                while opened.recv(4096):
                    continue

    def _connected(self) -> socket.socket:
        if self._scheme == "unix":
            return _local(self._path)
        if self._scheme == "udp":
            family, kind, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
            plain = socket.socket(family, kind)
            plain.connect(address)
            return plain
        opened = socket.create_connection((self._host, self._port), timeout=_SECONDS)
        if self._scheme == "tcp":
            return opened
        context = ssl.create_default_context(cafile=self._authorities)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            return context.wrap_socket(opened, server_hostname=self._host)
        except OSError:
            opened.close()
            raise


def framed(row: AuditRow, message: bytes) -> bytes:
    """The message of one row: ``<PRI>1 time host application process id data text``."""
    severity = _INFORMATIONAL if row.outcome in ("intent", "complete") else _NOTICE
    host = socket.gethostname() or "-"
    header = f"<{_FACILITY * 8 + severity}>1 {instant(row.at)} {host[:255]} fhirserver {os.getpid()} audit "
    return header.encode("ascii", "replace") + b'[origin software="fhirserver"] ' + message


def _local(path: str) -> socket.socket:
    """A local log takes datagrams, or a stream where it does not."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        opened = socket.socket(socket.AF_UNIX, kind)
        try:
            opened.settimeout(_SECONDS)
            opened.connect(path)
        except OSError:
            opened.close()
            if kind == socket.SOCK_STREAM:
                raise
        else:
            return opened
    raise AssertionError("the last attempt returns or raises")
