"""What is read from an SQLite ledger; each is one function on a connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from ledger.envelope import Payload, Recorded, Stream
from ledger.errors import LedgerCorrupt
from ledger.store import sqlite_statements as sql
from ledger.store.protocol import Problem, Projected, TaskQuery, storable
from ledger.store.sqlite_lists import page_of_tasks
from ledger.store.sqlite_schema import furnishing_problems, problems

__all__ = [
    "check",
    "find",
    "key_salt",
    "legible",
    "newest",
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

T = TypeVar("T")

DAMAGE_MAX: Final = 10
"""Findings of SQLite's own check that are passed on."""


def legible(database: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Read, also where bytes were changed so that a text is no UTF-8: they show as U+FFFD, and the hash tells."""
    try:
        return work(database)
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorname"):
            raise
    # Python's own error, which has no code of SQLite's: a text that it could not decode.
    database.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        return work(database)
    finally:
        database.text_factory = str


def stream(database: sqlite3.Connection, task_id: str) -> Stream:
    """Read one stream."""
    if not storable(task_id):
        return ()
    return _recorded(database, sql.STREAM, {"task_id": task_id})


def page(database: sqlite3.Connection, after: int, limit: int) -> Stream:
    """Read events by position."""
    return _recorded(database, sql.PAGE, {"after": after, "rows": max(limit, 0)})


def newest(database: sqlite3.Connection) -> int:
    """Read the newest event's position."""
    return int(database.execute(sql.NEWEST).fetchone()[0])


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
    row = database.execute(sql.SALT, {"name": "keys"}).fetchone()
    if row is None:
        raise LedgerCorrupt("the salt of the keys is gone from this ledger, so no key can be found; restore a backup")
    return bytes(row[0])


def find(database: sqlite3.Connection, part: str) -> tuple[str, ...]:
    """Find a whole id alone, else at most two that begin or end with ``part``."""
    if not storable(part):
        return ()
    exact = database.execute(sql.FIND_EXACT, {"part": part}).fetchall()
    rows = exact or database.execute(sql.FIND, {"part": part}).fetchall()
    return tuple(task_id for (task_id,) in rows)


def tasks(database: sqlite3.Connection, query: TaskQuery) -> tuple[Mapping[str, Any], ...]:
    """Read rows of ``tasks``, newest first."""
    if not storable(*query.labels, *query.labels.values()):
        return ()
    return _mappings(database, *page_of_tasks(query))


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
    """Look at guards and schema, and let SQLite look at its pages.

    At the indexes as well, which takes twice as long: rows are read through them, and one that was exchanged for
    another hides a whole task from who reads by task, or its cost from reports, while the table still holds it.
    """
    damage = [
        Problem("damaged", None, None, said)
        for (said,) in database.execute(f"PRAGMA integrity_check({DAMAGE_MAX})")
        if said != "ok"
    ]
    return (*problems(database), *furnishing_problems(database), *damage)


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
