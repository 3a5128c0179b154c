"""Where the time goes: a group append on one thread, and a dispatch over a store in memory, under ``cProfile``.

The profiler's own time falls on what has many small functions; shares tell more than microseconds.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Final

from benchmarks.calls import many, over
from benchmarks.measuring import Plan, Table, figure, folder_in
from benchmarks.workload import dispatches, fresh, now_ms
from ledger.envelope import Append
from ledger.store.memory import MemoryStore
from ledger.store.sqlite_append import append_group
from ledger.store.sqlite_connection import connect
from ledger.store.upgrade import create

__all__ = ["measure"]

STREAMS: Final = 1440
DISPATCHES: Final = 1500
GROUP: Final = 48
COLUMNS: Final = ("of", "share", "us")
PARTS: Final = (
    ("SQLite", ("sqlite3.Connection", "sqlite3.Cursor")),
    ("pydantic: making, dumping and reading models", ("pydantic",)),
    ("canonical JSON", ("canonical.py", "orjson")),
    ("hashes and digests", ("_hashlib", "envelope.py", "hmac")),
    ("projections' rows", ("projection.py", "rows.py")),
    ("evolve, decide", ("evolve.py", "dispatch.py", "choices.py", "state.py", "dataclasses.py")),
    ("the executor", ("executor",)),
    ("the store's own code", ("store",)),
    ("asyncio", ("asyncio", "select", "_contextvars", "contextlib")),
)
REST: Final = "the rest"


def measure(plan: Plan) -> str:
    """Return both tables."""
    with folder_in(plan.folder) as folder:
        events, append = asyncio.run(_append(folder, plan))
    count = plan.times(DISPATCHES)
    dispatch = asyncio.run(_dispatch(count))
    return "\n".join(
        (
            str(_table(f"profile of an append: an event of a real dispatch, in groups of {GROUP}", append, events)),
            str(_table("profile of a dispatch, store in memory, client replaced by nothing", dispatch, count)),
        )
    )


async def _append(folder: Path, plan: Plan) -> tuple[int, cProfile.Profile]:
    path = folder / "profile.db"
    create(path)
    model = await dispatches(plan.times(50))
    work = (fresh(model[index % len(model)]) for index in range(plan.times(STREAMS)))
    groups: list[Sequence[Append]] = []
    while streams := list(islice(work, GROUP)):
        groups += zip(*streams, strict=True)
    profile = cProfile.Profile()
    database = connect(path, writer=True)
    try:
        for group in groups:
            profile.runcall(append_group, database, group, now_ms())
    finally:
        database.close()
    return sum(len(append.events) for append in chain.from_iterable(groups)), profile


async def _dispatch(count: int) -> cProfile.Profile:
    profile = cProfile.Profile()
    async with over(MemoryStore(now_ms=now_ms)) as call:
        await many(call, min(count, 50), 1)
        with profile:
            await many(call, count, 1)
    return profile


def _table(title: str, profile: cProfile.Profile, count: int) -> Table:
    spent: defaultdict[str, float] = defaultdict(float)
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = pstats.Stats(profile).stats  # type: ignore[attr-defined] # no stub has it
    for (file, _, function), (_, _, own_s, _, _) in stats.items():
        spent[_part(f"{'/'.join(Path(file).parts[-3:])}:{function}")] += own_s
    whole = sum(spent.values())
    table = Table(title, COLUMNS)
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        table.rows.append((part, f"{seconds / whole:.0%}", figure(seconds / count * 1e6)))
    return table


def _part(place: str) -> str:
    """Put a function where it belongs; waiting in ``select`` is asyncio's."""
    return next((part for part, marks in PARTS if any(mark in place for mark in marks)), REST)
