"""The statements of the append and of the reads, as PostgreSQL has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Table

from ledger.envelope import Recorded
from ledger.store import tables as t
from ledger.store.postgres_guards import APPLICATION, POSITIONS_LOCK

__all__ = [
    "CLOSE_RANGE",
    "FIND",
    "FIND_EXACT",
    "IN_FLIGHT",
    "NEWEST",
    "NOW_MS",
    "PAGE",
    "PAYLOADS",
    "PLANNED_ONCE",
    "PROJECTED",
    "PROJECTED_IDS",
    "SALT",
    "STREAM",
    "STREAMS",
    "STREAMS_OF",
    "TASKS_OF_KEYS",
    "locks",
]

# S608 is about SQL made of texts: these are names of our own columns and tables.
EVENT: Final = ", ".join(Recorded._fields)
NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The server's clock."""

STREAMS_OF: Final = f"""
SELECT clock.now_ms, {EVENT} FROM (SELECT {NOW_MS} AS now_ms) AS clock
LEFT JOIN events ON task_id = ANY($1::text[]) ORDER BY task_id, version
"""  # noqa: S608 - see above
PLANNED_ONCE: Final = "SET LOCAL plan_cache_mode = force_generic_plan"
"""What an append runs goes by index, whatever it is given; to plan it takes longer than to run it."""
TASKS_OF_KEYS: Final = "SELECT digest, task_id FROM keys WHERE digest = ANY($1::bytea[])"
IN_FLIGHT: Final = """
SELECT count(*) FROM attempts WHERE state = 'running' AND provider = $1
    AND ($2::text IS NULL OR request_model = $2) AND deadline_ms > $3
"""

STREAM: Final = f"SELECT {EVENT} FROM events WHERE task_id = $1 ORDER BY version"  # noqa: S608 - see above
PAGE: Final = f"SELECT {EVENT} FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"  # noqa: S608 - see above
STREAMS: Final = f"SELECT {EVENT} FROM events WHERE (task_id, version) > ($1, $2) ORDER BY task_id, version LIMIT $3"  # noqa: S608 - see above
CLOSE_RANGE: Final = f"SELECT pg_advisory_xact_lock({APPLICATION}, {POSITIONS_LOCK})"
"""Waits for every transaction that has drawn a position: whoever reads next sees all below the newest."""
NEWEST: Final = "SELECT coalesce(max(position), 0) FROM events"
PAYLOADS: Final = (
    "SELECT slot, salt, bytes FROM payloads WHERE task_id = $1 AND ($2::text IS NULL OR slot = $2) ORDER BY slot"
)
SALT: Final = "SELECT salt FROM salts WHERE name = 'keys'"
FIND_EXACT: Final = "SELECT task_id FROM tasks WHERE task_id = $1"
FIND: Final = """
SELECT task_id FROM tasks WHERE starts_with(task_id, $1) OR right(task_id, length($1)) = $1 ORDER BY task_id LIMIT 2
"""


def _of(table: Table) -> str:
    """Return the column that names the stream a projected row was made from."""
    return "judge_task_id" if table is t.validations else "task_id"


def _projected(table: Table) -> str:
    columns = ", ".join(f'"{column.name}"' for column in table.c)
    order = ", ".join(column.name for column in table.primary_key.columns)
    return f"SELECT {columns} FROM {table.name} WHERE {_of(table)} = $1 ORDER BY {order}"  # noqa: S608 - see above


PROJECTED: Final = tuple(_projected(table) for table in t.PROJECTIONS)
"""The rows that one stream made, a statement for each projection."""

_ids: Final = " UNION ".join(
    f"(SELECT DISTINCT {_of(table)} AS id FROM {table.name} WHERE {_of(table)} > $1 ORDER BY 1 LIMIT $2)"  # noqa: S608 - see above
    for table in (*t.PROJECTIONS, t.payloads, t.keys)
)
PROJECTED_IDS: Final = f"SELECT id FROM ({_ids}) AS named ORDER BY id LIMIT $2"  # noqa: S608 - see above
"""The streams that rows say they belong to."""


def locks(names: Iterable[int]) -> str:
    """Return what takes these locks, in one order everywhere, until the transaction ends."""
    listed = ",".join(str(name) for name in sorted(names))
    return f"SELECT pg_advisory_xact_lock(name) FROM unnest('{{{listed}}}'::bigint[]) AS name"  # noqa: S608 - integers
