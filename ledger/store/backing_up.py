"""A copy of a ledger's file, whole and checked, while others go on writing; everything here blocks."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.errors import LedgerCorrupt, LedgerFull, LedgerMissing, RequestRefused
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_errors import as_ledger_error

__all__ = ["Backup", "back_up"]

NEWEST: Final = "SELECT coalesce(max(position), 0) FROM events"


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made."""

    path: Path
    newest: int
    """The position of its newest event."""
    octets: int


def back_up(ledger: Path, to: Path | None = None) -> Backup:
    """Copy a ledger's file, with what stands in its write-ahead log, into a file that only we may read.

    The copy is a ledger as it stood at one instant, in one file, without a log. It has its name when all of it is on
    the disk and SQLite has looked at its pages.

    Args:
        ledger: the file of a ledger; writers are not held up.
        to: a file that does not exist; None is beside the ledger, named by the position of the newest event.

    Raises:
        LedgerMissing: there is no such ledger.
        RequestRefused: the copy's name is taken.
        LedgerFull: the copy cannot be written.
        LedgerCorrupt: the ledger is damaged.
    """
    if not ledger.is_file():
        raise LedgerMissing(f"there is no ledger at {ledger}")
    try:
        if to is not None and to.exists():
            raise RequestRefused(f"{to} exists already, and a backup overwrites nothing; name another file", field="to")
        descriptor, unfinished = tempfile.mkstemp(prefix=".backup.", dir=(to or ledger).parent)
        os.close(descriptor)
    except OSError as error:
        raise LedgerFull(f"no backup can be made in {(to or ledger).parent}: {error.strerror}") from error
    try:
        newest = _copied(ledger, Path(unfinished))
        _synced(Path(unfinished))
        path = _named(Path(unfinished), ledger, to, newest)
    except sqlite3.Error as error:
        raise as_ledger_error(error, str(ledger)) from error
    except OSError as error:
        raise LedgerFull(f"no backup can be made: {error.strerror}") from error
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            Path(f"{unfinished}{end}").unlink(missing_ok=True)
    _synced(path.parent)
    return Backup(path, newest, path.stat().st_size)


def _copied(ledger: Path, copy: Path) -> int:
    """Write the copy, look at it, and return the position of its newest event."""
    with contextlib.closing(connect(ledger, writer=True)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as made:
        made.execute("PRAGMA user_version = 0")
        (found,) = made.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise LedgerCorrupt(f"{ledger} cannot be copied, it is damaged: {found}")
        return int(made.execute(NEWEST).fetchone()[0])


def _named(made: Path, ledger: Path, to: Path | None, newest: int) -> Path:
    """Give the copy its name; a link, unlike a new name, takes none that is there.

    Raises:
        OSError: somebody else took the name meanwhile.
    """
    if to is not None:
        os.link(made, to)
        return to
    for number in itertools.count(1):
        path = ledger.with_name(f"{ledger.name}.{newest}.backup" + (f"-{number}" if number > 1 else ""))
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
            break
    return path


def _synced(place: Path) -> None:
    """Make a file's bytes durable, or the names in a folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
