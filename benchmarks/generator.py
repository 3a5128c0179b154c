"""A large ledger in little time: real tasks of five tiers, copied under new ids at other times, with hashes made anew.

What is copied is what the executor wrote, event by event and row by row, so `verify` finds nothing in it. It is the
same for the same count, but for the tasks that it starts from, which are made at the time of the day.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from ledger import Config, Executor, Ledger
from ledger.envelope import FIRST_PREV_HASH, event_hash
from ledger.store import tables as t

__all__ = ["DAYS", "generate"]

DAYS: Final = 30
DAY_MS: Final = 86_400_000
TASKS_A_TIER: Final = 4
BATCH: Final = 500
FIELDS: Final = ("event_id", "task_id", "version", "type", "schema_version", "recorded_at_ms", "actor", "fence")
TABLES: Final = (t.events, t.tasks, t.attempts, t.decisions, t.task_labels)
LATENCY: Final = "latency_ms"
TIME: Final = re.compile(r'("(?:\w+_at_ms|deadline_ms|not_before_ms|until_ms)"):(\d+)')
TOOK: Final = re.compile(rf'("{LATENCY}"):\d+')
INSTANT: Final = re.compile(r"\w+_at_ms|deadline_ms|not_before_ms|waiting_since_ms")
PRICES: Final = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 5}
TIERS: Final = ("flash", "pro", "haiku", "sonnet", "opus")
CONFIG: Final = {
    "retry": {"backoff_initial_s": 0.001},
    "tiers": {tier: {"provider": "simulated", "model": f"model-{tier}"} for tier in TIERS},
    "prices": {f"simulated/model-{tier}": PRICES for tier in TIERS if tier != "opus"},
    "providers": {
        "simulated": {
            "latency_ms": 0,
            "models": {"model-flash": {"script": ["rate_limited", *[{"text": "done"}] * 4]}},
        }
    },
}

Stream = Mapping[str, Sequence[Mapping[str, Any]]]


def generate(path: Path, events: int) -> int:
    """Write at least so many events into a new ledger, over ``DAYS`` days; return how many there are."""
    asyncio.run(_originals(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("PRAGMA synchronous = OFF")
        ledger.row_factory = sqlite3.Row
        streams = _streams(ledger)
        written, number = sum(len(stream["events"]) for stream in streams), 0
        copies = max(1, events * len(streams) // max(written, 1))
        while written < events:
            ledger.execute("BEGIN")
            for _ in range(BATCH):
                stream = streams[number % len(streams)]
                number += 1
                later_ms = DAYS * DAY_MS * number // (copies + 1)
                _copy(ledger, stream, f"0fffffff-{number >> 16:04x}-7000-8000-{number & 0xFFFF:012x}", later_ms, number)
                written += len(stream["events"])
                if written >= events:
                    break
            ledger.execute("COMMIT")
        return int(ledger.execute("SELECT count(*) FROM events").fetchone()[0])


async def _originals(path: Path) -> None:
    async with Ledger.open(path) as ledger, Executor(ledger, Config.model_validate(CONFIG)) as executor:
        for number in range(TASKS_A_TIER):
            for tier in TIERS:
                await executor.execute(
                    tier, f"A prompt of some length, {number}. " * 8, labels={"team": "ab"[number % 2]}
                )


def _streams(ledger: sqlite3.Connection) -> list[Stream]:
    """Return the rows of each task, by table."""
    ids = [row[0] for row in ledger.execute("SELECT task_id FROM tasks ORDER BY task_id")]
    texts = {table.name: f"SELECT * FROM {table.name} WHERE task_id = ? ORDER BY 1, 2" for table in TABLES}  # noqa: S608 - our names
    texts |= {"payloads": "SELECT * FROM payloads WHERE task_id = ?"}
    return [{name: [dict(row) for row in ledger.execute(text, (one,))] for name, text in texts.items()} for one in ids]


def _copy(ledger: sqlite3.Connection, stream: Stream, task_id: str, later_ms: int, number: int) -> None:
    """Write a task once more, later, and with other latencies."""
    previous = FIRST_PREV_HASH
    took_ms = 300 + number * 7919 % 4001
    for name, rows in stream.items():
        made = [_moved(row, later_ms, took_ms) | {"task_id": task_id} for row in rows]
        if name == "events":
            for row in made:
                del row["position"]
                row["data"] = TIME.sub(lambda found: f"{found[1]}:{int(found[2]) + later_ms}", row["data"])
                row["data"] = TOOK.sub(rf"\1:{took_ms}", row["data"])
                row |= {"event_id": f"{task_id}/{row['version']}", "prev_hash": previous}
                previous = row["hash"] = event_hash(previous, [row[field] for field in FIELDS], row["data"].encode())
        if made:
            names = list(made[0])
            marks = ", ".join("?" * len(names))
            text = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our names
            ledger.executemany(text, [tuple(row.values()) for row in made])


def _moved(row: Mapping[str, Any], later_ms: int, took_ms: int) -> dict[str, Any]:
    moved = dict(row)
    for name, value in row.items():
        if value is not None and INSTANT.fullmatch(name):
            moved[name] = value + later_ms
        elif value is not None and name == LATENCY:
            moved[name] = took_ms
    return moved
