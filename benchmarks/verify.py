"""How long ``verify`` takes for a large ledger, against a plain read of the rows that it reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.generator import generate
from benchmarks.measuring import Plan, Stopwatch, Table, figure, folder_in
from ledger import Ledger
from ledger.audit import verify
from ledger.audit.streams import chain_problems
from ledger.envelope import Recorded
from ledger.store import tables as t

__all__ = ["measure"]

EVENTS: Final = 1_000_000
TABLES: Final = (t.events, *t.PROJECTIONS, t.payloads)
EVENT: Final = ", ".join(Recorded._fields)
COLUMNS: Final = ("verify", "events", "s", "x plain read", "us CPU/event", "x its CPU", "most memory (MB)")


class Took(NamedTuple):
    """What something took."""

    wall_s: float
    cpu_s: float
    most_mb: float | None = None
    """The memory of the largest of its processes."""


def measure(plan: Plan) -> str:
    """Return the table."""
    with folder_in(plan.folder) as folder:
        table = Table("verify: tasks with prices, a label and texts; the file is cached", COLUMNS)
        for name, events in (("fifth.db", EVENTS // 5), ("whole.db", EVENTS)):
            path = folder / name
            count = generate(path, plan.times(events, at_least=1000))
            for told, took, floor in _rows(path):
                ratio, cpu_ratio = took.wall_s / floor.wall_s, took.cpu_s / floor.cpu_s
                memory = "" if took.most_mb is None else figure(took.most_mb)
                cells = figure(took.wall_s), figure(ratio), figure(took.cpu_s / count * 1e6), figure(cpu_ratio)
                table.rows.append((told, f"{count:,}", *cells, memory))
    return str(table)


def _rows(path: Path) -> Iterator[tuple[str, Took, Took]]:
    """Yield what was measured, each with the plain read that it is compared with."""
    events, tables = _read(path, (t.events,)), _read(path, TABLES)
    yield "plain read of the events", events, events
    yield "hashes and links alone", _hashes(path), events
    yield "plain read of every table", tables, tables
    yield "everything, in one process", asyncio.run(_whole(path)), tables
    yield "everything, as a command", _command(path), tables


def _read(path: Path, tables: Sequence[Any]) -> Took:
    """Read every row in the order of the streams, twice, and time the second."""
    with closing(sqlite3.connect(path)) as database:
        for _ in range(2):
            watch = Stopwatch()
            with watch:
                for table in tables:
                    key = (
                        "task_id, version"
                        if table is t.events
                        else ", ".join(c.name for c in table.primary_key.columns)
                    )
                    for _row in database.execute(f"SELECT * FROM {table.name} ORDER BY {key}"):  # noqa: S608 - our names
                        pass
    return Took(watch.wall_s, watch.cpu_s)


def _hashes(path: Path) -> Took:
    """Check the chain of every stream, as ``verify`` does, and nothing else."""
    with Stopwatch() as watch, closing(sqlite3.connect(path)) as database:
        rows = database.execute(f"SELECT {EVENT} FROM events ORDER BY task_id, version")  # noqa: S608 - our names
        for _, stream in groupby((Recorded(*row) for row in rows), key=attrgetter("task_id")):
            if any(chain_problems(tuple(stream))):
                raise AssertionError("the benchmark's ledger is broken")
    return Took(watch.wall_s, watch.cpu_s)


async def _whole(path: Path) -> Took:
    async with Ledger.open(path, create=False) as ledger:
        store = await ledger.store()
        with Stopwatch() as watch:
            report = await verify(store)
        if not report.ok:
            raise AssertionError(f"the benchmark's ledger is broken: {report.problems[0]}")
    return Took(watch.wall_s, watch.cpu_s)


def _command(path: Path) -> Took:
    """Run the command, which uses all processors."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", "ledger", "verify", "--json", "--ledger", str(path)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError("the benchmark's ledger is broken")
    return Took(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
