"""Create the schema of a ledger in PostgreSQL and bring an old one up to date, one at a time, in one transaction.

Alembic is imported here only when there is something to migrate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.errors import LedgerCorrupt, LedgerMissing
from ledger.store.postgres_connection import Driver, checked_out, engine
from ledger.store.postgres_errors import FAILURES, as_ledger_error
from ledger.store.postgres_guards import APPLICATION, SCHEMA_LOCK
from ledger.store.postgres_schema import inspect, problems, refuse
from ledger.store.postgres_url import PostgresUrl
from ledger.store.sqlite_schema import Found
from ledger.store.upgrade import SHIPPED, Migrations, Upgraded

__all__ = ["create", "upgrade"]

WAIT_S: Final = 30
"""How long whoever is appending, or creating at the same time, is waited for."""


async def create(url: PostgresUrl, migrations: Migrations = SHIPPED) -> None:
    """Give a database the schema; whoever comes second finds it there.

    Raises:
        LedgerError: it cannot be made, or is not ours.
    """
    async with _exclusively(url) as (connection, driver):
        found, revision = await inspect(driver, migrations.revisions)
        refuse(url, found, revision, migrations.revisions)
        if found is Found.EMPTY:
            await _migrate(url, connection, driver, migrations)


async def upgrade(url: PostgresUrl, migrations: Migrations = SHIPPED) -> Upgraded:
    """Bring an older ledger up to date; there is no copy of it as it was: `pg_dump` makes one.

    Raises:
        LedgerMissing: there is no ledger.
        LedgerVersion: it is newer than this program.
        LedgerCorrupt: its guards do not stand; nothing was changed.
        LedgerBusy: somebody kept it from being locked.
    """
    async with _exclusively(url) as (connection, driver):
        found, revision = await inspect(driver, migrations.revisions)
        if found is Found.EMPTY:
            raise LedgerMissing(f"{url} holds no ledger: there is nothing to upgrade")
        if found is not Found.OLDER or revision is None:
            refuse(url, found, revision, migrations.revisions)
            return Upgraded(migrations.revisions[-1], migrations.revisions[-1], None)
        await driver.execute("LOCK TABLE events, tasks IN ACCESS EXCLUSIVE MODE")
        await _migrate(url, connection, driver, migrations)
    return Upgraded(revision, migrations.revisions[-1], None)


@asynccontextmanager
async def _exclusively(url: PostgresUrl) -> AsyncIterator[tuple[AsyncConnection, Driver]]:
    """Hold the lock of the schema, in a transaction that is committed when the block ends well."""
    pool = engine(url, 1, command_within_s=None)  # an index on a large ledger takes its time
    try:
        connection, driver = await checked_out(pool)
        async with aclosing(connection), connection.begin():
            await connection.execute(text(f"SET LOCAL lock_timeout = '{WAIT_S}s'"))
            await driver.execute(f"SELECT pg_advisory_xact_lock({APPLICATION}, {SCHEMA_LOCK})")
            yield connection, driver
    except DBAPIError as error:
        raise as_ledger_error(_cause(error), url) from error
    except FAILURES as error:
        raise as_ledger_error(error, url) from error
    finally:
        await pool.dispose()


async def _migrate(url: PostgresUrl, connection: AsyncConnection, driver: Driver, migrations: Migrations) -> None:
    """Run what is missing inside the transaction that is open, and look at the guards before it is committed."""
    await connection.run_sync(_alembic, migrations)
    fallen = await problems(driver)
    if fallen:
        raise LedgerCorrupt(f"{url}: not migrated: {'; '.join(problem.detail for problem in fallen)}")


def _alembic(connection: Connection, migrations: Migrations) -> None:
    from alembic import command  # noqa: PLC0415 - a second of imports that a ledger up to date never needs
    from alembic.config import Config  # noqa: PLC0415 - likewise

    config = Config()
    config.set_main_option("script_location", str(migrations.folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, migrations.revisions[-1])


def _cause(error: DBAPIError) -> BaseException:
    """Return the driver's own error, which SQLAlchemy wraps twice."""
    original = error.orig or error
    return original.__cause__ or original
