"""What is read from an SQLite ledger; each is one function on a connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BindParameter, bindparam, exists, select, tuple_

from ledger.envelope import Payload, Recorded, Stream
from ledger.store import sqlite_statements as sql
from ledger.store import tables as t
from ledger.store.protocol import Problem, Projected, TaskQuery
from ledger.store.sqlite_schema import problems

__all__ = [
    "check",
    "find",
    "key_salt",
    "page",
    "payload",
    "payloads",
    "projected",
    "projected_task_ids",
    "stream",
    "streams",
    "task_of_key",
    "tasks",
]

DAMAGE_MAX: Final = 10
"""Findings of SQLite's own check that are passed on."""


def stream(database: sqlite3.Connection, task_id: str) -> Stream:
    """Read one stream."""
    return _recorded(database, sql.STREAM, {"task_id": task_id})


def page(database: sqlite3.Connection, after: int, limit: int) -> Stream:
    """Read events by position."""
    return _recorded(database, sql.PAGE, {"after": after, "rows": max(limit, 0)})


def streams(database: sqlite3.Connection, after: tuple[str, int], limit: int) -> Stream:
    """Read events by stream."""
    return _recorded(database, sql.STREAMS, {"task_id": after[0], "version": after[1], "rows": max(limit, 0)})


def payload(database: sqlite3.Connection, task_id: str, slot: str) -> Payload | None:
    """Read one text."""
    row = database.execute(sql.PAYLOAD, {"task_id": task_id, "slot": slot}).fetchone()
    return None if row is None else Payload(*row)


def payloads(database: sqlite3.Connection, task_id: str) -> tuple[Payload, ...]:
    """Read all texts of a task."""
    return tuple(Payload(*row) for row in database.execute(sql.PAYLOADS, {"task_id": task_id}))


def task_of_key(database: sqlite3.Connection, digest: bytes) -> str | None:
    """Read whom a key names."""
    row = database.execute(sql.TASK_OF_KEY, {"digest": digest}).fetchone()
    return None if row is None else str(row[0])


def key_salt(database: sqlite3.Connection) -> bytes:
    """Read the salt of the keys."""
    (salt,) = database.execute(sql.SALT, {"name": "keys"}).fetchone()
    return bytes(salt)


def find(database: sqlite3.Connection, part: str) -> tuple[str, ...]:
    """Find a whole id alone, else at most two that begin or end with ``part``."""
    exact = database.execute(sql.FIND_EXACT, {"part": part}).fetchall()
    rows = exact or database.execute(sql.FIND, {"part": part}).fetchall()
    return tuple(task_id for (task_id,) in rows)


def tasks(database: sqlite3.Connection, query: TaskQuery) -> tuple[Mapping[str, Any], ...]:
    """Read rows of ``tasks``, newest first."""
    labels = sorted(query.labels)
    wanted: dict[str, Any] = {"state": query.state, "tier": query.tier, "since_ms": query.since_ms}
    given = tuple(name for name, value in wanted.items() if value is not None)
    wanted |= {
        f"label_{index}": query.labels[key].encode() if key == "subject" else query.labels[key]
        for index, key in enumerate(labels)
    }
    wanted |= {f"key_{index}": key for index, key in enumerate(labels)}
    wanted |= dict(zip(("after_ms", "after_id"), query.after or (None, None), strict=True))
    subjects = tuple(key == "subject" for key in labels)
    text = _tasks_text(given, subjects, query.after is not None)
    return _mappings(database, text, wanted | {"rows": max(query.limit, 0)})


@lru_cache(maxsize=64)
def _tasks_text(given: tuple[str, ...], subjects: tuple[bool, ...], paged: bool) -> str:  # noqa: FBT001 - a cache's key
    """Compile the query for the filters that are given; ``subjects`` says which label is a payload."""
    task = t.tasks.c
    filters = {
        "state": task.state == bindparam("state"),
        "tier": task.tier_requested == bindparam("tier"),
        "since_ms": task.created_at_ms >= bindparam("since_ms"),
    }
    statement = select(t.tasks).where(*(filters[name] for name in given))
    for index, is_subject in enumerate(subjects):
        value: BindParameter[Any] = bindparam(f"label_{index}")
        label, text = t.task_labels.c, t.payloads.c
        if is_subject:
            has = (text.task_id == task.task_id, text.slot == "subject", text.bytes == value)
        else:
            has = (label.task_id == task.task_id, label.key == bindparam(f"key_{index}"), label.value == value)
        statement = statement.where(exists().where(*has))
    if paged:
        statement = statement.where(
            tuple_(task.created_at_ms, task.task_id) < tuple_(bindparam("after_ms"), bindparam("after_id"))
        )
    return sql.text_of(statement.order_by(task.created_at_ms.desc(), task.task_id.desc()).limit(bindparam("rows")))


def projected(database: sqlite3.Connection, task_id: str) -> Projected:
    """Read the rows that one stream made, all at one instant."""
    with _Snapshot(database):
        return Projected(*(_mappings(database, text, {"task_id": task_id}) for text in sql.PROJECTED))


def projected_task_ids(database: sqlite3.Connection, after: str, limit: int) -> tuple[str, ...]:
    """Read the streams that projected rows say they come from."""
    found: set[str] = set()
    for text in sql.PROJECTED_IDS:
        found.update(task_id for (task_id,) in database.execute(text, {"after": after, "rows": max(limit, 0)}))
    return tuple(sorted(found)[: max(limit, 0)])


def check(database: sqlite3.Connection) -> tuple[Problem, ...]:
    """Look at guards and schema, and let SQLite look at its pages."""
    damage = [
        Problem("damaged", None, None, said)
        for (said,) in database.execute(f"PRAGMA quick_check({DAMAGE_MAX})")
        if said != "ok"
    ]
    return (*problems(database), *damage)


class _Snapshot:
    """Several reads at one instant."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")


def _recorded(database: sqlite3.Connection, text: str, wanted: Mapping[str, Any]) -> Stream:
    return tuple(Recorded(*row) for row in database.execute(text, wanted))


def _mappings(database: sqlite3.Connection, text: str, wanted: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    cursor = database.execute(text, wanted)
    names = [column[0] for column in cursor.description]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor)
