"""Who lives, whose the open tasks are, and who is about to start what, by the server's clock.

Every statement reads its rows out of an index in their order. Tasks that another worker is claiming at this instant
are passed over, not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.store import tables as t
from ledger.store.postgres_connection import Driver
from ledger.store.postgres_reads import rows_at_most
from ledger.store.postgres_statements import NOW_MS
from ledger.store.protocol import Worker

__all__ = ["CLAIM_ARMS", "beat", "claim", "ended_attempts", "leave", "now_ms", "owners", "unclaim", "workers"]

CLOCK_SET_BACK_MS: Final = 60_000
"""What is this much further ahead than it can be was written before a clock was set back."""

# S608 is about SQL made of texts: these are our own words. The conditions are those of the partial indexes.
OPEN: Final = "ended_at_ms IS NULL AND coalesce(waiting_for, '') <> 'person'"
WAITS: Final = "waiting_since_ms IS NOT NULL"
FREE: Final = """
NOT EXISTS (SELECT FROM claims WHERE claims.task_id = tasks.task_id AND claims.worker <> $2
            AND until_ms > $3::bigint AND until_ms <= $4::bigint)
"""


# The order is an index's, its first column included: by a shorter one the planner may walk through all tasks that
# ever were in the order of their ids, expecting open ones everywhere.
def _arm(since: str, order: str, where: str, owner: str) -> str:
    return (
        f"SELECT {since} AS due_ms, task_id FROM tasks WHERE {owner} AND {where} AND {FREE} "  # noqa: S608 - see above
        f"ORDER BY {order} LIMIT $5 FOR UPDATE SKIP LOCKED"
    )


def _arms(owner: str) -> tuple[str, ...]:
    set_back = f"{WAITS} AND waiting_since_ms > $3::bigint + {CLOCK_SET_BACK_MS} AND not_before_ms > $3::bigint"
    return (
        _arm("created_at_ms", "worker, not_before_ms, task_id", f"{OPEN} AND not_before_ms IS NULL", owner),
        _arm("not_before_ms", "worker, not_before_ms, task_id", f"{OPEN} AND not_before_ms <= $3::bigint", owner),
        _arm("not_before_ms", "worker, waiting_since_ms, task_id", set_back, owner),
    )


CLAIM_ARMS: Final = {False: _arms("worker = $1"), True: _arms("worker IS NULL AND $1::text IS NULL")}
"""An owner's free tasks: the ready ones, those whose wait is over, and those whose wait was set before the clock was
set back; by whether they are nobody's."""

CLAIM: Final = """
INSERT INTO claims (task_id, worker, until_ms) SELECT task_id, $2, $3 FROM unnest($1::text[]) AS task_id
ON CONFLICT (task_id) DO UPDATE SET worker = excluded.worker, until_ms = excluded.until_ms
    WHERE claims.worker = excluded.worker OR claims.until_ms <= $4 OR claims.until_ms > $5
RETURNING task_id
"""
"""Looks again at claims that were made since the tasks were read."""
VOID: Final = """
DELETE FROM claims WHERE task_id IN
    (SELECT task_id FROM claims WHERE until_ms <= $1 OR until_ms > $2 FOR UPDATE SKIP LOCKED)
"""
UNCLAIM: Final = "DELETE FROM claims WHERE worker = $1 AND task_id = ANY($2::text[])"
BEAT: Final = """
INSERT INTO workers (worker, beats, beat_at_ms, started_at_ms) VALUES ($1, 1, $2, $2)
ON CONFLICT (worker) DO UPDATE SET beats = workers.beats + 1, beat_at_ms = excluded.beat_at_ms
"""
WORKERS: Final = "SELECT worker, beats, $1 - beat_at_ms FROM workers ORDER BY worker"
OWNERLESS: Final = f"SELECT worker FROM tasks WHERE {OPEN} AND worker IS NULL LIMIT 1"  # noqa: S608 - see above
OWNERS: Final = f"""
WITH RECURSIVE chain AS (
    (SELECT worker FROM tasks WHERE {OPEN} AND worker IS NOT NULL ORDER BY worker LIMIT 1)
    UNION ALL
    SELECT (SELECT worker FROM tasks WHERE {OPEN} AND worker > chain.worker ORDER BY worker LIMIT 1)
    FROM chain WHERE chain.worker IS NOT NULL
)
SELECT worker FROM chain WHERE worker IS NOT NULL
"""  # noqa: S608 - see above
_attempt: Final = ", ".join(f'"{column.name}"' for column in t.attempts.c)
ENDED: Final = f"""
SELECT {_attempt} FROM attempts WHERE ended_at_ms IS NOT NULL AND provider = $1 AND request_model = $2
ORDER BY ended_at_ms DESC, task_id DESC, attempt DESC LIMIT $3
"""  # noqa: S608 - see above


async def now_ms(database: Driver) -> int:
    """Read the server's clock."""
    return int(await database.fetchval(f"SELECT {NOW_MS}"))


async def beat(database: Driver, at_ms: int, worker: str) -> None:
    """Note that a worker lives."""
    await database.execute(BEAT, worker, at_ms)


async def leave(database: Driver, worker: str) -> None:
    """Forget a worker and its claims."""
    async with database.transaction():
        await database.execute("DELETE FROM workers WHERE worker = $1", worker)
        await database.execute("DELETE FROM claims WHERE worker = $1", worker)


async def workers(database: Driver, at_ms: int) -> tuple[Worker, ...]:
    """Read who has beaten and not left."""
    return tuple(Worker(*row) for row in await database.fetch(WORKERS, at_ms))


async def owners(database: Driver) -> tuple[str | None, ...]:
    """Read whose the open tasks are; None first."""
    found = [*await database.fetch(OWNERLESS), *await database.fetch(OWNERS)]
    return tuple(owner for (owner,) in found)


async def claim(
    database: Driver, at_ms: int, worker: str, of: Sequence[str | None], limit: int, for_ms: int
) -> tuple[str, ...]:
    """Reserve what is due, and sweep out the claims that are void."""
    until_ms = at_ms + for_ms
    until_ms_max = until_ms + CLOCK_SET_BACK_MS
    rows = rows_at_most(limit)
    # In a transaction of its own: two that sweep and claim at once could otherwise wait for each other in a ring.
    await database.execute(VOID, at_ms, until_ms_max)
    async with database.transaction():
        found: list[tuple[int, str]] = []
        for owner in dict.fromkeys(of):
            for arm in CLAIM_ARMS[owner is None]:
                found += [tuple(row) for row in await database.fetch(arm, owner, worker, at_ms, until_ms_max, rows)]
        chosen = [task_id for _, task_id in sorted(found)[:rows]]
        taken = await database.fetch(CLAIM, chosen, worker, until_ms, at_ms, until_ms_max) if chosen else ()
    mine = {task_id for (task_id,) in taken}
    return tuple(task_id for task_id in chosen if task_id in mine)


async def unclaim(database: Driver, worker: str, task_ids: Sequence[str]) -> None:
    """Give back what the worker has claimed of these."""
    await database.execute(UNCLAIM, worker, list(task_ids))


async def ended_attempts(database: Driver, provider: str, model: str, limit: int) -> tuple[Mapping[str, Any], ...]:
    """Read rows of ``attempts``, the last to end first."""
    return tuple(dict(row) for row in await database.fetch(ENDED, provider, model, rows_at_most(limit)))
