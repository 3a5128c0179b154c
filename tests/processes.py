"""Processes on one ledger, forked from one that has imported everything: a start costs some milliseconds."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from ledger.envelope import Limit
from ledger.store.opening import open_sqlite
from ledger.store.protocol import LimitReached, Store
from tests.contracts.appends import Clock, start, ticks

__all__ = ["Share", "append_flat_out", "claim_all", "held", "start_some", "together"]

SPAWNED: Final = multiprocessing.get_context("forkserver")
SPAWNED.set_forkserver_preload([__name__])
PATIENCE_S: Final = 60.0

Work = Callable[..., Any]


@dataclass(frozen=True)
class Share:
    """What one process got done."""

    appended: int
    longest_wait_s: float


def together(count: int, work: Work, path: Path, *arguments: Any) -> list[Any]:
    """Run ``work(store, number, …)`` in so many processes that begin at one instant, and return what they say."""
    pipes = [SPAWNED.Pipe() for _ in range(count)]
    processes = [
        SPAWNED.Process(target=_told, args=(theirs, work, number, path, *arguments), daemon=True)
        for number, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        assert said(ours) == "ready"
    for ours, _ in pipes:
        ours.send("go")
    answers = [said(ours) for ours, _ in pipes]
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    return answers


def said(pipe: Connection) -> Any:
    """Wait for what a process says, within a bound."""
    assert pipe.poll(PATIENCE_S), "a process said nothing"
    return pipe.recv()


def _told(pipe: Connection, work: Work, number: int, path: Path, *arguments: Any) -> None:
    """Open the ledger, wait for the word, do the work, and tell."""

    async def main() -> Any:
        store = await open_sqlite(path, create=False, now_ms=Clock())
        await store.newest()
        pipe.send("ready")
        pipe.recv()
        try:
            return await work(store, number, *arguments)
        finally:
            await store.aclose()

    pipe.send(asyncio.run(main()))


async def append_flat_out(store: Store, number: int, for_s: float) -> Share:
    """Append one event after the other, each to a stream of its own."""
    waits: list[float] = []
    begun = now = time.monotonic()
    while now < begun + for_s:
        await store.append(ticks(f"{number}-{len(waits)}", 0))
        waits.append(time.monotonic() - now)
        now = time.monotonic()
    return Share(len(waits), max(waits))


async def start_some(store: Store, number: int, count: int, limit: Limit) -> int:
    """Start attempts at one instant and say how many there was a place for."""
    appends = [store.append(start(f"{number}-{each}", limit)) for each in range(count)]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {tuple, LimitReached}
    return sum(isinstance(outcome, tuple) for outcome in outcomes)


async def claim_all(store: Store, number: int, at_once: int) -> list[str]:
    """Claim until nothing is left."""
    mine: set[str] = set()
    while claimed := set(await store.claim(f"w{number}", [None], len(mine) + at_once, 60_000)) - mine:
        mine |= claimed
    return sorted(mine)


def _hold(pipe: Connection, path: Path, for_s: float, how: str) -> None:
    """Be a program that takes the lock and keeps it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"BEGIN {how}")
        pipe.send("held")
        pipe.poll(for_s)
        database.execute("ROLLBACK")


@contextmanager
def held(path: Path, for_s: float, how: str = "IMMEDIATE") -> Iterator[None]:
    """Let another process hold the lock for a while, at most to the end of the block."""
    ours, theirs = SPAWNED.Pipe()
    process = SPAWNED.Process(target=_hold, args=(theirs, path, for_s, how), daemon=True)
    process.start()
    assert said(ours) == "held"
    yield
    ours.send("enough")
    process.join(PATIENCE_S)
    assert process.exitcode == 0
