"""What stands against limits and caps: read for a whole group of appends, when all of its locks are held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ledger.envelope import Append, Cap, Limit, Stream
from ledger.events import AttemptStarted
from ledger.store import postgres_statements as sql
from ledger.store.caps import DAY_MS, SPENT, Scope, scope_of, spent_from, spent_of
from ledger.store.postgres_connection import Driver
from ledger.store.protocol import Spent

__all__ = ["caps_of", "in_flight", "limits_of", "locked", "spent", "spent_in"]


def limits_of(append: Append) -> tuple[Limit, ...]:
    """Return what an append is limited by, if it starts an attempt."""
    return append.limits if _starts(append) else ()


def caps_of(append: Append) -> tuple[Cap, ...]:
    """Return the caps that an append is held to, if it starts an attempt."""
    return append.caps if _starts(append) else ()


def locked(append: Append) -> list[bytes]:
    """Return the names of what others may not add to meanwhile; a task's own cap goes with its stream."""
    limits = [b"limit " + limit.provider.encode() for limit in limits_of(append)]
    return limits + [b"cap " + _name(cap) for cap in caps_of(append) if not cap.of_task]


def _name(cap: Cap) -> bytes:
    """Name what a cap counts, whatever its limit is: two programs may be configured differently."""
    return "\0".join((cap.tier or "", *(cap.label or ()))).encode()


def _starts(append: Append) -> bool:
    return any(isinstance(new.event, AttemptStarted) for new in append.events)


async def in_flight(database: Driver, appends: Iterable[Append], now_ms: int) -> dict[Limit, int]:
    """Count the attempts that take a place of the limits."""
    limits = {limit for append in appends for limit in limits_of(append)}
    return {
        limit: await database.fetchval(sql.IN_FLIGHT, limit.provider, limit.model, now_ms - limit.grace_ms)
        for limit in limits
    }


async def spent_in(
    database: Driver, appends: Sequence[Append], streams: Mapping[str, Stream], now_ms: int
) -> dict[Scope, Spent]:
    """Sum what stands against the caps on the day on which each append's start will be recorded."""
    scopes: set[Scope] = set()
    for append in appends:
        stream = streams.get(append.task_id, ())
        at_ms = max(now_ms, stream[-1].recorded_at_ms) if stream else now_ms
        scopes |= {scope_of(cap, at_ms) for cap in caps_of(append) if not cap.of_task}
    return {scope: spent_from(await database.fetchrow(SPENT, *scope.values())) for scope in scopes}


async def spent(database: Driver, cap: Cap, task_id: str, at_ms: int) -> Spent:
    """Return what stands against a cap."""
    if not cap.of_task:
        return spent_from(await database.fetchrow(SPENT, *Scope(at_ms // DAY_MS, cap.tier, cap.label).values()))
    query = "SELECT state, cost_nano_usd, exposure_nano_usd FROM attempts WHERE task_id = $1"
    return spent_of(await database.fetch(query, task_id))
