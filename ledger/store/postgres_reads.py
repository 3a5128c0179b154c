"""What is read from a ledger in PostgreSQL; each is one function on a reader's connection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ledger.envelope import Payload, Recorded, Stream
from ledger.errors import LedgerCorrupt
from ledger.store import postgres_statements as sql
from ledger.store.postgres_connection import Driver
from ledger.store.postgres_lists import page_of_tasks
from ledger.store.protocol import Projected, TaskQuery, storable

__all__ = [
    "INT64_MAX",
    "closed_newest",
    "find",
    "key_salt",
    "page",
    "payloads",
    "projected",
    "projected_task_ids",
    "rows_at_most",
    "stream",
    "streams",
    "task_of_key",
    "tasks",
]

INT64_MAX: Final = 2**63 - 1


def rows_at_most(limit: int) -> int:
    """Return a limit as the server takes it."""
    return min(max(limit, 0), INT64_MAX)


async def stream(database: Driver, task_id: str) -> Stream:
    """Read one stream."""
    if not _storable(task_id):
        return ()
    return _recorded(await database.fetch(sql.STREAM, task_id))


async def page(database: Driver, after: int, up_to: int, limit: int) -> Stream:
    """Read events by position."""
    return _recorded(await database.fetch(sql.PAGE, after, up_to, rows_at_most(limit)))


async def closed_newest(database: Driver) -> int:
    """Read the newest position when nobody is about to commit a smaller one."""
    async with database.transaction(isolation="read_committed", readonly=True):
        await database.execute(sql.CLOSE_RANGE)
        return int(await database.fetchval(sql.NEWEST))


async def streams(database: Driver, after: tuple[str, int], limit: int) -> Stream:
    """Read events by stream."""
    return _recorded(await database.fetch(sql.STREAMS, *after, rows_at_most(limit)))


async def payloads(database: Driver, task_id: str, slot: str | None) -> tuple[Payload, ...]:
    """Read one text of a task, or all."""
    return tuple(Payload(*row) for row in await database.fetch(sql.PAYLOADS, task_id, slot))


async def task_of_key(database: Driver, digest: bytes) -> str | None:
    """Read whom a key names."""
    return next((task_id for _, task_id in await database.fetch(sql.TASKS_OF_KEYS, [digest])), None)


async def key_salt(database: Driver) -> bytes:
    """Read the salt of the keys."""
    salt = await database.fetchval(sql.SALT)
    if salt is None:
        raise LedgerCorrupt("the salt of the keys is gone from this ledger, so no key can be found; restore a backup")
    return bytes(salt)


async def find(database: Driver, part: str) -> tuple[str, ...]:
    """Find a whole id alone, else at most two that begin or end with ``part``."""
    if not _storable(part):
        return ()
    found = await database.fetch(sql.FIND_EXACT, part) or await database.fetch(sql.FIND, part)
    return tuple(task_id for (task_id,) in found)


async def tasks(database: Driver, query: TaskQuery) -> tuple[Mapping[str, Any], ...]:
    """Read rows of ``tasks``, newest first."""
    if not storable(*query.labels, *query.labels.values()):
        return ()
    text, wanted = page_of_tasks(query)
    if not _storable(*(value for value in wanted if isinstance(value, str))):
        return ()
    return _mappings(await database.fetch(text, *wanted))


async def projected(database: Driver, task_id: str) -> Projected:
    """Read the rows that one stream made, all at one instant."""
    async with database.transaction(isolation="repeatable_read", readonly=True):
        return Projected(*[_mappings(await database.fetch(text, task_id)) for text in sql.PROJECTED])


async def projected_task_ids(database: Driver, after: str, limit: int) -> tuple[str, ...]:
    """Read the streams that projected rows say they come from."""
    return tuple(task_id for (task_id,) in await database.fetch(sql.PROJECTED_IDS, after, rows_at_most(limit)))


def _storable(*texts: str) -> bool:
    """Say whether columns can hold these texts; those of PostgreSQL hold no NUL."""
    return storable(*texts) and not any("\0" in text for text in texts)


def _recorded(rows: Iterable[Sequence[Any]]) -> Stream:
    return tuple(Recorded(*row) for row in rows)


def _mappings(rows: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    return tuple(dict(row) for row in rows)
