"""Cancelled at every await: an append has one of two fates, no lock, slot or connection is kept, and all goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.testing.cancellation import sweep

from ledger.audit import verify
from ledger.errors import LedgerError
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_sqlite
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import Store
from ledger.store.sqlite_append import append_group
from ledger.store.sqlite_connection import checked_out, engine
from tests.contracts.appends import Clock
from tests.ledgers import fresh_ledger
from tests.lives import life
from tests.postgres_server import database
from tests.test_executor_attacks import CancelledAt

Open = Callable[[], Awaitable[Store]]
TURNS = (0, 1, 3)
"""How many turns of the loop after a suspension the cancellation comes."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fresh_ledger(tmp_path)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
async def reopened(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[Open]:
    """Give a function that opens the same ledger anew; one in memory has no other place to be."""
    async with contextlib.AsyncExitStack() as stack:
        memory = MemoryStore(now_ms=Clock())
        url = await stack.enter_async_context(database()) if request.param == "postgres" else ""

        async def opened() -> Store:
            match request.param:
                case "memory":
                    return memory
                case "sqlite":
                    store: Store = await open_sqlite(path, create=False, now_ms=Clock(), busy_deadline_s=0.5)
                case _:
                    store = await open_postgres(PostgresUrl.parse(url), create=False, now_ms=Clock())
            stack.push_async_callback(store.aclose)
            return store

        yield opened


async def cancelled(coroutine: Coroutine[Any, Any, Any], suspension: int, late: int) -> tuple[bool, bool]:
    """Cancel at a suspension; return whether it was reached, and whether the cancellation came through."""
    attack = CancelledAt(coroutine, suspension, late, None)

    async def attacked() -> Any:
        return await attack

    caller = asyncio.create_task(attacked())
    await asyncio.wait({caller}, timeout=10)
    assert caller.done(), "a cancelled caller came back"
    if not caller.cancelled():
        caller.result()
    return attack.hit, caller.cancelled()


def locked(path: Path) -> bool:
    """Say whether somebody holds the write lock."""
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as database:
        try:
            database.executescript("BEGIN IMMEDIATE; ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


@pytest.mark.parametrize("warm", [False, True], ids=["first use", "in use"])
@pytest.mark.parametrize("late", TURNS)
async def test_an_append_is_cancelled(reopened: Open, path: Path, late: int, warm: bool) -> None:  # noqa: FBT001 - a column of the table
    """At every await: there whole or not at all, its repetition succeeds, and it is there once."""
    suspension, missed = 0, 0
    while missed < 2:
        suspension += 1
        store = await reopened()
        if warm:
            await store.append(life(f"warm-{suspension}")[0])
        steps = life(f"t{suspension}")
        hit, _ = await cancelled(store.append(steps[0]), suspension, late)
        missed += not hit
        assert len(await store.read(f"t{suspension}")) in (0, 1)
        for step in steps:
            await store.append(step)
        assert len(await store.read(f"t{suspension}")) == 7
        assert not locked(path)
        assert (await verify(store)).problems == ()
    assert suspension > 2


READS: dict[str, Callable[[Store], Coroutine[Any, Any, Any]]] = {
    "read": lambda store: store.read("t"),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("late", TURNS)
@pytest.mark.parametrize("name", READS)
async def test_a_read_is_cancelled(reopened: Open, name: str, late: int) -> None:
    """At every await: no reader is lost, however often; ten of them at once still find one each."""
    store = await reopened()
    for step in life("t"):
        await store.append(step)
    expected = await READS[name](store)
    suspension, missed = 0, 0
    while missed < 2:
        suspension += 1
        fresh = await reopened()
        for _ in range(6):  # more than there are readers
            hit, _ = await cancelled(READS[name](fresh), suspension, late)
        missed += not hit
        async with asyncio.timeout(5):
            assert [expected] * 10 == await asyncio.gather(*(READS[name](fresh) for _ in range(10)))
    assert suspension > 2


@pytest.mark.parametrize("late", TURNS)
async def test_opening_is_cancelled(path: Path, late: int) -> None:
    """At every await: nothing is left open, and the next one opens it."""
    suspension, missed = 0, 0
    while missed < 2:
        suspension += 1
        opened: list[Store] = []

        async def opening(opened: list[Store] = opened) -> None:
            opened.append(await open_sqlite(path, create=False, now_ms=Clock()))

        hit, _ = await cancelled(opening(), suspension, late)
        missed += not hit
        for store in opened:
            await store.aclose()
        store = await open_sqlite(path, create=False, now_ms=Clock())
        assert len(await store.append(life(f"t{suspension}")[0])) == 1
        await store.aclose()
    assert [path] == list(path.parent.iterdir()), "the log is folded back: nobody has the ledger open"


@pytest.mark.parametrize("cancels", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["once", "twice"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("writer", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["writer", "reader"])
async def test_a_connection_is_cancelled(path: Path, writer: bool, warm: bool, cancels: int) -> None:  # noqa: FBT001 - columns of the table
    """SQLAlchemy's own sweep: at every await inside it no connection is leaked and no slot of the pool is lost."""
    appended = 0

    async def scenario(used: AsyncEngine) -> None:
        nonlocal appended
        appended += 1
        connection, driver = await checked_out(used)
        try:
            if writer:
                await driver.run(partial(append_group, appends=[life(f"t{appended}")[0]], now_ms=0))
            else:
                await driver.run(lambda database: database.execute("SELECT count(*) FROM events").fetchone())
        finally:
            await connection.close()

    def made() -> AsyncEngine:
        return engine(path, writer=writer, connections=1, busy_deadline_s=1)

    gc.freeze()  # the sweep collects garbage after each run, and need not look at what was there before
    try:
        sweeping = sweep(made, scenario, warm=warm, cancels=cancels)  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
        assert await sweeping == []
    finally:
        gc.unfreeze()
    assert not locked(path)


@pytest.mark.parametrize("late", TURNS)
async def test_closing_is_cancelled(path: Path, late: int) -> None:
    """At every await: what was handed over is written or refused, and closing again closes."""
    suspension, missed = 0, 0
    while missed < 2:
        suspension += 1
        store = await open_sqlite(path, create=False, now_ms=Clock())
        first = life(f"t{suspension}")[0]
        append = asyncio.create_task(store.append(first))
        await asyncio.sleep(0)
        hit, _ = await cancelled(store.aclose(), suspension, late)
        missed += not hit
        await store.aclose()
        async with asyncio.timeout(5):
            told = (await asyncio.gather(append, return_exceptions=True))[0]
        assert isinstance(told, LedgerError | tuple)
        again = await open_sqlite(path, create=False, now_ms=Clock())
        assert len(await again.append(first)) == 1
        assert (await verify(again)).problems == ()
        await again.aclose()
