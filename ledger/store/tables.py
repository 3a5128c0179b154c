"""The ledger's tables, the same columns on every engine.

``events`` is the truth. ``tasks``, ``attempts``, ``decisions``, ``validations`` and ``task_labels`` are computed from
it in the same transaction (``ledger.store.projection``) and can always be made again; ``payloads`` and ``keys`` cannot,
and may be erased. Times are integer UTC milliseconds, money integer nano-USD, truth 0 or 1; unknown is NULL.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

__all__ = [
    "METADATA",
    "PROJECTIONS",
    "attempts",
    "decisions",
    "events",
    "keys",
    "payloads",
    "salts",
    "task_labels",
    "tasks",
    "validations",
]

METADATA: Final = MetaData()

# STRICT tables of SQLite know INTEGER and REAL, both of 64 bits; elsewhere those names are narrower.
INT64: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
FLOAT64: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


def _int(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, INT64, nullable=null)


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _bytes(name: str) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=False)


events = Table(
    "events",
    METADATA,
    Column("position", INT64, primary_key=True, autoincrement=True),
    _text("event_id"),
    _text("task_id"),
    _int("version"),
    _text("type"),
    _int("schema_version"),
    _int("recorded_at_ms"),
    _text("actor"),
    _int("fence"),
    _text("data"),
    _bytes("prev_hash"),
    _bytes("hash"),
    UniqueConstraint("event_id", name="events_event_id"),
    UniqueConstraint("task_id", "version", name="events_stream"),
    CheckConstraint("position > 0", name="events_position_positive"),
    CheckConstraint("length(prev_hash) = 32 AND length(hash) = 32", name="events_hash_length"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

tasks = Table(
    "tasks",
    METADATA,
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
    PrimaryKeyConstraint("task_id", name="tasks_pk"),
    Index("tasks_by_time", "created_at_ms", "task_id"),
    # Of a state alone a list merges the tiers, each in order: a list of a million tasks sorts nothing.
    Index("tasks_by_state", "state", "tier_requested", "created_at_ms", "task_id"),
    Index("tasks_by_tier", "tier_requested", "created_at_ms", "task_id"),
    sqlite_strict=True,
)

attempts = Table(
    "attempts",
    METADATA,
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
    PrimaryKeyConstraint("task_id", "attempt", name="attempts_pk"),
    sqlite_strict=True,
)

decisions = Table(
    "decisions",
    METADATA,
    _text("task_id"),
    _int("version"),
    _text("decision"),
    _text("tier_from", null=True),
    _text("tier_to", null=True),
    _text("reason"),
    _int("not_before_ms", null=True),
    _text("policy_hash"),
    _int("recorded_at_ms"),
    PrimaryKeyConstraint("task_id", "version", name="decisions_pk"),
    sqlite_strict=True,
)

validations = Table(
    "validations",
    METADATA,
    _text("task_id", null=True),
    _text("judge_task_id"),
    _int("version"),
    _int("judged_attempt", null=True),
    _int("judge_attempt", null=True),
    _int("pass"),
    Column("confidence", FLOAT64, nullable=True),
    _int("escalate"),
    _text("error_type", null=True),
    _int("recorded_at_ms"),
    PrimaryKeyConstraint("judge_task_id", "version", name="validations_pk"),
    Index("validations_by_task", "task_id"),
    sqlite_strict=True,
)

task_labels = Table(
    "task_labels",
    METADATA,
    _text("task_id"),
    _text("key"),
    _text("value"),
    _int("created_at_ms"),
    PrimaryKeyConstraint("task_id", "key", name="task_labels_pk"),
    Index("task_labels_by_value", "key", "value", "created_at_ms", "task_id"),
    sqlite_strict=True,
)

payloads = Table(
    "payloads",
    METADATA,
    _text("task_id"),
    _text("slot"),
    _bytes("salt"),
    _bytes("bytes"),
    PrimaryKeyConstraint("task_id", "slot", name="payloads_pk"),
    sqlite_strict=True,
)

keys = Table(
    "keys",
    METADATA,
    _bytes("digest"),
    _text("task_id"),
    UniqueConstraint("digest", name="keys_digest"),
    Index("keys_by_task", "task_id"),
    sqlite_strict=True,
)

salts = Table(
    "salts",
    METADATA,
    _text("name"),
    _bytes("salt"),
    PrimaryKeyConstraint("name", name="salts_pk"),
    sqlite_strict=True,
)

PROJECTIONS: Final = (tasks, attempts, decisions, validations, task_labels)
"""What is computed from the events, by the fields of ``Projected``."""
