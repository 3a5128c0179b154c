"""The ledger's tables, the same columns on every engine.

``events`` is the truth. ``tasks``, ``attempts``, ``decisions``, ``validations`` and ``task_labels`` are computed from
it in the same transaction (``ledger.store.projection``) and can always be made again; ``payloads`` and ``keys`` cannot,
and may be erased. ``workers`` and ``claims`` say who works just now: no history, lost without harm. Times are integer
UTC milliseconds, money integer nano-USD, truth 0 or 1; unknown is NULL.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, Column, Index, MetaData, PrimaryKeyConstraint, Table, UniqueConstraint

from ledger.store.columns import (
    ATTEMPT_ENDED,
    ATTEMPT_IN_FLIGHT,
    FLOAT64,
    INT64,
    TASK_OPEN,
    TASK_WAITS,
    integer,
    octets,
    of_reports,
    partial_index,
    string,
)

__all__ = [
    "METADATA",
    "PROJECTIONS",
    "attempts",
    "claims",
    "decisions",
    "events",
    "keys",
    "payloads",
    "salts",
    "task_labels",
    "tasks",
    "validations",
    "workers",
]

METADATA: Final = MetaData()

events = Table(
    "events",
    METADATA,
    Column("position", INT64, primary_key=True, autoincrement=True),
    string("event_id"),
    string("task_id"),
    integer("version"),
    string("type"),
    integer("schema_version"),
    integer("recorded_at_ms"),
    string("actor"),
    integer("fence"),
    string("data"),
    octets("prev_hash"),
    octets("hash"),
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
    string("task_id"),
    string("kind"),
    string("state"),
    string("waiting_for", null=True),
    integer("not_before_ms", null=True),
    string("tier_requested"),
    string("tier_final", null=True),
    string("model_final", null=True),
    integer("attempt_final", null=True),
    integer("attempts"),
    integer("accepted", null=True),
    integer("created_at_ms"),
    integer("ended_at_ms", null=True),
    integer("cost_nano_usd", null=True),
    integer("cost_known_nano_usd"),
    integer("cost_unknown_attempts"),
    string("idempotency_key", null=True),
    string("replay_of", null=True),
    string("judged_task_id", null=True),
    string("error_type", null=True),
    string("worker", null=True),
    integer("waiting_since_ms", null=True),
    PrimaryKeyConstraint("task_id", name="tasks_pk"),
    Index("tasks_by_time", "created_at_ms", "task_id"),
    # Of a state alone a list merges the tiers, each in order: a list of a million tasks sorts nothing.
    Index("tasks_by_state", "state", "tier_requested", "created_at_ms", "task_id"),
    Index("tasks_by_tier", "tier_requested", "created_at_ms", "task_id"),
    partial_index("tasks_open", "worker", "not_before_ms", "task_id", where=TASK_OPEN),
    # For waits that were set later than now: there are none, unless a clock was set back.
    partial_index("tasks_waiting", "worker", "waiting_since_ms", "task_id", where=TASK_WAITS),
    sqlite_strict=True,
)

attempts = Table(
    "attempts",
    METADATA,
    string("task_id"),
    integer("attempt"),
    string("purpose"),
    integer("step"),
    string("tier"),
    string("provider"),
    string("request_model"),
    string("response_model", null=True),
    string("state"),
    string("error_type", null=True),
    integer("retryable", null=True),
    integer("status_code", null=True),
    integer("started_at_ms"),
    integer("ended_at_ms", null=True),
    integer("latency_ms", null=True),
    integer("ttft_ms", null=True),
    integer("tokens_input", null=True),
    integer("tokens_output", null=True),
    integer("input_uncached_tokens", null=True),
    integer("cache_read_tokens", null=True),
    integer("cache_write_5m_tokens", null=True),
    integer("cache_write_1h_tokens", null=True),
    integer("reasoning_tokens", null=True),
    string("usage_source"),
    integer("provider_requests", null=True),
    integer("cost_nano_usd", null=True),
    integer("exposure_nano_usd", null=True),
    string("price_book", null=True),
    string("finish_reason", null=True),
    string("request_id", null=True),
    string("worker"),
    integer("deadline_ms", null=True),
    PrimaryKeyConstraint("task_id", "attempt", name="attempts_pk"),
    partial_index("attempts_in_flight", "provider", "request_model", "deadline_ms", where=ATTEMPT_IN_FLIGHT),
    partial_index("attempts_ended", "provider", "request_model", "ended_at_ms", where=ATTEMPT_ENDED),
    *of_reports(),
    sqlite_strict=True,
)

decisions = Table(
    "decisions",
    METADATA,
    string("task_id"),
    integer("version"),
    string("decision"),
    string("tier_from", null=True),
    string("tier_to", null=True),
    string("reason"),
    integer("not_before_ms", null=True),
    string("policy_hash"),
    integer("recorded_at_ms"),
    PrimaryKeyConstraint("task_id", "version", name="decisions_pk"),
    sqlite_strict=True,
)

validations = Table(
    "validations",
    METADATA,
    string("task_id", null=True),
    string("judge_task_id"),
    integer("version"),
    integer("judged_attempt", null=True),
    integer("judge_attempt", null=True),
    integer("pass"),
    Column("confidence", FLOAT64, nullable=True),
    integer("escalate"),
    string("error_type", null=True),
    integer("recorded_at_ms"),
    PrimaryKeyConstraint("judge_task_id", "version", name="validations_pk"),
    Index("validations_by_task", "task_id"),
    sqlite_strict=True,
)

task_labels = Table(
    "task_labels",
    METADATA,
    string("task_id"),
    string("key"),
    string("value"),
    integer("created_at_ms"),
    PrimaryKeyConstraint("task_id", "key", name="task_labels_pk"),
    Index("task_labels_by_value", "key", "value", "created_at_ms", "task_id"),
    sqlite_strict=True,
)

payloads = Table(
    "payloads",
    METADATA,
    string("task_id"),
    string("slot"),
    octets("salt"),
    octets("bytes"),
    PrimaryKeyConstraint("task_id", "slot", name="payloads_pk"),
    sqlite_strict=True,
)

keys = Table(
    "keys",
    METADATA,
    octets("digest"),
    string("task_id"),
    UniqueConstraint("digest", name="keys_digest"),
    Index("keys_by_task", "task_id"),
    sqlite_strict=True,
)

salts = Table(
    "salts",
    METADATA,
    string("name"),
    octets("salt"),
    PrimaryKeyConstraint("name", name="salts_pk"),
    sqlite_strict=True,
)

workers = Table(
    "workers",
    METADATA,
    string("worker"),
    integer("beats"),
    integer("beat_at_ms"),
    integer("started_at_ms"),
    PrimaryKeyConstraint("worker", name="workers_pk"),
    sqlite_strict=True,
)

claims = Table(
    "claims",
    METADATA,
    string("task_id"),
    string("worker"),
    integer("until_ms"),
    PrimaryKeyConstraint("task_id", name="claims_pk"),
    sqlite_strict=True,
)

PROJECTIONS: Final = (tasks, attempts, decisions, validations, task_labels)
"""What is computed from the events, by the fields of ``Projected``."""
