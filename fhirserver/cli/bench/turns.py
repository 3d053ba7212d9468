"""Several servers asked in turns from one process, so that whatever the machine does besides hits all of them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from fhirserver.cli.bench.client import Ask, Client, Line

_MATCH = b'"search":{"mode":"match"}'
LEAST = 5
"""Rounds that are made however long they take."""


def in_turns(
    clients: Sequence[Client], asks: Sequence[Sequence[Ask]], *, seconds: float, warm: int = 3
) -> list[list[tuple[float, int]]]:
    """For each server the milliseconds and the number of matches of each of its requests, from a process of its own.

    ``asks``: as many requests for each server. The first ``warm`` rounds do not count; no round begins after
    ``seconds``, once there were `LEAST`.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_ask, list(clients), [list(each) for each in asks], seconds, warm).result()


def _ask(clients: list[Client], asks: list[list[Ask]], seconds: float, warm: int) -> list[list[tuple[float, int]]]:
    lines = [Line(client) for client in clients]
    order = list(range(len(lines)))
    found: list[list[tuple[float, int]]] = [[] for _ in lines]
    for at in order:
        for ask in asks[at][:warm]:
            lines[at].answer(ask)
    began = time.perf_counter()
    for number, round_ in enumerate(zip(*asks, strict=True)):
        if number >= LEAST and time.perf_counter() - began > seconds:
            break
        for at in order if number % 2 == 0 else order[::-1]:
            spent, body = lines[at].answer(round_[at])
            found[at].append((spent, body.count(_MATCH)))
    return found
