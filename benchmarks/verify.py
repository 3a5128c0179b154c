"""How long ``verify`` takes for a large ledger, against a plain read of the rows that it reads."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Plan, Table, figure, folder_in
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.audit.streams import chain_problems
from ledger.envelope import FIRST_PREV_HASH, Recorded, event_hash
from ledger.store import tables as t

__all__ = ["fill", "measure"]

EVENTS: Final = 1_000_000
TEMPLATES: Final = 20
BATCH: Final = 500
TABLES: Final = (t.events, *t.PROJECTIONS, t.payloads)
EVENT: Final = ", ".join(column.name for column in fields(Recorded))
FIELDS: Final = ("event_id", "task_id", "version", "type", "schema_version", "recorded_at_ms", "actor", "fence")
CONFIG: Final = {
    "retry": {"backoff_initial_s": 0.001},
    "tiers": {
        "flash": {"provider": "simulated", "model": "flaky"},
        "haiku": {"provider": "simulated", "model": "plain"},
    },
    "providers": {
        "simulated": {
            "latency_ms": 0,
            "models": {"flaky": {"script": ["rate_limited", {"text": "done"}, {"text": "also done"}, "overloaded"]}},
        }
    },
}

MOMENT: Final = re.compile(r'("\w+_at_ms":|"not_before_ms":|"deadline_ms":)(\d+)')
LATENCY: Final = re.compile(r'("latency_ms":)(\d+)')


async def _template(path: Path) -> None:
    async with Ledger.open(path) as ledger, Executor(ledger, Config.model_validate(CONFIG)) as executor:
        for number in range(TEMPLATES):
            await executor.execute("flash", f"A prompt of some length, number {number}. " * 8, labels={"team": "a"})


def fill(path: Path, events: int) -> int:
    """Write at least so many events: tasks of a simulated model, copied under new ids with their hashes made anew."""
    asyncio.run(_template(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        streams = _streams(database)
        _copied(database, streams, events)
        return int(database.execute("SELECT count(*) FROM events").fetchone()[0])


def _streams(database: sqlite3.Connection) -> list[dict[str, list[dict[str, Any]]]]:
    """Return the rows of each task, by table."""
    ids = [row[0] for row in database.execute("SELECT task_id FROM tasks ORDER BY task_id")]
    tables = (t.events, t.tasks, t.attempts, t.decisions, t.task_labels, t.payloads)
    return [
        {
            table.name: [dict(row) for row in database.execute(f"SELECT * FROM {table.name} WHERE task_id = ?", (one,))]  # noqa: S608 - our names
            for table in tables
        }
        for one in ids
    ]


def _copied(database: sqlite3.Connection, streams: list[dict[str, list[dict[str, Any]]]], events: int) -> None:
    written = sum(len(stream["events"]) for stream in streams)
    copy = 0
    while written < events:
        database.execute("BEGIN")
        for _ in range(BATCH):
            stream = streams[copy % len(streams)]
            copy += 1
            _copy(database, stream, f"0fffffff-{copy >> 16:04x}-7000-8000-{copy & 0xFFFF:012x}", copy)
            written += len(stream["events"])
            if written >= events:
                break
        database.execute("COMMIT")


def _moved(row: dict[str, Any], later_ms: int) -> dict[str, Any]:
    for name, value in row.items():
        if name == "data":
            data = MOMENT.sub(lambda found: f"{found[1]}{int(found[2]) + later_ms}", value)
            row[name] = LATENCY.sub(lambda found: f"{found[1]}{later_ms}", data)
        elif name.endswith("_ms") and value is not None:
            row[name] = later_ms if name == "latency_ms" else value + later_ms
    return row


def _copy(database: sqlite3.Connection, stream: dict[str, list[dict[str, Any]]], task_id: str, later_ms: int) -> None:
    """Write a task again, under another id and some time later: no two copies have the same bytes."""
    previous = FIRST_PREV_HASH
    for table, rows in stream.items():
        made = [_moved({**row, "task_id": task_id}, later_ms) for row in rows]
        if table == "events":
            for row in made:
                del row["position"]
                row |= {"event_id": f"{task_id}/{row['version']}", "prev_hash": previous}
                previous = row["hash"] = event_hash(previous, [row[name] for name in FIELDS], row["data"].encode())
        if made:
            names = list(made[0])
            marks = ", ".join("?" * len(names))
            text = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our names
            database.executemany(text, [tuple(row.values()) for row in made])


def measure(plan: Plan) -> str:
    """Return the table."""
    with folder_in(plan.folder) as folder:
        path, small = folder / "verify.db", folder / "small.db"
        events = fill(path, plan.times(EVENTS, at_least=1000))
        fill(small, events // 10)
        columns = ("verify", "s", "us/event", "times its plain read", "most memory (MB)")
        table = Table(
            f"verify: {events:,} events of tasks with a retry, a label and texts; the file is cached", columns
        )
        events_s, tables_s = _plain_s(path, (t.events,)), _plain_s(path, TABLES)
        for name, wall_s, floor_s in (
            ("plain read of the events", events_s, events_s),
            ("hashes and links alone", _hashes_s(path), events_s),
            ("plain read of every table", tables_s, tables_s),
            ("everything, in one process", asyncio.run(_whole_s(path, 0)), tables_s),
        ):
            table.rows.append((name, figure(wall_s), figure(wall_s / events * 1e6), figure(wall_s / floor_s), ""))
        for name, ledger in (("as a command", path), ("as a command, a tenth of the events", small)):
            wall_s, most_mb = _command(ledger)
            count = events if ledger is path else events // 10
            cells = figure(wall_s), figure(wall_s / count * 1e6), figure(wall_s / tables_s * events / count)
            table.rows.append((name, *cells, figure(most_mb)))
    return str(table)


def _plain_s(path: Path, tables: Sequence[Any]) -> float:
    """Read every row in the order of the streams, twice, and time the second."""
    with closing(sqlite3.connect(path)) as database:
        for _ in range(2):
            begun = time.perf_counter()
            for table in tables:
                key = "task_id, version" if table is t.events else ", ".join(c.name for c in table.primary_key.columns)
                for _row in database.execute(f"SELECT * FROM {table.name} ORDER BY {key}"):  # noqa: S608 - our names
                    pass
    return time.perf_counter() - begun


def _hashes_s(path: Path) -> float:
    """Check the chain of every stream, as ``verify`` does, and nothing else."""
    begun = time.perf_counter()
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(f"SELECT {EVENT} FROM events ORDER BY task_id, version")  # noqa: S608 - our names
        for _, stream in groupby((Recorded(*row) for row in rows), key=attrgetter("task_id")):
            if any(chain_problems(tuple(stream))):
                raise AssertionError("the benchmark's ledger is broken")
    return time.perf_counter() - begun


async def _whole_s(path: Path, processes: int) -> float:
    async with Ledger.open(path, create=False) as ledger:
        store = await ledger.store()
        begun = time.perf_counter()
        report = await verify(store, processes=processes)
        if not report.ok:
            raise AssertionError(f"the benchmark's ledger is broken: {report.problems[0]}")
        return time.perf_counter() - begun


def _command(path: Path) -> tuple[float, float]:
    """Run the command; return how long it took, and the most memory that one of its processes had."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", "ledger", "verify", "--json", "--ledger", str(path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError("the benchmark's ledger is broken")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024
