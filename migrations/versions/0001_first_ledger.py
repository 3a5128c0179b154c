"""The first ledger: events behind their guards, projections, payloads, keys.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

from ledger.store import postgres_guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INT64: TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLOAT64: TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
TEXT: TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Sorted by its bytes on every engine, whatever a database's collation is."""

APPLICATION_ID = 0x646C6467
"""``dldg``: what ``file`` and we see in the header of an SQLite ledger."""

# Frozen as text: how a library writes the same table may change, what a ledger's guards are compared with may not.
EVENTS = """
CREATE TABLE events (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    recorded_at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    fence INTEGER NOT NULL,
    data TEXT NOT NULL,
    prev_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    CONSTRAINT events_event_id UNIQUE (event_id),
    CONSTRAINT events_stream UNIQUE (task_id, version),
    CONSTRAINT events_position_positive CHECK (position > 0),
    CONSTRAINT events_hash_length CHECK (length(prev_hash) = 32 AND length(hash) = 32)
) STRICT
"""

GUARDS = (
    """
    CREATE TRIGGER events_no_update BEFORE UPDATE ON events
    BEGIN
        SELECT RAISE(ABORT, 'events are never changed');
    END
    """,
    """
    CREATE TRIGGER events_no_delete BEFORE DELETE ON events
    BEGIN
        SELECT RAISE(ABORT, 'events are never deleted');
    END
    """,
    # Without a position of its own a new row shows NULL or -1 here.
    """
    CREATE TRIGGER events_only_append BEFORE INSERT ON events
    WHEN NEW.version IS NOT 1 + coalesce((SELECT max(version) FROM events WHERE task_id = NEW.task_id), 0)
        OR NEW.prev_hash IS NOT coalesce(
            (SELECT hash FROM events WHERE task_id = NEW.task_id AND version = NEW.version - 1), zeroblob(32))
        OR EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
        OR (NEW.position <> -1 AND NEW.position <= (SELECT max(position) FROM events))
    BEGIN
        SELECT RAISE(ABORT, 'events are only appended: next version, linked hash, new event_id and position');
    END
    """,
)


def upgrade() -> None:
    """Create everything."""
    if op.get_bind().dialect.name == "sqlite":
        for statement in (EVENTS, *GUARDS):
            op.execute(statement)
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    else:
        schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
        for statement in postgres_guards.statements(schema):
            op.execute(statement)
    _tasks()
    _attempts()
    _other_projections()
    _erasable()
    salts = sa.table("salts", sa.column("name", TEXT), sa.column("salt", sa.LargeBinary))
    op.bulk_insert(salts, [{"name": "keys", "salt": os.urandom(32)}])


def _int(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, INT64, nullable=null)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=null)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _tasks() -> None:
    op.create_table(
        "tasks",
        _text("task_id"),
        _text("kind"),
        _text("state"),
        _text("waiting_for", null=True),
        _int("not_before_ms", null=True),
        _text("tier_requested"),
        _text("tier_final", null=True),
        _text("model_final", null=True),
        _int("attempt_final", null=True),
        _int("attempts"),
        _int("accepted", null=True),
        _int("created_at_ms"),
        _int("ended_at_ms", null=True),
        _int("cost_nano_usd", null=True),
        _int("cost_known_nano_usd"),
        _int("cost_unknown_attempts"),
        _text("idempotency_key", null=True),
        _text("replay_of", null=True),
        _text("judged_task_id", null=True),
        _text("error_type", null=True),
        sa.PrimaryKeyConstraint("task_id", name="tasks_pk"),
        sqlite_strict=True,
    )
    op.create_index("tasks_by_time", "tasks", ["created_at_ms", "task_id"])
    op.create_index("tasks_by_state", "tasks", ["state", "tier_requested", "created_at_ms", "task_id"])
    op.create_index("tasks_by_tier", "tasks", ["tier_requested", "created_at_ms", "task_id"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        _text("task_id"),
        _int("attempt"),
        _text("purpose"),
        _int("step"),
        _text("tier"),
        _text("provider"),
        _text("request_model"),
        _text("response_model", null=True),
        _text("state"),
        _text("error_type", null=True),
        _int("retryable", null=True),
        _int("status_code", null=True),
        _int("started_at_ms"),
        _int("ended_at_ms", null=True),
        _int("latency_ms", null=True),
        _int("ttft_ms", null=True),
        _int("tokens_input", null=True),
        _int("tokens_output", null=True),
        _int("input_uncached_tokens", null=True),
        _int("cache_read_tokens", null=True),
        _int("cache_write_5m_tokens", null=True),
        _int("cache_write_1h_tokens", null=True),
        _int("reasoning_tokens", null=True),
        _text("usage_source"),
        _int("provider_requests", null=True),
        _int("cost_nano_usd", null=True),
        _int("exposure_nano_usd", null=True),
        _text("price_book", null=True),
        _text("finish_reason", null=True),
        _text("request_id", null=True),
        _text("worker"),
        sa.PrimaryKeyConstraint("task_id", "attempt", name="attempts_pk"),
        sqlite_strict=True,
    )


def _other_projections() -> None:
    op.create_table(
        "decisions",
        _text("task_id"),
        _int("version"),
        _text("decision"),
        _text("tier_from", null=True),
        _text("tier_to", null=True),
        _text("reason"),
        _int("not_before_ms", null=True),
        _text("policy_hash"),
        _int("recorded_at_ms"),
        sa.PrimaryKeyConstraint("task_id", "version", name="decisions_pk"),
        sqlite_strict=True,
    )
    op.create_table(
        "validations",
        _text("task_id", null=True),
        _text("judge_task_id"),
        _int("version"),
        _int("judged_attempt", null=True),
        _int("judge_attempt", null=True),
        _int("pass"),
        sa.Column("confidence", FLOAT64, nullable=True),
        _int("escalate"),
        _text("error_type", null=True),
        _int("recorded_at_ms"),
        sa.PrimaryKeyConstraint("judge_task_id", "version", name="validations_pk"),
        sqlite_strict=True,
    )
    op.create_index("validations_by_task", "validations", ["task_id"])
    op.create_table(
        "task_labels",
        _text("task_id"),
        _text("key"),
        _text("value"),
        _int("created_at_ms"),
        sa.PrimaryKeyConstraint("task_id", "key", name="task_labels_pk"),
        sqlite_strict=True,
    )
    op.create_index("task_labels_by_value", "task_labels", ["key", "value", "created_at_ms", "task_id"])


def _erasable() -> None:
    op.create_table(
        "payloads",
        _text("task_id"),
        _text("slot"),
        _bytes("salt"),
        _bytes("bytes"),
        sa.PrimaryKeyConstraint("task_id", "slot", name="payloads_pk"),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        _bytes("digest"),
        _text("task_id"),
        sa.UniqueConstraint("digest", name="keys_digest"),
        sqlite_strict=True,
    )
    op.create_index("keys_by_task", "keys", ["task_id"])
    op.create_table(
        "salts",
        _text("name"),
        _bytes("salt"),
        sa.PrimaryKeyConstraint("name", name="salts_pk"),
        sqlite_strict=True,
    )
