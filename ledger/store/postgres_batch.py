"""The rows of a group of appends, written by one statement: an INSERT or UPDATE for each table that has any.

One statement is one message to the server and one back, whatever the number of tables and rows. The rows of a table
go as one JSON text: to encode them as arrays costs the driver five times as much, and the server more. Bytes, and the
events' data, which is JSON itself, go as arrays beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

import orjson
from sqlalchemy import BigInteger, Double, LargeBinary, Table, Text

from ledger.envelope import Append, Recorded
from ledger.store import rows
from ledger.store import tables as t
from ledger.store.postgres_connection import Driver
from ledger.store.projection import Changes, Known

__all__ = ["Batch"]

KINDS: Final[Mapping[type, str]] = {BigInteger: "bigint", Text: "text", LargeBinary: "bytea", Double: "float8"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are written; those in ``by`` name the row, where it is there already."""

    table: Table
    plain: tuple[str, ...]
    """As JSON."""
    raw: tuple[str, ...] = ()
    """As arrays."""
    by: tuple[str, ...] = ()


def _all(table: Table, *raw: str) -> Columns:
    given = {*raw, "position"}  # which the guard gives
    return Columns(table, tuple(str(column.name) for column in table.c if column.name not in given), raw)


def _changed(table: Table, names: Iterable[str], *by: str) -> Columns:
    return Columns(table, (*by, *names), by=by)


TASK_CHANGES: Final = tuple(str(column.name) for column in t.tasks.c if column.name not in rows.SUBMITTED)
WRITTEN: Final[Mapping[str, Columns]] = {
    "events": _all(t.events, "data", "prev_hash", "hash"),
    "payloads": _all(t.payloads, "salt", "bytes"),
    "keys": _all(t.keys, "digest"),
    "tasks_new": _all(t.tasks),
    "tasks_changed": _changed(t.tasks, TASK_CHANGES, "task_id"),
    "attempts_started": _all(t.attempts),
    "attempts_ended": _changed(t.attempts, rows.OUTCOME, "task_id", "attempt"),
    "decisions": _all(t.decisions),
    "validations": _all(t.validations),
    "task_labels": _all(t.task_labels),
}


@dataclass(slots=True)
class Batch:
    """The rows to write, a list for each part of the statement."""

    events: list[dict[str, Any]] = field(default_factory=list)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    tasks_new: list[dict[str, Any]] = field(default_factory=list)
    tasks_changed: list[dict[str, Any]] = field(default_factory=list)
    attempts_started: list[dict[str, Any]] = field(default_factory=list)
    attempts_ended: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    task_labels: list[dict[str, Any]] = field(default_factory=list)

    def add(self, append: Append, events: Sequence[Recorded], known: Known, changes: Changes) -> None:
        """Take up one append's rows, but for its key."""
        self.events += map(_event, events)
        self.payloads += [
            {"task_id": append.task_id, "slot": payload.slot, "salt": payload.salt, "bytes": payload.content}
            for payload in append.payloads
        ]
        if changes.task is None:
            return
        (self.tasks_new if known.task is None else self.tasks_changed).append(changes.task)
        self.attempts_started += [changes.attempts[number] for number in changes.attempts_started]
        ended = set(changes.attempts_ended).difference(changes.attempts_started)
        self.attempts_ended += [changes.attempts[number] for number in sorted(ended)]
        self.decisions += changes.decisions
        self.validations += changes.validations
        self.task_labels += changes.task_labels

    async def write(self, database: Driver) -> dict[str, int]:
        """Write all rows and return the position of each event, by its id."""
        if not self.events:
            return {}
        parts = tuple(part.name for part in fields(self) if getattr(self, part.name))
        values = [value for part in parts for value in _values(WRITTEN[part].raw, getattr(self, part))]
        return dict(await database.fetch(_statement(parts), *values))


def _event(recorded: Recorded) -> dict[str, Any]:
    return {
        "event_id": recorded.event_id,
        "task_id": recorded.task_id,
        "version": recorded.version,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "recorded_at_ms": recorded.recorded_at_ms,
        "actor": recorded.actor,
        "fence": recorded.fence,
        "data": recorded.data,
        "prev_hash": recorded.prev_hash,
        "hash": recorded.hash,
    }


def _values(raw: Sequence[str], many: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the parameters of a part: arrays of the raw columns, then everything else."""
    arrays = [[row.pop(name) for row in many] for name in raw]
    return [*arrays, orjson.dumps(many).decode()]


@lru_cache(maxsize=64)
def _statement(parts: tuple[str, ...]) -> str:
    """Return the statement that writes these parts."""
    written, first = [], 1
    for part in parts:
        columns = WRITTEN[part]
        written.append(f"{part}_written AS ({_part(columns, first)})")
        first += len(columns.raw) + 1
    return f"WITH {', '.join(written)} SELECT event_id, position FROM events_written"  # noqa: S608 - our own names


def _part(columns: Columns, first: int) -> str:
    table, raw, names = columns.table, columns.raw, (*columns.raw, *columns.plain)
    arrays = [f"unnest(${place}::{_kind(table, name)}[])" for place, name in enumerate(raw, first)]
    plain = ", ".join(f'"{name}" {_kind(table, name)}' for name in columns.plain)
    sources = ", ".join((*arrays, f"json_to_recordset(${first + len(raw)}::json) AS ({plain})"))
    quoted = ", ".join(f'"{name}"' for name in names)
    # In the order of the rows, since the guard wants each event to follow the one before.
    given = f"ROWS FROM ({sources}) WITH ORDINALITY AS given({quoted}, place)"
    if columns.by:
        changes = ", ".join(f'"{name}" = given."{name}"' for name in names if name not in columns.by)
        same = " AND ".join(f'changed."{name}" = given."{name}"' for name in columns.by)
        return f"UPDATE {table.name} AS changed SET {changes} FROM {given} WHERE {same}"  # noqa: S608 - our own names
    told = " RETURNING event_id, position" if table is t.events else ""
    return f"INSERT INTO {table.name} ({quoted}) SELECT {quoted} FROM {given} ORDER BY place{told}"  # noqa: S608 - likewise


def _kind(table: Table, name: str) -> str:
    kind = table.c[name].type
    return next(sql for python, sql in KINDS.items() if isinstance(kind, python))
