"""Every report's question asked of a large ledger, and two of them of DuckDB too: of the same file, and of Parquet."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.generator import generate
from benchmarks.measuring import Plan, Table, figure, folder_in, median
from benchmarks.peers import SCRIPTS, Unavailable, environment
from benchmarks.workload import now_ms
from ledger.reports.asked import Asked, Report
from ledger.reports.cost import cost
from ledger.reports.latency import latency
from ledger.reports.reading import Snapshot, reading
from ledger.reports.reliability import reliability
from ledger.reports.routing import routing
from ledger.reports.validation import validation
from ledger.store.opening import open_sqlite
from ledger.store.views import ANSWERED, DAY, MODEL

__all__ = ["EVENTS", "measure"]

EVENTS: Final = 1_000_000
"""`--scale 5` makes five millions."""
ROUNDS: Final = 3
DUCKDB: Final = ("duckdb==1.5.5", "duckdb-extension-sqlite-scanner==1.5.5", "duckdb-extensions")
ASK_S: Final = 600
BY: Final = Asked(("day", "tier", "model"))
REPORTS: Final[dict[str, Callable[[Snapshot], Awaitable[Report]]]] = {
    "report latency --by day,tier,model": lambda snapshot: latency(snapshot, BY),
    "report cost --by day,tier,model": lambda snapshot: cost(snapshot, BY),
    "report reliability --by day,tier": lambda snapshot: reliability(snapshot, Asked(("day", "tier"))),
    "report routing": lambda snapshot: routing(snapshot, Asked()),
    "report validation": lambda snapshot: validation(snapshot, Asked()),
}
COST: Final = (
    f"SELECT {DAY}, tier, count(1), sum(cost_nano_usd), count(1) - count(cost_nano_usd) FROM attempts GROUP BY 1, 2"  # noqa: S608 - our own names
)
GROUPS: Final = f"""
SELECT {DAY}, tier, {MODEL}, count(1), sum(latency_ms), max(latency_ms) FROM attempts WHERE {ANSWERED}
GROUP BY {DAY}, tier, {MODEL}
"""  # noqa: S608 - our own names
RANK: Final = (
    f"SELECT latency_ms FROM attempts WHERE {DAY} = ? AND tier = ? AND {MODEL} = ? AND {ANSWERED} "  # noqa: S608 - our own names
    "ORDER BY latency_ms {order} LIMIT 1 OFFSET ?"
)


def measure(plan: Plan) -> str:
    """Return the table."""
    with folder_in(plan.folder) as folder:
        path = folder / "large.db"
        begun = time.perf_counter()
        events = generate(path, plan.times(EVENTS, at_least=1000))
        made_s = time.perf_counter() - begun
        with closing(sqlite3.connect(path)) as ledger:
            (attempts,) = ledger.execute("SELECT count(*) FROM attempts").fetchone()
            took = {
                "latency by day, tier, model: a statement a group": _median_s(lambda: _ranks(ledger)),
                "view tier_latency": _median_s(lambda: ledger.execute("SELECT * FROM tier_latency").fetchall()),
                "cost by day, tier: a statement": _median_s(lambda: ledger.execute(COST).fetchall()),
                "view tier_cost": _median_s(lambda: ledger.execute("SELECT * FROM tier_cost").fetchall()),
            }
        took |= asyncio.run(_reports(path))
        table = Table(f"reports of {events:,} events, {attempts:,} attempts; the file is in the cache", ("asked", "ms"))
        try:
            version, peer = _duckdb(path)
        except Unavailable as why:
            table.notes.append(f"DuckDB: skipped, {why}")
        else:
            took |= {f"DuckDB {version}: {name}": seconds for name, seconds in peer.items()}
        table.notes.append(f"{ROUNDS} rounds; generated in {made_s:,.0f} s, {path.stat().st_size / 2**20:,.0f} MiB")
    table.rows += [(name, figure(seconds * 1000)) for name, seconds in took.items()]
    return str(table)


def _median_s(ask: Callable[[], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        ask()
        took.append(time.perf_counter() - begun)
    return median(took)


def _ranks(ledger: sqlite3.Connection) -> None:
    """Read exact percentiles off the index, each from its nearer end."""
    for *group, count, _, _ in ledger.execute(GROUPS).fetchall():
        for percent, order in ((50, "ASC"), (95, "DESC"), (99, "DESC")):
            place = (count * percent + 99) // 100
            skipped = place - 1 if order == "ASC" else count - place
            ledger.execute(RANK.replace("{order}", order), (*group, skipped)).fetchone()


async def _reports(path: Path) -> dict[str, float]:
    """Ask what the commands ask, on one open ledger."""
    store = await open_sqlite(path, create=False, now_ms=now_ms)
    runs: dict[str, list[float]] = {name: [] for name in REPORTS}
    try:
        for _ in range(ROUNDS):
            for name, report in REPORTS.items():
                begun = time.perf_counter()
                await reading(store, report)
                runs[name].append(time.perf_counter() - begun)
    finally:
        await store.aclose()
    return {name: median(took) for name, took in runs.items()}


def _duckdb(path: Path) -> tuple[str, dict[str, Any]]:
    """Ask DuckDB in an environment of its own.

    Raises:
        Unavailable: it cannot be installed, or does not answer.
    """
    command = [str(environment(DUCKDB)), str(SCRIPTS / "duckdb_reports.py"), str(path), str(ROUNDS)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)  # noqa: S603 - our own script
    except subprocess.TimeoutExpired as late:
        raise Unavailable(f"no answer within {ASK_S} s") from late
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    told = json.loads(done.stdout)
    return told["version"], told["took"]
