"""The store against one raw commit an event: the same bytes, the same disk, everything on.

Each disk is measured in a process of its own, since a slower one needs its shim from the start.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Plan, Stopwatch, Table, figure, folder_in, fsync_us, median, percentile
from benchmarks.slow_disk import NoCompiler, shim
from benchmarks.workload import dispatches, fresh, now_ms, small
from ledger.envelope import Append
from ledger.store.opening import open_sqlite
from ledger.store.protocol import Store

__all__ = ["STREAMS", "measure", "run"]

ROUNDS: Final = 5
STREAMS: Final = {1: 25, 10: 150, 100: 600, 500: 1000}
"""How many streams are written in a round, by the number of appenders."""
RAW_COMMITS: Final = 200
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a disk that syncs in no time is what is wanted
FAST_US: Final = 60
"""What a fast disk takes to sync."""
SLOWER_US: Final = 500
COLUMNS: Final = ("appenders", "of", "events/s", "x raw", "p50 ms", "p99 ms", "p50 x raw", "us CPU/event")


def measure(plan: Plan) -> str:
    """Return a table for each disk."""
    with folder_in(plan.folder) as folder:
        disks = [("this disk", plan.folder, 0)]
        try:
            preloaded = shim(folder)
        except NoCompiler as lacking:
            skipped = [f"append on slower disks: skipped, {lacking}\n"]
        else:
            skipped = []
            disks.append((f"this disk, every fsync {SLOWER_US} us slower", plan.folder, SLOWER_US))
            if os.access(MEMORY, os.W_OK):
                disks.append((f"a disk that syncs in about {FAST_US} us (memory, and a delay)", MEMORY, FAST_US))
            os.environ["LD_PRELOAD"] = str(preloaded)
        try:
            tables = [str(_table(name, where, delay_us, plan)) for name, where, delay_us in disks]
        finally:
            os.environ.pop("LD_PRELOAD", None)
    return "\n".join(tables + skipped)


def _table(name: str, where: Path, delay_us: int, plan: Plan) -> Table:
    command = [sys.executable, "-m", "benchmarks.append", str(where), str(plan.scale)]
    environment = {**os.environ, "FSYNC_DELAY_US": str(delay_us)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)  # noqa: S603 - ourselves
    told = json.loads(done.stdout)
    table = Table(f"append, on {name}", COLUMNS)
    for row in told["rows"]:
        table.rows.append((str(row.pop("appenders")), row.pop("of"), *map(figure, row.values())))
    raw = ", ".join(f"{of} {commits:,.0f}/s" for of, commits in told["raw"].items())
    table.notes.append(f"one raw commit an event: {raw}; fsync {told['fsync_us']:,.0f} us; {told['rounds']} rounds")
    return table


async def _measured(plan: Plan) -> dict[str, Any]:
    """Run everything in turn, as often as there are rounds, and keep the medians."""
    rounds = plan.times(ROUNDS)
    models = {"dispatches": await dispatches(plan.times(50)), "small": small(50)}
    runs: dict[tuple[int, str], list[Sequence[float]]] = {}
    raws: dict[str, list[float]] = {of: [] for of in models}
    with folder_in(plan.folder) as folder:
        store = await open_sqlite(folder / "bench.db", create=True, now_ms=now_ms)
        try:
            for number in range(rounds):
                for of, model in models.items():
                    raw = _raw(folder / f"raw-{of}-{number}.db", model, plan.times(RAW_COMMITS, 10))
                    raws[of].append(raw)
                    for appenders, streams in STREAMS.items():
                        work = [fresh(model[index % len(model)]) for index in range(plan.times(streams))]
                        runs.setdefault((appenders, of), []).append(await run(store, work, appenders, raw))
        finally:
            await store.aclose()
    rows = [
        {"appenders": appenders, "of": of} | dict(zip(COLUMNS[2:], map(median, zip(*each, strict=True)), strict=True))
        for (appenders, of), each in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    medians = {of: median(each) for of, each in raws.items()}
    return {"rows": rows, "raw": medians, "fsync_us": fsync_us(plan.folder), "rounds": rounds}


async def run(store: Store, work: Sequence[Sequence[Append]], appenders: int, raw: float) -> Sequence[float]:
    """Let so many appenders write all streams; return the figures of a row, ``raw`` being commits a second."""
    took_ms: list[float] = []
    todo = iter(work)

    async def appender(streams: Iterator[Sequence[Append]]) -> None:
        for stream in streams:
            for append in stream:
                begun = time.perf_counter()
                await store.append(append)
                took_ms.append((time.perf_counter() - begun) * 1000)

    with Stopwatch() as watch:
        await asyncio.gather(*(appender(todo) for _ in range(appenders)))
    events = sum(len(append.events) for stream in work for append in stream)
    speed = events / watch.wall_s
    p50 = median(took_ms)
    return speed, speed / raw, p50, percentile(took_ms, 99), p50 * raw / 1000, watch.cpu_s / events * 1e6


def _raw(path: Path, model: Sequence[Sequence[Append]], commits: int) -> float:
    """Commit the same bytes one event at a time, as durably, without guard or index; return commits a second."""
    rows = []
    for stream in model:
        for append in fresh(stream):
            texts = [payload.content for payload in append.payloads] + [b""] * len(append.events)
            rows += [
                (new.event_id, append.task_id, new.event.TYPE, now_ms(), new.actor, new.event.data(), text)
                for new, text in zip(append.events, texts, strict=False)
            ]
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE events (event_id, task_id, type, recorded_at_ms, actor, data, text)")
    with Stopwatch() as watch:
        for index in range(commits):
            database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows[index % len(rows)])
    database.close()
    return commits / watch.wall_s


if __name__ == "__main__":
    asked = Plan(float(sys.argv[2]), Path(sys.argv[1]))
    sys.stdout.write(json.dumps(asyncio.run(_measured(asked))))
