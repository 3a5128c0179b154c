"""Taking what was deleted out of the files as well: free pages, the write-ahead log; on a server, saying what is left.

`secure_delete` overwrites what is deleted where it stands. It does not see the copies that SQLite leaves in the free
space of a page when a neighbour's deletion moves rows to another one (tried: up to 14 of 500 deleted texts were still
found). Only a file that is written anew holds none.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from ledger.errors import LedgerBusy
from ledger.store.opening import parse_url
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.waiting import Patience

__all__ = ["Scrubbed", "scrub"]

WRITER_WITHIN_S: Final = 30.0
READER_WITHIN_S: Final = 10.0
"""How long somebody who reads the log may keep it from being cut off."""
ON_A_SERVER: Final = (
    "the rows are deleted. PostgreSQL keeps their bytes in its files until `VACUUM FULL payloads, keys` has written "
    "those tables anew (it locks them meanwhile), and in its write-ahead log, its archive, replicas and base backups "
    "until those are recycled: that is for who runs the server"
)


UNSWEPT: Final = (
    "the file was not written anew (--no-vacuum): the free space of its pages may hold pieces of deleted texts; run "
    "this again without it when there is time"
)


class Scrubbed(NamedTuple):
    """What became of the bytes of deleted rows."""

    done: bool
    """All that this program can do is done."""
    remark: str | None
    """What is left, and what to do about it."""


async def scrub(ledger: str, *, vacuum: bool = True, reader_within_s: float = READER_WITHIN_S) -> Scrubbed:
    """Take deleted rows out of a ledger's files.

    Args:
        ledger: the name of a ledger in which nothing is under way in this process.
        vacuum: write the whole file anew, which takes its size again on the disk while it lasts.
        reader_within_s: how long to wait for others who read.

    Raises:
        LedgerBusy: somebody kept writing.
        LedgerError: the file cannot be written.
    """
    place = parse_url(ledger)
    if not isinstance(place, Path):
        return Scrubbed(done=True, remark=ON_A_SERVER)
    try:
        database = await asyncio.to_thread(connect, place, writer=True)
        try:
            if vacuum:
                await _vacuumed(database, place)
            kept = await _cut_off(database, place, reader_within_s)
            return Scrubbed(kept is None, kept or (None if vacuum else UNSWEPT))
        finally:
            await asyncio.to_thread(database.close)
    except sqlite3.Error as error:
        raise as_ledger_error(error, str(place)) from error


async def _vacuumed(database: sqlite3.Connection, place: Path) -> None:
    patience = Patience(WRITER_WITHIN_S)
    while True:
        try:
            await asyncio.to_thread(database.execute, "VACUUM")
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            if patience.is_over():
                raise LedgerBusy(f"{place}: somebody kept writing; the texts are erased, run this again") from error
        else:
            return
        await patience.wait()


async def _cut_off(database: sqlite3.Connection, place: Path, within_s: float) -> str | None:
    """Write the log into the file and cut it to nothing; who reads an older state of the ledger keeps that from it."""
    patience = Patience(within_s)
    while True:
        found = await asyncio.to_thread(database.execute, "PRAGMA wal_checkpoint(TRUNCATE)")
        if found.fetchone()[0] == 0:
            return None
        if patience.is_over():
            return (
                f"somebody who reads the ledger keeps the texts in {place}-wal: end what has it open (a report, a "
                "shell, a copy under way), and run this again"
            )
        await patience.wait()
