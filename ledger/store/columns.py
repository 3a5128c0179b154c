"""Kinds of columns that are alike on every engine, and the conditions of partial indexes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import REAL, BigInteger, Column, Double, Index, Integer, LargeBinary, Text, TextClause, text
from sqlalchemy.types import TypeEngine

from ledger.store.views import DAY, MODEL

__all__ = [
    "ATTEMPT_ENDED",
    "ATTEMPT_IN_FLIGHT",
    "FLOAT64",
    "INT64",
    "TASK_OPEN",
    "TASK_WAITS",
    "integer",
    "octets",
    "of_reports",
    "partial_index",
    "string",
]

# STRICT tables of SQLite know INTEGER and REAL, both of 64 bits; elsewhere those names are narrower.
INT64: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
FLOAT64: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")

# As both engines read them. Such an index answers a statement that has its condition in these very words.
TASK_OPEN: Final = text("ended_at_ms IS NULL AND coalesce(waiting_for, '') <> 'person'")
"""A worker may go on with it; what waits for a person may not."""
TASK_WAITS: Final = text("waiting_since_ms IS NOT NULL")
ATTEMPT_IN_FLIGHT: Final = text("state = 'running'")
ATTEMPT_ENDED: Final = text("ended_at_ms IS NOT NULL")
ATTEMPT_ANSWERED: Final = text("purpose = 'generate' AND state = 'succeeded'")


def integer(name: str, *, null: bool = False) -> Column[int]:
    """Return a column of 64-bit integers."""
    return Column(name, INT64, nullable=null)


def string(name: str, *, null: bool = False) -> Column[str]:
    """Return a column of Unicode text."""
    return Column(name, Text, nullable=null)


def octets(name: str) -> Column[bytes]:
    """Return a column of bytes."""
    return Column(name, LargeBinary, nullable=False)


def partial_index(name: str, *columns: str | TextClause, where: TextClause) -> Index:
    """Return an index of the rows for which a condition holds."""
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


def of_reports() -> tuple[Index, Index]:
    """Return the indexes of ``attempts`` that the views, reports and caps read alone."""
    by_day = Index(
        "attempts_by_day",
        *(text(DAY), "tier", "request_model", "response_model", "purpose", "cost_nano_usd", "exposure_nano_usd"),
        *("tokens_input", "tokens_output", "started_at_ms", "state", "task_id"),
    )
    by_latency = partial_index(
        "attempts_by_latency",
        *(text(DAY), "tier", text(MODEL), "latency_ms", "started_at_ms", "request_model", "response_model"),
        *("purpose", "state"),
        where=ATTEMPT_ANSWERED,
    )
    return by_day, by_latency
