"""What an SQLite file is: which schema it has, and whether the guards of its events stand as they were made."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from ledger.errors import LedgerCorrupt, LedgerVersion
from ledger.store.protocol import Problem
from ledger.store.tables import METADATA
from ledger.store.views import INDEXES, SQLITE_VIEWS

__all__ = ["REVISIONS", "Found", "furnishing_problems", "inspect", "problems", "refuse"]

APPLICATION_ID: Final = 0x646C6467
"""``dldg`` in the header of the file."""

REVISIONS: Final = ("0001", "0002", "0003")
"""The schema's versions in their order; the last is this program's."""

FINGERPRINT: Final = {
    "table events": "3c7c530b94f2a2980421c11c6f0016200e4360ceca31f23f88de6e24ace15890",
    "trigger events_no_delete": "93629b2a2308e83a7268427caa5ae3da52e0374db06c9e7410ee473d7848f812",
    "trigger events_no_update": "e7d50181532f6f59d043e9fff4012755214c2e1b0cc96e499ab2621a88be3b31",
    "trigger events_only_append": "be60368ac2703cf7d73d33ca464ddb7cd264611056c4ddbb0833cfbbda640f6f",
}
"""SHA-256 of the text that made each guard, white space aside. Frozen: a migration may add a line, never change one."""


class Found(StrEnum):
    """What a file turned out to be."""

    EMPTY = "empty"
    FOREIGN = "foreign"
    OLDER = "older"
    NEWER = "newer"
    CURRENT = "current"


def inspect(database: sqlite3.Connection, revisions: Sequence[str] = REVISIONS) -> tuple[Found, str | None]:
    """Return what the file is and the revision of its schema."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return Found.EMPTY, None
    (application_id,) = database.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID or "alembic_version" not in tables:
        return Found.FOREIGN, None
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    revision = None if row is None else str(row[0])
    if revision == revisions[-1]:
        return Found.CURRENT, revision
    return Found.OLDER if revision in revisions else Found.NEWER, revision


def refuse(path: str, found: Found, revision: str | None, revisions: Sequence[str] = REVISIONS) -> None:
    """Raise what keeps this program from using a file that holds something.

    Raises:
        LedgerCorrupt: it is somebody else's database.
        LedgerVersion: its schema is older or newer.
    """
    match found:
        case Found.FOREIGN:
            raise LedgerCorrupt(f"{path} is an SQLite database, but not a ledger; name another file")
        case Found.OLDER:
            raise LedgerVersion(
                f"{path} has schema {revision}, this program needs {revisions[-1]}: run `dispatch-ledger db upgrade`"
            )
        case Found.NEWER:
            raise LedgerVersion(
                f"{path} has schema {revision}, which is newer than this program's {revisions[-1]}: upgrade the program"
            )
        case Found.EMPTY | Found.CURRENT:
            return


def problems(database: sqlite3.Connection) -> list[Problem]:
    """Compare guards and tables with what they have to be."""
    rows = database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    found = {f"{kind} {name}": fingerprint(text) for kind, name, text in rows}
    guards = [_guard(name, expected, found.get(name)) for name, expected in FINGERPRINT.items()]
    strangers = [
        Problem("guard_unexpected", None, None, f"{name} was not made by the ledger; it can change or swallow rows")
        for name in sorted(found.keys() - FINGERPRINT.keys())
        if name.startswith("trigger ")
    ]
    return [problem for problem in guards if problem is not None] + strangers + _missing_columns(database)


def _guard(name: str, expected: str, actual: str | None) -> Problem | None:
    if actual == expected:
        return None
    if actual is None:
        return Problem("guard_missing", None, None, f"{name} is missing: events are not protected")
    return Problem("guard_changed", None, None, f"{name} is not as it was made: events are not protected")


def _missing_columns(database: sqlite3.Connection) -> list[Problem]:
    missing = []
    for table in METADATA.sorted_tables:
        there = {row[1] for row in database.execute(f"PRAGMA table_info({table.name})")}
        absent = [column.name for column in table.c if column.name not in there]
        if absent:
            missing.append(Problem("schema", None, None, f"table {table.name} lacks {', '.join(absent)}"))
    return missing


def furnishing_problems(database: sqlite3.Connection) -> list[Problem]:
    """Look for the views and indexes: without them nothing is lost, and questions have no answer or a slow one."""
    rows = database.execute("SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    found = {name: fingerprint(text) for name, text in rows}
    made = {f"index {name}": text for name, text in INDEXES.items()}
    made |= {f"view {name}": text for name, text in SQLITE_VIEWS.items()}
    indexes = {f"index {index.name}" for table in METADATA.sorted_tables for index in table.indexes}
    lacking = [f"{name} is missing" for name in sorted({*made, *indexes} - found.keys())]
    changed = [
        f"{name} is not as it was made" for name in made if found.get(name, "") not in {"", fingerprint(made[name])}
    ]
    return [
        Problem("schema", None, None, f"{said}: `dispatch-ledger db rebuild` makes it") for said in lacking + changed
    ]


def fingerprint(text: str) -> str:
    """Return the SHA-256 of a statement whose white space is reduced to single spaces."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
