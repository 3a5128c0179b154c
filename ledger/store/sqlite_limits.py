"""How many attempts of a limit are in flight, counted in an index."""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy import bindparam, func, select

from ledger.envelope import Limit
from ledger.store import tables as t
from ledger.store.columns import ATTEMPT_IN_FLIGHT
from ledger.store.sqlite_statements import text_of

__all__ = ["ALL_MODELS", "ONE_MODEL", "written_in_flight"]

_attempt = t.attempts.c
_of_provider = select(func.count()).where(
    ATTEMPT_IN_FLIGHT, _attempt.provider == bindparam("provider"), _attempt.deadline_ms > bindparam("since_ms")
)
ALL_MODELS: Final = text_of(_of_provider)
ONE_MODEL: Final = text_of(_of_provider.where(_attempt.request_model == bindparam("model")))


def written_in_flight(database: sqlite3.Connection, limit: Limit, now_ms: int) -> int:
    """Count the rows of ``attempts`` that take a place of the limit."""
    wanted = {"provider": limit.provider, "model": limit.model, "since_ms": now_ms - limit.grace_ms}
    (count,) = database.execute(ALL_MODELS if limit.model is None else ONE_MODEL, wanted).fetchone()
    return int(count)
