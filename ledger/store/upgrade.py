"""Create a ledger's schema and bring an old one up to date: one exclusive transaction, a verified backup before.

Alembic is imported here only when there is something to migrate. Everything here blocks: run it in a thread.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from ledger.errors import LedgerBusy, LedgerCorrupt, LedgerFull, LedgerMissing
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.sqlite_schema import REVISIONS, Found, inspect, problems, refuse
from ledger.store.waiting import Patience

__all__ = ["SHIPPED", "Migrations", "Upgraded", "create", "upgrade"]

T = TypeVar("T")

BUSY_DEADLINE_S: Final = 30.0
BACKUPS_MAX: Final = 5
"""Backups tried when somebody keeps writing between the copy and the lock."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """A folder of migrations and their revisions in order."""

    folder: Path
    revisions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What ``upgrade`` did; without a backup there was nothing to do."""

    from_revision: str
    to_revision: str
    backup: Path | None


def _folder() -> Path:
    """Find the migrations: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


SHIPPED: Final = Migrations(_folder(), REVISIONS)


def create(path: Path, migrations: Migrations = SHIPPED) -> None:
    """Give an absent or empty file the schema; whoever comes second finds it there.

    Raises:
        LedgerError: the file cannot be made, or is not ours.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if path.stat().st_size == 0:
            path.chmod(0o600)
    except OSError as error:
        raise LedgerFull(f"no ledger can be made at {path}: {error.strerror}") from error
    with _opened(path) as connection, _exclusively(connection) as database:
        found, revision = inspect(database, migrations.revisions)
        refuse(str(path), found, revision, migrations.revisions)
        if found is Found.EMPTY:
            _migrate(path, connection, database, migrations)


def upgrade(path: Path, migrations: Migrations = SHIPPED) -> Upgraded:
    """Bring an older ledger up to date, leaving a copy of it as it was beside it, whatever happens.

    Raises:
        LedgerMissing: there is no ledger.
        LedgerVersion: it is newer than this program.
        LedgerCorrupt: it is damaged, or its guards do not stand; nothing was changed.
        LedgerBusy: somebody kept writing.
    """
    if not path.is_file():
        raise LedgerMissing(f"there is no ledger at {path}")
    with _opened(path) as connection:
        database = _driver(connection)
        found, revision = inspect(database, migrations.revisions)
        if found is Found.EMPTY:
            raise LedgerMissing(f"{path} holds no ledger: there is nothing to upgrade")
        if found is not Found.OLDER or revision is None:
            refuse(str(path), found, revision, migrations.revisions)
            return Upgraded(migrations.revisions[-1], migrations.revisions[-1], None)
        for _ in range(BACKUPS_MAX):
            backup = _backed_up(path, database, revision)
            if _upgraded(path, connection, migrations, backup):
                return Upgraded(revision, migrations.revisions[-1], backup)
            backup.unlink()
    raise LedgerBusy(f"{path}: somebody kept writing; stop the workers and run the upgrade again")


def _upgraded(path: Path, connection: Connection, migrations: Migrations, backup: Path) -> bool:
    """Migrate, unless events were appended since the backup."""
    with _exclusively(connection) as database:
        if _newest(database) != _verified(backup):
            return False
        _migrate(path, connection, database, migrations)
    return True


def _migrate(path: Path, connection: Connection, database: sqlite3.Connection, migrations: Migrations) -> None:
    """Run what is missing inside the transaction that is open, and look at the guards before it is committed."""
    from alembic import command  # noqa: PLC0415 - a second of imports that a ledger up to date never needs
    from alembic.config import Config  # noqa: PLC0415 - likewise

    config = Config()
    config.set_main_option("script_location", str(migrations.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, migrations.revisions[-1])
    fallen = problems(database)
    if fallen:
        raise LedgerCorrupt(f"{path}: not migrated: {'; '.join(problem.detail for problem in fallen)}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Connection]:
    """Open the file for Alembic; every failure of SQLite becomes one of ours."""
    patience = Patience(BUSY_DEADLINE_S)
    engine = create_engine(
        "sqlite://", creator=lambda: _patiently(patience, lambda: connect(path, writer=True)), poolclass=NullPool
    )
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise as_ledger_error(error.orig, str(path)) from error
        raise
    except sqlite3.Error as error:
        raise as_ledger_error(error, str(path)) from error


@contextlib.contextmanager
def _exclusively(connection: Connection) -> Iterator[sqlite3.Connection]:
    """Hold the file for ourselves; commit when the block ends well."""
    database = _driver(connection)
    with connection.begin():  # Alembic then leaves the transaction, which is ours, alone
        _patiently(Patience(BUSY_DEADLINE_S), lambda: database.execute("BEGIN EXCLUSIVE"))
        yield database


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"expected an SQLite connection, not {type(driver).__name__}")
    return driver


def _patiently(patience: Patience, work: Callable[[], T]) -> T:
    while True:
        try:
            return work()
        except sqlite3.Error as error:
            if not is_busy(error) or patience.is_over():
                raise
        time.sleep(patience.draw_s())


def _backed_up(path: Path, database: sqlite3.Connection, revision: str) -> Path:
    """Copy the ledger, its log included, into a new file that only we may read."""
    for number in itertools.count(1):
        backup = path.with_name(f"{path.name}.{revision}.backup" + (f"-{number}" if number > 1 else ""))
        try:
            os.close(os.open(backup, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            continue
        except OSError as error:
            raise LedgerFull(f"no backup can be made at {backup}: {error.strerror}") from error
        break
    try:
        database.execute("VACUUM INTO ?", (str(backup),))
        _verified(backup)
        _synced(backup)
        _synced(backup.parent)  # or a power cut brings back a journal that would empty the copy
    except BaseException:
        backup.unlink()
        raise
    return backup


def _verified(backup: Path) -> int:
    """Check a copy and return the position of its newest event."""
    with contextlib.closing(connect(backup, writer=False)) as copy:
        (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise LedgerCorrupt(f"the ledger cannot be copied, it is damaged: {found}")
        return _newest(copy)


def _newest(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])


def _synced(place: Path) -> None:
    """Make a file's bytes durable, or the names in a folder."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
