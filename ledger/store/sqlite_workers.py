"""Who lives, whose the open tasks are, and who is about to start what: each a function on a connection's thread.

A claim costs what it gives, not what waits: every statement reads its rows out of an index in their order. Only the
table of claims is walked through, and that is as long as there are tasks about to be started.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, TextClause, bindparam, exists, select

from ledger.store import tables as t
from ledger.store.columns import ATTEMPT_ENDED, TASK_OPEN, TASK_WAITS
from ledger.store.protocol import Worker
from ledger.store.sqlite_statements import text_of

__all__ = [
    "DUE",
    "ENDED",
    "OWNERLESS",
    "OWNERS",
    "Wish",
    "beat",
    "claim",
    "due",
    "ended_attempts",
    "leave",
    "owners",
    "unclaim",
    "workers",
]

CLOCK_SET_BACK_MS: Final = 60_000
"""What is this much further ahead than it can be was written before a clock was set back."""


class Wish(NamedTuple):
    """What a worker wants to claim."""

    worker: str
    owners: Sequence[str | None]
    limit: int
    for_ms: int


_task, _claim = t.tasks.c, t.claims.c
_now_ms: BindParameter[int] = bindparam("now_ms")
_taken = exists().where(
    _claim.task_id == _task.task_id,
    _claim.worker != bindparam("worker"),
    _claim.until_ms > _now_ms,
    _claim.until_ms <= bindparam("until_ms_max"),
)


def _due(
    since: ColumnElement[int], order: Sequence[ColumnElement[Any]], *where: ColumnElement[bool] | TextClause
) -> str:
    statement = select(since.label("due_ms"), _task.task_id).where(
        _task.worker.is_(bindparam("owner")), ~_taken, *where
    )
    return text_of(statement.order_by(*order).limit(bindparam("rows")))


DUE: Final = (
    _due(_task.created_at_ms, [_task.task_id], TASK_OPEN, _task.not_before_ms.is_(None)),
    _due(_task.not_before_ms, [_task.not_before_ms, _task.task_id], TASK_OPEN, _task.not_before_ms <= _now_ms),
    _due(
        _task.not_before_ms,
        [_task.waiting_since_ms, _task.task_id],
        TASK_WAITS,
        _task.waiting_since_ms > bindparam("set_back_ms"),
        _task.not_before_ms > _now_ms,
    ),
)
"""An owner's free tasks, with the instant since which they are due: the ready ones, those whose wait is over, and those
whose wait was set before the clock was set back."""

_open = select(_task.worker).where(TASK_OPEN).order_by(_task.worker).limit(1)
_first = _open.where(_task.worker.is_not(None)).subquery()
_chain = select(_first.c.worker).cte("chain", recursive=True)
_chain = _chain.union_all(
    select(_open.where(_task.worker > _chain.c.worker).scalar_subquery()).where(_chain.c.worker.is_not(None))
)
OWNERS: Final = text_of(select(_chain.c.worker).where(_chain.c.worker.is_not(None)))
"""One step in the index for each owner, however many tasks it has."""
OWNERLESS: Final = text_of(_open.where(_task.worker.is_(None)))

_attempt = t.attempts.c
ENDED: Final = text_of(
    select(t.attempts)
    .where(
        ATTEMPT_ENDED,
        _attempt.provider == bindparam("provider"),
        _attempt.request_model == bindparam("model"),
    )
    .order_by(_attempt.ended_at_ms.desc(), _attempt.task_id.desc(), _attempt.attempt.desc())
    .limit(bindparam("rows"))
)

BEAT: Final = """
INSERT INTO workers (worker, beats, beat_at_ms, started_at_ms) VALUES (:worker, 1, :now_ms, :now_ms)
ON CONFLICT (worker) DO UPDATE SET beats = beats + 1, beat_at_ms = excluded.beat_at_ms
"""
WORKERS: Final = text_of(
    select(t.workers.c.worker, t.workers.c.beats, t.workers.c.beat_at_ms).order_by(t.workers.c.worker)
)
CLAIM: Final = """
INSERT INTO claims (task_id, worker, until_ms) VALUES (?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET worker = excluded.worker, until_ms = excluded.until_ms
"""
VOID: Final = "DELETE FROM claims WHERE until_ms <= :now_ms OR until_ms > :until_ms_max"
UNCLAIM: Final = "DELETE FROM claims WHERE worker = :worker AND task_id IN (SELECT value FROM json_each(:task_ids))"


def beat(database: sqlite3.Connection, now_ms: int, worker: str) -> None:
    """Note that a worker lives."""
    database.execute(BEAT, {"worker": worker, "now_ms": now_ms})


def leave(database: sqlite3.Connection, _now_ms: int, worker: str) -> None:
    """Forget a worker and its claims."""
    database.execute("DELETE FROM workers WHERE worker = ?", (worker,))
    database.execute("DELETE FROM claims WHERE worker = ?", (worker,))


def workers(database: sqlite3.Connection, now_ms: int) -> tuple[Worker, ...]:
    """Read who has beaten and not left."""
    return tuple(Worker(name, beats, now_ms - at_ms) for name, beats, at_ms in database.execute(WORKERS))


def owners(database: sqlite3.Connection) -> tuple[str | None, ...]:
    """Read whose the open tasks are; None first."""
    ownerless = database.execute(OWNERLESS).fetchall()
    return tuple(owner for (owner,) in (*ownerless, *database.execute(OWNERS)))


def due(database: sqlite3.Connection, now_ms: int, wish: Wish) -> tuple[str, ...]:
    """Read what the wish would claim."""
    wanted: dict[str, Any] = {
        "worker": wish.worker,
        "rows": max(wish.limit, 0),
        "now_ms": now_ms,
        "set_back_ms": now_ms + CLOCK_SET_BACK_MS,
        "until_ms_max": now_ms + wish.for_ms + CLOCK_SET_BACK_MS,
    }
    found: list[tuple[int, str]] = []
    for owner in dict.fromkeys(wish.owners):
        for text in DUE:
            found += database.execute(text, {**wanted, "owner": owner})
    return tuple(task_id for _, task_id in sorted(found)[: wanted["rows"]])


def claim(database: sqlite3.Connection, now_ms: int, wish: Wish) -> tuple[str, ...]:
    """Reserve what is due, and sweep out the claims that are void."""
    chosen = due(database, now_ms, wish)
    until_ms = now_ms + wish.for_ms
    database.execute(VOID, {"now_ms": now_ms, "until_ms_max": until_ms + CLOCK_SET_BACK_MS})
    database.executemany(CLAIM, [(task_id, wish.worker, until_ms) for task_id in chosen])
    return chosen


def unclaim(database: sqlite3.Connection, _now_ms: int, worker: str, task_ids: Sequence[str]) -> None:
    """Give back what the worker has claimed of these."""
    database.execute(UNCLAIM, {"worker": worker, "task_ids": json.dumps(task_ids)})


def ended_attempts(
    database: sqlite3.Connection, provider: str, model: str, limit: int
) -> tuple[Mapping[str, Any], ...]:
    """Read rows of ``attempts``, the last to end first."""
    cursor = database.execute(ENDED, {"provider": provider, "model": model, "rows": max(limit, 0)})
    names = [column[0] for column in cursor.description]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor)
