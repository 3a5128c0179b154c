"""A witness in the file's header of commits that stand in the write-ahead log only.

A file that is copied without its log lacks the newest rows and looks whole. So from time to time the header's
``user_version`` is set to 1 and written into the file, and set back to 0 right after, in the log. With its log, or when
it was closed in good order, a ledger reads 0; without the log that it had, 1.

SQLite's own checkpoints would write the 0 into the file. So a writer makes them itself, this way and sooner; what is
left is a copy made before the first mark, or after another program's checkpoint. Anchors tell of that.
"""

from __future__ import annotations

import ctypes
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ledger.errors import LedgerError
from ledger.store.sqlite_connection import connect

__all__ = ["BEREFT", "arm", "disarm", "has_log", "is_armed", "settle"]

BEREFT: Final = (
    "{path} was in use when it was copied or restored, and its write-ahead log {path}-wal is not beside it: the newest "
    "events are missing. Copy the log as well, or restore what `dispatch-ledger db backup` made; to go on without "
    "them, `sqlite3 {path} 'PRAGMA user_version = 0'`"
)


def arm(database: sqlite3.Connection, now_ms: int) -> None:
    """Leave the mark in the file and take it back in the log; outside a transaction, and after a commit.

    Raises:
        sqlite3.Error: the file cannot be written; it may be done again.
    """
    database.execute("PRAGMA user_version = 1")
    try:
        database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        disarm(database, now_ms)


def disarm(database: sqlite3.Connection, now_ms: int) -> None:  # noqa: ARG001 - the writer tells every work the time
    """Take the mark back, where a process was killed between the two.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    database.execute("PRAGMA user_version = 0")


def settle(reader: sqlite3.Connection, path: Path) -> None:
    """Take the mark back before the last connection closes, where it could not be.

    On a disk that takes nothing it cannot. Then a connection is kept for as long as the process lives, so that SQLite
    leaves the log where it is, as after a kill, and the next to open the ledger sets it right.

    Args:
        reader: an open connection.
        path: its file.
    """
    with suppress(sqlite3.Error, LedgerError):
        if not is_armed(reader):
            return
        try:
            with closing(connect(path, writer=True)) as writer:
                disarm(writer, 0)
        except sqlite3.Error:
            kept = connect(path, writer=False)
            is_armed(kept)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # the interpreter closes whatever it can when it ends


def is_armed(database: sqlite3.Connection) -> bool:
    """Say whether the mark is read."""
    return bool(database.execute("PRAGMA user_version").fetchone()[0] == 1)


def has_log(path: Path) -> bool:
    """Say whether a file has a log beside it; to be asked before the file is opened, which makes an empty one."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0
