"""The benchmark's client: plain sockets, so that what it costs stays small beside what it measures."""

from __future__ import annotations

import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import cycle
from typing import NamedTuple

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"transfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"


class Answer(NamedTuple):
    """How one answer came: seconds to its first body byte and to its end, and the bytes on the wire."""

    first: float
    whole: float
    bytes: int

    @property
    def rate(self) -> float:
        """Bytes per second over the whole answer."""
        return self.bytes / self.whole


class Client(NamedTuple):
    """A caller of one server with one bearer token."""

    port: int
    token: str

    def _open(self, path: str, *, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        return connection

    def stream(self, path: str) -> Answer:
        """Read one answer to its end; RuntimeError when it is not a complete 200."""
        buffer = memoryview(bytearray(1 << 20))
        began = time.perf_counter()
        with self._open(path) as connection:
            head, first, size, tail = b"", 0.0, 0, b""
            while count := connection.recv_into(buffer):
                size += count
                if not first:
                    head += bytes(buffer[:count])
                    if len(head.partition(b"\r\n\r\n")[2]):
                        first = time.perf_counter() - began
                tail = (tail + bytes(buffer[max(0, count - 8) : count]))[-8:]
        whole = time.perf_counter() - began
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head[:400].decode(errors='replace')}")
        length = _LENGTH.search(head.partition(b"\r\n\r\n")[0])
        if not (length or tail.endswith(_LAST_CHUNK)):
            raise RuntimeError(f"{path}: the answer was cut after {size} bytes.")
        return Answer(first, whole, size)

    def library(self, path: str) -> Answer:
        """Read one answer to its end with the standard library's client."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        buffer = bytearray(1 << 16)
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
        first, size = 0.0, 0
        while count := response.readinto(buffer):
            size += count
            first = first or time.perf_counter() - began
        whole = time.perf_counter() - began
        connection.close()
        return Answer(first, whole, size)

    def application(self, path: str) -> Answer:
        """Read one answer to its end with httpx, as Python applications do; ImportError where it is not installed."""
        import httpx

        headers = {"Authorization": f"Bearer {self.token}", "Accept-Encoding": "identity"}
        first, size = 0.0, 0
        with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
            began = time.perf_counter()
            with client.stream("GET", f"http://127.0.0.1:{self.port}{path}") as response:
                response.raise_for_status()
                for piece in response.iter_raw():
                    size += len(piece)
                    first = first or time.perf_counter() - began
            whole = time.perf_counter() - began
        return Answer(first, whole, size)

    def first_byte(self, path: str) -> float:
        """Seconds until the first byte of the body, then the connection is left."""
        began = time.perf_counter()
        with self._open(path) as connection:
            head = b""
            while not len(head.partition(b"\r\n\r\n")[2]):
                piece = connection.recv(1 << 16)
                if not piece:
                    raise RuntimeError(f"{path}: {head[:400].decode(errors='replace')}")
                head += piece
        return time.perf_counter() - began

    def stall(self, path: str, seconds: float) -> None:
        """Ask, take the first bytes, then take nothing for so long."""
        with self._open(path, receive_buffer=1 << 16) as connection:
            connection.recv(1024)
            time.sleep(seconds)

    @contextmanager
    def keep(self) -> Iterator[Kept]:
        """A connection for many requests, closed at the end."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            yield Kept(connection, self.token)

    def rate(self, asks: Sequence[Ask], clients: int) -> Rate:
        """Send the requests over so many connections at once, from a process of its own."""
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_ask_all, self, list(asks), clients).result()

    def beside(self, small: Sequence[Ask], large: Ask, clients: int, *, before: float) -> Beside:
        """Send the small requests over and over on so many connections, for so many seconds alone and then while the
        large one is answered, from a process of its own."""
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_ask_beside, self, list(small), large, clients, before).result()


class Ask(NamedTuple):
    """A request: a GET, or with a body a POST of FHIR JSON."""

    path: str
    body: bytes = b""

    def head(self, token: str) -> bytes:
        sent = f"Content-Type: application/fhir+json\r\nContent-Length: {len(self.body)}\r\n" if self.body else ""
        return (
            f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {token}\r\n{sent}\r\n"
        ).encode()


class Rate(NamedTuple):
    """Requests per second, and the milliseconds of each."""

    per_second: float
    times: list[float]


class Beside(NamedTuple):
    """The milliseconds of small requests, alone and beside a large one, and the seconds that one took."""

    alone: list[float]
    during: list[float]
    seconds: float


def _ask_all(client: Client, asks: Sequence[Ask], clients: int) -> Rate:
    lines = [Line(client) for _ in range(clients)]
    times: list[float] = []

    def work(number: int) -> None:
        times.extend([lines[number].timed(ask) for ask in asks[number::clients]])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - began
    if len(times) != len(asks):
        raise RuntimeError("A client failed; what it said is above.")
    return Rate(len(times) / spent, times)


def _ask_beside(client: Client, small: Sequence[Ask], large: Ask, clients: int, before: float) -> Beside:
    lines = [Line(client) for _ in range(clients)]
    ended = threading.Event()
    seen: list[tuple[float, float]] = []

    def work(number: int) -> None:
        for ask in cycle(small[number::clients]):
            if ended.is_set():
                return
            began = time.perf_counter()
            seen.append((began, lines[number].timed(ask)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(before)
        began = time.perf_counter()
        Line(client).timed(large)
        until = time.perf_counter()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    alone = [spent for at, spent in seen if at + spent / 1000 < began]
    during = [spent for at, spent in seen if at + spent / 1000 >= began and at <= until]
    return Beside(alone, during, until - began)


class Line:
    """A kept connection that does as little as can be: beside a thousand requests a second, `http.client` shows."""

    def __init__(self, client: Client) -> None:
        self._socket = socket.create_connection(("127.0.0.1", client.port), timeout=300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._token = client.token

    def timed(self, ask: Ask) -> float:
        """Milliseconds for one answer."""
        return self.answer(ask)[0]

    def answer(self, ask: Ask) -> tuple[float, bytes]:
        """Milliseconds for one answer, and its body as it came (with the marks between its chunks, if it came in
        chunks); RuntimeError when it is neither a 200 nor a 201."""
        began = time.perf_counter()
        self._socket.sendall(ask.head(self._token) + ask.body)
        answer = self._socket.recv(1 << 16)
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")) or not (length or _CHUNKED.search(head)):
            raise RuntimeError(f"{ask.path}: {answer[:400].decode(errors='replace')}")
        pieces, got, tail = [body], len(body), body[-8:]
        while got < int(length[1]) if length else not tail.endswith(b"\r\n" + _LAST_CHUNK):
            pieces.append(self._more())
            got += len(pieces[-1])
            tail = (tail + pieces[-1])[-8:]
        return (time.perf_counter() - began) * 1000, b"".join(pieces)

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 16)
        if not piece:
            raise RuntimeError("The server ended the connection.")
        return piece


class Kept:
    """One kept connection; `get` is one request after the other."""

    def __init__(self, connection: HTTPConnection, token: str) -> None:
        self._connection = connection
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> bytes:
        """The body of a 200; RuntimeError for anything else."""
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body[:300].decode(errors='replace')}")
        return body

    def timed(self, path: str) -> float:
        """Seconds for one request."""
        began = time.perf_counter()
        self.get(path)
        return time.perf_counter() - began


class Resident(threading.Thread):
    """Watches a process's resident memory until `grown` is asked; the figure is bytes above the start."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._before = self._most = resident(pid)
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, resident(self._pid))

    def grown(self) -> int:
        """Stop watching; the largest growth seen."""
        self._ended.set()
        self.join()
        return self._most - self._before


def resident(pid: int) -> int:
    """The resident memory of a process in bytes (Linux)."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
