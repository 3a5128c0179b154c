"""How long a page of ``tasks`` takes in a small ledger, and in one ten thousand times as large."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.measuring import Plan, Table, figure, folder_in, median
from ledger.store.protocol import TaskQuery
from ledger.store.sqlite_lists import page_of_tasks
from ledger.store.upgrade import create

__all__ = ["fill", "measure"]

SMALL: Final = 100
LARGE: Final = 1_000_000
ROUNDS: Final = 21
START_MS: Final = 1_790_000_000_000

QUERIES: Final = {
    "newest": TaskQuery(),
    "--since": TaskQuery(since_ms=START_MS + 2_500),
    "--state failed (1 in 100)": TaskQuery(state="failed"),
    "--state waiting (1 in 1,000)": TaskQuery(state="waiting"),
    "--tier opus (1 in 50,000)": TaskQuery(tier="opus"),
    "--state failed --tier opus (none)": TaskQuery(state="failed", tier="opus"),
    "--label team=a (1 in 3)": TaskQuery(labels={"team": "a"}),
    "--label team=rare (1 in 9,999)": TaskQuery(labels={"team": "rare"}),
    "--label team=nobody (none)": TaskQuery(labels={"team": "nobody"}),
    "--label team=a --state failed": TaskQuery(labels={"team": "a"}, state="failed"),
    "--label team=a --tier opus (1 in 150,000)": TaskQuery(labels={"team": "a"}, tier="opus"),
    "a page from the middle": TaskQuery(after=(START_MS + 2_500, "")),
}

TASKS: Final = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO tasks (task_id, kind, state, tier_requested, tier_final, model_final, attempt_final, attempts,
                   created_at_ms, ended_at_ms, cost_known_nano_usd, cost_unknown_attempts)
SELECT printf('%08x-%04x-7%03x-8%03x-%012x', (:start + i * 50) >> 16, (:start + i * 50) & 65535, i * 7919 % 4096,
              i * 104729 % 4096, i * 15485863),
       'generation', CASE WHEN i % 100 = 50 THEN 'failed' WHEN i % 1000 = 1 THEN 'waiting' ELSE 'succeeded' END,
       CASE WHEN i % 50000 = 7 THEN 'opus' WHEN i % 3 = 0 THEN 'flash' WHEN i % 3 = 1 THEN 'haiku' ELSE 'sonnet' END,
       'flash', 'a-model', 1, 1, :start + i * 50, :start + i * 50 + 900, 0, 1
FROM n
"""
LABELS: Final = """
INSERT INTO task_labels (task_id, key, value, created_at_ms)
SELECT task_id, 'team', CASE WHEN rowid % 3 = 0 THEN 'a' WHEN rowid % 9999 = 1 THEN 'rare' ELSE 'b' END, created_at_ms
FROM tasks
"""


def fill(path: Path, count: int) -> None:
    """Write rows of ``tasks`` and ``task_labels`` into an empty ledger, as that many tasks would have left them."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN")
        database.execute(TASKS, {"count": count, "start": START_MS})
        database.execute(LABELS)
        database.execute("COMMIT")


def measure(plan: Plan) -> str:
    """Return the table."""
    counts = (SMALL, plan.times(LARGE, at_least=SMALL))
    columns = ("a page of 100 tasks, of", *(f"{count:,} (ms)" for count in counts), "ratio", "rows")
    table = Table("lists: the statement alone, its rows fetched; the file is in the cache", columns)
    with folder_in(plan.folder) as folder:
        paths = [folder / f"{count}.db" for count in counts]
        for path, count in zip(paths, counts, strict=True):
            create(path)
            fill(path, count)
        for name, query in QUERIES.items():
            (small, _), (large, rows) = (_median_ms(path, query) for path in paths)
            table.rows.append((name, figure(small), figure(large), figure(large / small), str(rows)))
    return str(table)


def _median_ms(path: Path, query: TaskQuery) -> tuple[float, int]:
    text, wanted = page_of_tasks(query)
    took = []
    with closing(sqlite3.connect(path)) as database:
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            found = database.execute(text, wanted).fetchall()
            took.append((time.perf_counter() - begun) * 1000)
    return median(took), len(found)
