"""Kinds of columns that are alike on every engine, and the conditions of partial indexes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import REAL, BigInteger, Column, Double, Index, Integer, LargeBinary, Text, TextClause, text
from sqlalchemy.types import TypeEngine

__all__ = [
    "ATTEMPT_ENDED",
    "ATTEMPT_IN_FLIGHT",
    "FLOAT64",
    "INT64",
    "TASK_OPEN",
    "TASK_WAITS",
    "integer",
    "octets",
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


def integer(name: str, *, null: bool = False) -> Column[int]:
    """Return a column of 64-bit integers."""
    return Column(name, INT64, nullable=null)


def string(name: str, *, null: bool = False) -> Column[str]:
    """Return a column of Unicode text."""
    return Column(name, Text, nullable=null)


def octets(name: str) -> Column[bytes]:
    """Return a column of bytes."""
    return Column(name, LargeBinary, nullable=False)


def partial_index(name: str, *columns: str, where: TextClause) -> Index:
    """Return an index of the rows for which a condition holds."""
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)
