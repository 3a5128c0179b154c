"""What PostgreSQL's failures mean for the caller, told by their SQLSTATE and never by their words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

from ledger.errors import ConfigurationError, DispatchError, LedgerBusy, LedgerCorrupt, LedgerError, LedgerFull
from ledger.errors import LedgerMissing as Missing
from ledger.store.postgres_guards import GUARD_BROKEN
from ledger.store.postgres_url import PostgresUrl

__all__ = ["FAILURES", "as_ledger_error", "is_busy", "is_lost", "is_unstorable", "state"]

FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError)
"""What the driver raises; ``TimeoutError`` is an ``OSError``."""

BUSY: Final = ("40001", "40P01", "53300", "55P03", "57014", "57P03")
"""Serialisation, deadlock, too many connections, lock not available, cancelled, starting up."""
LOST: Final = ("08", "57P01", "57P02", "57P05", "25P03")
"""The connection is gone: broken, ended by an administrator or a crash, idle for too long."""
UNSTORABLE: Final = ("22", "23", GUARD_BROKEN)
"""What is one append's own fault: a value, a constraint, a guard."""

# The longest beginning of a SQLSTATE that stands here says what a failure is and what may be done.
MEANINGS: Final[Mapping[str, tuple[type[DispatchError], str]]] = {
    "08": (LedgerBusy, "the connection to the ledger's server broke; is the server running and reachable?"),
    "25006": (LedgerFull, "the ledger may only be read here; name the primary server, or a database that is writable"),
    "25P03": (LedgerBusy, "the ledger's server ended a transaction that stood still; try again"),
    "28": (LedgerError, "the ledger's server does not let this user in; check user, password and pg_hba.conf"),
    "3D000": (Missing, "there is no such database; make it with `createdb`, or name another one"),
    "3F000": (Missing, "there is no such schema; make it with CREATE SCHEMA, or name another one"),
    "40": (LedgerBusy, "others are at work on the same rows of the ledger; try again"),
    "42501": (LedgerFull, "this user may not do that to the ledger; its owner grants it (docs/postgresql.md)"),
    "42": (LedgerCorrupt, "a table of the ledger is not as it was made"),
    "53100": (LedgerFull, "the disk of the ledger's server is full; make room there"),
    "53200": (LedgerFull, "the ledger's server is out of memory"),
    "53300": (LedgerBusy, "the ledger's server has no connection left; raise max_connections, or start fewer workers"),
    "55P03": (LedgerBusy, "another session holds a lock of the ledger"),
    "57014": (LedgerBusy, "the ledger's server cancelled a statement; try again"),
    "57": (LedgerBusy, "the ledger's server is starting, stopping or was stopped; try again when it runs"),
    "58": (LedgerFull, "the ledger's server cannot use its disk"),
    "XX": (LedgerCorrupt, "the ledger's server found its data damaged"),
    GUARD_BROKEN: (LedgerError, "a guard of the events refused this"),
}


def is_busy(error: BaseException) -> bool:
    """Say whether the same transaction may succeed a moment later."""
    return state(error) in BUSY


def is_lost(error: BaseException) -> bool:
    """Say whether the connection is gone, so that nobody knows what became of its transaction."""
    if isinstance(error, asyncpg.PostgresError):
        return state(error).startswith(LOST)
    # The driver's own errors: a connection that was closed under it, a socket, a server that stopped answering.
    return isinstance(error, OSError | EOFError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_unstorable(error: BaseException) -> bool:
    """Say whether one of the rows is at fault, and not the server."""
    return isinstance(error, asyncpg.DataError) or state(error).startswith(UNSTORABLE)


def as_ledger_error(error: BaseException, url: PostgresUrl) -> DispatchError:
    """Return the error that the caller can act upon; it names the database and the server's own code."""
    code = state(error)
    said = f"{url}: {url.hide(str(error)) or type(error).__name__} ({code or type(error).__name__})"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"the ledger's URL cannot be used: {said}")
    for length in (5, 2):
        if code[:length] in MEANINGS and code:
            kind, meaning = MEANINGS[code[:length]]
            return kind(f"{meaning}: {said}")
    if isinstance(error, TimeoutError):
        return LedgerBusy(f"the ledger's server did not answer in time; is it running and reachable? {said}")
    if is_lost(error):
        return LedgerBusy(f"the ledger's server cannot be reached; is it running, and is the address right? {said}")
    return LedgerError(f"the ledger cannot be used: {said}")


def state(error: BaseException) -> str:
    """Return a failure's SQLSTATE, "" where there is none."""
    return str(getattr(error, "sqlstate", None) or "")
