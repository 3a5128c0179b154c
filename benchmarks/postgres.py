"""The store in PostgreSQL against one commit an event by asyncpg: the same bytes, the same server, everything on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from benchmarks.append import STREAMS, run
from benchmarks.measuring import Plan, Stopwatch, Table, figure, median
from benchmarks.workload import dispatches, fresh, now_ms, small
from ledger.envelope import Append
from ledger.store.opening import open_store
from tests.postgres_server import Server, started

__all__ = ["measure"]

ROUNDS: Final = 3
RAW_COMMITS: Final = 500
SESSIONS: Final = 16
COLUMNS: Final = ("appenders", "of", "events/s", "x raw", "p50 ms", "p99 ms", "p50 x raw", "us CPU/event")
BARE: Final = (
    "CREATE TABLE bare (event_id text, task_id text, type text, at_ms bigint, actor text, data text, bytes bytea)"
)
INSERT: Final = "INSERT INTO bare VALUES ($1, $2, $3, $4, $5, $6, $7)"

Row = tuple[Any, ...]


def measure(plan: Plan) -> str:
    """Return the table, on a server of its own that syncs every commit."""
    try:
        server = started()
    except pytest.skip.Exception as lacking:
        return f"append to PostgreSQL: skipped, {lacking}\n"
    try:
        return str(asyncio.run(_measured(plan, server)))
    finally:
        server.remove()


async def _measured(plan: Plan, server: Server) -> Table:
    models = {"dispatches": await dispatches(plan.times(50)), "small": small(50)}
    runs: dict[tuple[str, int], list[Sequence[float]]] = {}
    raws: dict[str, list[tuple[float, float]]] = {of: [] for of in models}
    admin = await asyncpg.connect(server.url)
    await admin.execute(BARE)
    (version,) = await admin.fetchrow("SHOW server_version")
    store = await open_store(server.url, create=True, now_ms=now_ms)
    try:
        for _ in range(plan.times(ROUNDS)):
            for of, model in models.items():
                raw = await _raw(server.url, model, plan.times(RAW_COMMITS, 10))
                raws[of].append(raw)
                for appenders, streams in STREAMS.items():
                    work = [fresh(model[index % len(model)]) for index in range(plan.times(streams))]
                    runs.setdefault((of, appenders), []).append(await run(store, work, appenders, raw[0]))
    finally:
        await store.aclose()
        await admin.close()
    table = Table(f"append, to PostgreSQL {version} on this machine ({urlsplit(server.url).scheme}, a socket)", COLUMNS)
    for (of, appenders), each in sorted(runs.items()):
        table.rows.append((str(appenders), of, *(figure(median(column)) for column in zip(*each, strict=True))))
    for of, each_raw in raws.items():
        one, pool = (median([raw[which] for raw in each_raw]) for which in (0, 1))
        table.notes.append(
            f"{of}: one raw commit an event {one:,.0f}/s on one session, {pool:,.0f}/s on {SESSIONS} at once"
        )
    return table


async def _raw(url: str, model: Sequence[Sequence[Append]], commits: int) -> tuple[float, float]:
    """Commit the same bytes one event at a time, without guard or index; return commits a second, alone and of many."""
    rows = [row for stream in model for append in fresh(stream) for row in _rows(append)]
    pool = await asyncpg.create_pool(url, min_size=SESSIONS, max_size=SESSIONS)
    try:
        with Stopwatch() as alone:
            async with pool.acquire() as session:
                for index in range(commits):
                    await session.execute(INSERT, *rows[index % len(rows)])
        with Stopwatch() as together:
            await asyncio.gather(*(pool.execute(INSERT, *rows[index % len(rows)]) for index in range(2 * commits)))
    finally:
        await pool.close()
    return commits / alone.wall_s, 2 * commits / together.wall_s


def _rows(append: Append) -> list[Row]:
    texts = [payload.content for payload in append.payloads] + [b""] * len(append.events)
    return [
        (new.event_id, append.task_id, new.event.TYPE, now_ms(), new.actor, new.event.data().decode(), text)
        for new, text in zip(append.events, texts, strict=False)
    ]
