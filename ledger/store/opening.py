"""From the name of a ledger to an open store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ledger.errors import ConfigurationError, LedgerCorrupt, LedgerMissing
from ledger.store.protocol import Store
from ledger.store.sqlite import SqliteStore
from ledger.store.sqlite_schema import Found, inspect, problems, refuse
from ledger.store.upgrade import create as create_ledger

__all__ = ["BUSY_DEADLINE_S", "open_sqlite", "open_store", "parse_url"]

BUSY_DEADLINE_S: Final = 30.0
SQLITE: Final = "sqlite:///"
SHOWN_MAX: Final = 80


def parse_url(text: str) -> Path:
    """Return the file that a plain path or ``sqlite:///path`` names.

    Raises:
        ConfigurationError: it names no file, or a database that this version does not know.
    """
    scheme, separator, _ = text.partition("://")
    if scheme.startswith("postgresql") and separator:
        raise ConfigurationError("ledgers in PostgreSQL are not supported yet by this version; use sqlite:///path")
    if separator and not text.startswith(SQLITE):
        raise ConfigurationError(f"{text!r} is no ledger: expected a path or sqlite:///path")
    name = text.removeprefix(SQLITE)
    if not name.strip() or name == ":memory:" or name.startswith("file:") or "\0" in name:
        raise ConfigurationError(f"{text!r} names no file: expected a path or sqlite:///path")
    if separator and "?" in name:
        raise ConfigurationError(f"{text!r} has options, and a ledger takes none: expected sqlite:///path")
    try:
        path = Path(name).expanduser()
        path.exists()  # asks the system, which refuses a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"{text[:SHOWN_MAX]!r} cannot be the name of a ledger: {error}") from error
    return path


async def open_store(url: str, *, create: bool, now_ms: Callable[[], int], guarded: bool = True) -> Store:
    """Open whatever ledger the name stands for; see ``open_sqlite``.

    Raises:
        ConfigurationError: the name is none of a ledger.
        LedgerError: it cannot be opened.
    """
    return await open_sqlite(parse_url(url), create=create, now_ms=now_ms, guarded=guarded)


async def open_sqlite(
    ledger: Path | str,
    *,
    create: bool,
    now_ms: Callable[[], int],
    busy_deadline_s: float = BUSY_DEADLINE_S,
    guarded: bool = True,
) -> SqliteStore:
    """Open a ledger, its guards checked; with ``create`` one that does not exist is made.

    Without ``guarded`` fallen guards do not keep it from being opened: for those who only look, to report them.

    Raises:
        ConfigurationError: the name is none of a file.
        LedgerMissing: there is none, and ``create`` is False.
        LedgerCorrupt: the file is no ledger, or its guards do not stand.
        LedgerVersion: its schema is older or newer than this program's.
        LedgerError: the file cannot be used.
    """
    path = parse_url(ledger) if isinstance(ledger, str) else ledger
    _refuse_place(path, create=create)
    if create and not path.exists():
        await asyncio.to_thread(create_ledger, path)
    store = SqliteStore(path, now_ms=now_ms, busy_deadline_s=busy_deadline_s)
    try:
        await _refuse_content(store, path, create=create)
        if guarded:
            await _refuse_unguarded(store, path)
    except BaseException:
        await store.aclose()
        raise
    return store


def _refuse_place(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise LedgerCorrupt(f"{path} is a folder, not a ledger")
    if not path.exists():
        if not create:
            raise LedgerMissing(
                f"there is no ledger at {path.absolute()}; name another place by --ledger or DISPATCH_LEDGER_URL"
            )
        if not path.parent.is_dir():
            raise LedgerMissing(f"the folder {path.parent} does not exist; make it, or name another place")
    elif not path.is_file():
        raise LedgerCorrupt(f"{path} is no regular file")


async def _refuse_content(store: SqliteStore, path: Path, *, create: bool) -> None:
    """Refuse what is no ledger of ours; where nothing was made yet, whoever may create finishes it."""
    found, revision = await store.run(inspect)
    if found is Found.EMPTY and create:
        await asyncio.to_thread(create_ledger, path)
        found, revision = await store.run(inspect)
    if found is Found.EMPTY:
        raise LedgerMissing(f"{path} holds no ledger yet")
    refuse(str(path), found, revision)


async def _refuse_unguarded(store: SqliteStore, path: Path) -> None:
    fallen = await store.run(problems)
    if fallen:
        raise LedgerCorrupt(f"{path}: {'; '.join(problem.detail for problem in fallen)}")
