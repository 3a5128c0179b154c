"""From the name of a ledger to an open store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger.errors import ConfigurationError, LedgerCorrupt, LedgerMissing
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import Store
from ledger.store.sqlite import SqliteStore
from ledger.store.sqlite_schema import Found, inspect, problems, refuse
from ledger.store.sqlite_witness import has_log
from ledger.store.upgrade import Upgraded
from ledger.store.upgrade import create as create_ledger
from ledger.store.upgrade import upgrade as upgrade_file

__all__ = ["BUSY_DEADLINE_S", "driver_needed", "open_sqlite", "open_store", "parse_url", "upgrade_store"]

BUSY_DEADLINE_S: Final = 30.0
SQLITE: Final = "sqlite:///"
SHOWN_MAX: Final = 80


def parse_url(text: str) -> Path | PostgresUrl:
    """Return the file that a plain path or ``sqlite:///path`` names, or the database of a ``postgresql://`` URL.

    Raises:
        ConfigurationError: it names neither.
    """
    scheme, separator, _ = text.partition("://")
    if scheme.startswith("postgresql") and separator:
        return PostgresUrl.parse(text)
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
    """Open whatever ledger the name stands for; see ``open_sqlite``. PostgreSQL keeps its own clock.

    Raises:
        ConfigurationError: the name is none of a ledger, or its driver is not installed.
        LedgerError: it cannot be opened.
    """
    place = parse_url(url)
    if isinstance(place, Path):
        return await open_sqlite(place, create=create, now_ms=now_ms, guarded=guarded)
    with driver_needed():
        from ledger.store.postgres_opening import open_postgres  # noqa: PLC0415 - the driver is an extra
    return await open_postgres(place, create=create, guarded=guarded)


async def upgrade_store(url: str) -> Upgraded:
    """Bring an older ledger up to date; only one in a file has a copy of what it was beside it then.

    Raises:
        ConfigurationError: the name is none of a ledger, or its driver is not installed.
        LedgerError: it cannot be upgraded.
    """
    place = parse_url(url)
    if isinstance(place, Path):
        return await asyncio.to_thread(upgrade_file, place)
    with driver_needed():
        from ledger.store.postgres_migrations import upgrade  # noqa: PLC0415 - the driver is an extra
    return await upgrade(place)


@contextmanager
def driver_needed() -> Iterator[None]:
    """Import what needs the driver of PostgreSQL; where it is not installed, say how to get it.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ConfigurationError(
            "a ledger in PostgreSQL needs its driver: pip install 'dispatch-ledger[postgres]'"
        ) from error


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
    if isinstance(path, PostgresUrl):
        raise ConfigurationError(f"{path} names no file: expected a path or sqlite:///path")
    _refuse_place(path, create=create)
    if create and not path.exists():
        await asyncio.to_thread(create_ledger, path)
    had_log = has_log(path)
    store = SqliteStore(path, now_ms=now_ms, busy_deadline_s=busy_deadline_s)
    try:
        await _refuse_content(store, path, create=create)
        await store.refuse_bereft(had_log=had_log)
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
