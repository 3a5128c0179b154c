"""What stands against a limit or a cap: how many attempts are in flight, and what all that count have cost."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from sqlalchemy import bindparam, func, select

from ledger.envelope import Cap, Limit
from ledger.store import tables as t
from ledger.store.caps import SPENT, Scope, scope_of, spent_from, spent_of
from ledger.store.columns import ATTEMPT_IN_FLIGHT
from ledger.store.protocol import Spent
from ledger.store.sqlite_statements import text_of

__all__ = ["ALL_MODELS", "ONE_MODEL", "SPENT_IN", "spent", "written_in_flight", "written_spent"]

_attempt = t.attempts.c
_of_provider = select(func.count()).where(
    ATTEMPT_IN_FLIGHT, _attempt.provider == bindparam("provider"), _attempt.deadline_ms > bindparam("since_ms")
)
ALL_MODELS: Final = text_of(_of_provider)
ONE_MODEL: Final = text_of(_of_provider.where(_attempt.request_model == bindparam("model")))
SPENT_IN: Final = re.sub(r"\$(\d)(::text)?", r"?\1", SPENT)
OF_TASK: Final = "SELECT state, cost_nano_usd, exposure_nano_usd FROM attempts WHERE task_id = ?"


def written_in_flight(database: sqlite3.Connection, limit: Limit, now_ms: int) -> int:
    """Count the rows of ``attempts`` that take a place of the limit."""
    wanted = {"provider": limit.provider, "model": limit.model, "since_ms": now_ms - limit.grace_ms}
    (count,) = database.execute(ALL_MODELS if limit.model is None else ONE_MODEL, wanted).fetchone()
    return int(count)


def written_spent(database: sqlite3.Connection, scope: Scope) -> Spent:
    """Sum the rows of ``attempts`` that a scope counts."""
    return spent_from(database.execute(SPENT_IN, scope.values()).fetchone())


def spent(database: sqlite3.Connection, cap: Cap, task_id: str, at_ms: int) -> Spent:
    """Return what stands against a cap."""
    if not cap.of_task:
        return written_spent(database, scope_of(cap, at_ms))
    names = ("state", "cost_nano_usd", "exposure_nano_usd")
    return spent_of(dict(zip(names, row, strict=True)) for row in database.execute(OF_TASK, (task_id,)))
