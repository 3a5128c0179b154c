"""What SQLite's failures mean for the caller, told by the names of its result codes and never by their words."""

from __future__ import annotations

import sqlite3
from typing import Final

from ledger.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerFull

__all__ = ["as_ledger_error", "is_busy"]

BUSY: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
FULL: Final = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_NOMEM")
CORRUPT: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT")


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether the same statement may succeed a moment later."""
    return _name(error).startswith(BUSY)


def as_ledger_error(error: sqlite3.Error, path: str) -> LedgerError:
    """Return the error that the caller can act upon; it names the file and SQLite's own code."""
    name = _name(error)
    said = f"{path}: {error} ({name or type(error).__name__})"
    if name.startswith(BUSY):
        return LedgerBusy(f"another process holds the ledger's lock: {said}")
    if name.startswith(FULL):
        return LedgerFull(f"the ledger cannot be written or read; is the disk full, or the folder protected? {said}")
    if name.startswith(CORRUPT):
        return LedgerCorrupt(f"the file is damaged or is no SQLite database: {said}")
    if name == "SQLITE_ERROR":
        return LedgerCorrupt(f"a table of the ledger is not as it was made: {said}")
    return LedgerError(f"the ledger cannot be used: {said}")


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
