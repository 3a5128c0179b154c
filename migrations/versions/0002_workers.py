"""Workers: who lives, who is about to start what, whose a task is, until when an attempt may run.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INT64: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Sorted by its bytes on every engine, whatever a database's collation is."""

# What the events say, in SQLite's words: a ledger in PostgreSQL is not older than these columns.
# A text that is no JSON was damaged; `verify` tells, and here it says nothing.
FROM_EVENTS = (
    """
    UPDATE tasks SET worker = (
        SELECT CASE WHEN NOT json_valid(data) THEN NULL
                    WHEN type = 'attempt.started' THEN json_extract(data, '$.worker')
                    WHEN type = 'task.submitted' THEN json_extract(data, '$.owner') END
        FROM events
        WHERE events.task_id = tasks.task_id AND type IN ('task.submitted', 'attempt.started', 'task.released')
        ORDER BY version DESC LIMIT 1)
    """,
    """
    UPDATE tasks SET waiting_since_ms = (
        SELECT CASE WHEN json_valid(data) THEN json_extract(data, '$.inputs.decided_at_ms') END
        FROM events WHERE events.task_id = tasks.task_id AND type = 'retry.scheduled'
        ORDER BY version DESC LIMIT 1)
    WHERE waiting_for = 'backoff'
    """,
    """
    UPDATE tasks SET waiting_for = 'breaker'
    WHERE waiting_for = 'backoff' AND 'breaker_open' = (
        SELECT CASE WHEN json_valid(data) THEN json_extract(data, '$.rule') END
        FROM events WHERE events.task_id = tasks.task_id AND type = 'retry.scheduled'
        ORDER BY version DESC LIMIT 1)
    """,
    """
    UPDATE attempts SET deadline_ms = (
        SELECT json_extract(data, '$.deadline_ms')
        FROM events
        WHERE events.task_id = attempts.task_id AND type = 'attempt.started'
            AND CASE WHEN json_valid(data) THEN json_extract(data, '$.attempt') END = attempts.attempt
        ORDER BY version LIMIT 1)
    """,
)


def upgrade() -> None:
    """Add columns, what the events say of them, then indexes and tables."""
    op.add_column("tasks", sa.Column("worker", TEXT))
    op.add_column("tasks", sa.Column("waiting_since_ms", INT64))
    op.add_column("attempts", sa.Column("deadline_ms", INT64))
    if op.get_bind().dialect.name == "sqlite":
        for statement in FROM_EVENTS:
            op.execute(statement)
    _index(
        "tasks_open",
        "tasks",
        ["worker", "not_before_ms", "task_id"],
        "ended_at_ms IS NULL AND coalesce(waiting_for, '') <> 'person'",
    )
    _index("tasks_waiting", "tasks", ["worker", "waiting_since_ms", "task_id"], "waiting_since_ms IS NOT NULL")
    _index("attempts_in_flight", "attempts", ["provider", "request_model", "deadline_ms"], "state = 'running'")
    _index("attempts_ended", "attempts", ["provider", "request_model", "ended_at_ms"], "ended_at_ms IS NOT NULL")
    op.create_table(
        "workers",
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("beats", INT64, nullable=False),
        sa.Column("beat_at_ms", INT64, nullable=False),
        sa.Column("started_at_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("worker", name="workers_pk"),
        sqlite_strict=True,
    )
    op.create_table(
        "claims",
        sa.Column("task_id", TEXT, nullable=False),
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("until_ms", INT64, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="claims_pk"),
        sqlite_strict=True,
    )


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
