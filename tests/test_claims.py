"""Claims, owners and limits cost what they give: their plans do not grow with the ledger."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.envelope import Limit
from ledger.store import sqlite_limits, sqlite_workers
from ledger.store.sqlite_limits import written_in_flight
from ledger.store.sqlite_workers import Wish, claim, due, ended_attempts, owners
from tests.histories import START_MS
from tests.ledgers import fresh_ledger

__all__ = ["QUESTIONS", "fill"]

FEW, MANY = 500, 10_000
DAY_MS = 86_400_000

TASKS = """
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :count - 1)
INSERT INTO tasks (task_id, kind, state, tier_requested, attempts, created_at_ms, cost_known_nano_usd,
                   cost_unknown_attempts, worker, ended_at_ms, waiting_for, not_before_ms, waiting_since_ms)
SELECT printf('%08x', i), 'generation', 'any', 'flash', 1, :start + i, 0, 0,
       CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN 'dead' ELSE 'living' || (i % 7) END,
       CASE WHEN i % 5 = 0 THEN :start + i END,
       CASE i % 3 WHEN 1 THEN 'backoff' WHEN 2 THEN 'person' END,
       CASE i % 3 WHEN 1 THEN :start + i * 1000 END, CASE i % 3 WHEN 1 THEN :start + i END
FROM n
"""
ATTEMPTS = """
INSERT INTO attempts (task_id, attempt, purpose, step, tier, provider, request_model, state, started_at_ms,
                      ended_at_ms, usage_source, worker, deadline_ms)
SELECT task_id, 1, 'generate', 1, 'flash', 'p', CASE WHEN rowid / (:count / 20) % 2 THEN 'm' ELSE 'n' END,
       CASE WHEN rowid % (:count / 20) THEN 'failed' ELSE 'running' END, created_at_ms,
       CASE WHEN rowid % (:count / 20) THEN created_at_ms + 5 END, 'unknown', 'w', created_at_ms + 30000
FROM tasks
"""

Question = Callable[[sqlite3.Connection], Any]


def asked(now_ms: int, *of: str | None) -> Question:
    """Ask for ten due tasks of some owners."""
    return lambda database: due(database, now_ms, Wish("w", of, 10, 30_000))


QUESTIONS: dict[str, Question] = {
    "claim ten of nobody's": lambda database: claim(database, START_MS, Wish("w", [None], 10, 30_000)),
    "ten due tasks of nobody's": asked(START_MS, None),
    "ten due tasks of a dead worker": asked(START_MS + 5000, "dead"),
    "ten due tasks when the clock was set back": asked(START_MS - DAY_MS, "dead"),
    "none of a stranger": asked(START_MS, "stranger"),
    "nine owners": owners,
    "attempts in flight of a provider": lambda database: written_in_flight(database, Limit("p", 1), START_MS),
    "attempts in flight of a model": lambda database: written_in_flight(database, Limit("p", 1, "m"), START_MS),
    "the last twenty that ended": lambda database: ended_attempts(database, "p", "m", 20),
}
"""What workers ask again and again."""


def fill(path: Path, count: int) -> Path:
    """Write as many tasks with an attempt each: one in five ended, of the others a third held, a third waiting."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN")
        database.execute(TASKS, {"count": count, "start": START_MS})
        database.execute(ATTEMPTS, {"count": count})
        database.execute("COMMIT")
    return path


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small ledger and one twenty times as large, each with twenty attempts in flight."""
    folder = tmp_path_factory.mktemp("claims")
    return [fill(fresh_ledger(folder), count) for count in (FEW, MANY)]


def steps(path: Path, question: Question) -> tuple[int, int]:
    """Return how many steps SQLite's machine takes to answer, in tens, and how many answers there are."""
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN")
        database.set_progress_handler(tick, 10)
        answer = question(database)
        return ticks, answer if isinstance(answer, int) else len(answer)


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_costs_what_it_gives(ledgers: list[Path], name: str) -> None:
    """In a ledger twenty times as large it takes the same work, but for the depth of the trees."""
    (few, answers), (many, as_many) = (steps(path, QUESTIONS[name]) for path in ledgers)
    assert answers == as_many, "the ledgers differ in size only"
    assert many < 1.5 * few + 10


STATEMENTS = [
    *((text, index) for text, index in zip(sqlite_workers.DUE, ("open", "open", "waiting"), strict=True)),
    (sqlite_workers.OWNERS, "open"),
    (sqlite_workers.OWNERLESS, "open"),
    (sqlite_workers.ENDED, "ended"),
    (sqlite_limits.ALL_MODELS, "in_flight"),
    (sqlite_limits.ONE_MODEL, "in_flight"),
]


@pytest.mark.parametrize(("text", "index"), STATEMENTS)
def test_rows_come_out_of_an_index(ledgers: list[Path], text: str, index: str) -> None:
    """No table is scanned, and nothing is sorted but attempts that ended in the same millisecond."""
    wanted = dict.fromkeys(re.findall(r":(\w+)", text), "1")
    with closing(sqlite3.connect(ledgers[1])) as database:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", wanted)]
    tables = [step for step in plan if re.search(r"\b(tasks|attempts|claims)\b", step)]
    assert tables
    assert all(
        re.match(rf"SEARCH \w+ USING (COVERING )?INDEX (\w+_{index}|sqlite_autoindex_claims_1) ", step)
        for step in tables
    )
    sorts = [step for step in plan if "TEMP B-TREE" in step]
    assert sorts == ["USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"] * (index == "ended")
