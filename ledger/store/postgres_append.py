"""A group of appends in one transaction: lock the streams, read them, plan, write, commit.

Streams and keys are locked by advisory locks in one order before anything is read, so that writers on many machines
take turns at a stream and never wait for each other in a ring. What only the constraints can tell (an event id used
elsewhere) breaks the group: it is rolled back and repeated, each append within a savepoint of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ledger.envelope import Append, Limit, Recorded, Stream
from ledger.errors import DispatchError, EventInvalid, LedgerError, VersionConflict
from ledger.events import TaskSubmitted
from ledger.store import postgres_statements as sql
from ledger.store.caps import Purses, check_caps
from ledger.store.groups import Outcome
from ledger.store.limits import check_limits, growth
from ledger.store.postgres_batch import Batch
from ledger.store.postgres_connection import Driver
from ledger.store.postgres_errors import FAILURES, is_lost, is_unstorable
from ledger.store.postgres_errors import state as sqlstate
from ledger.store.postgres_guards import GUARD_BROKEN
from ledger.store.postgres_limits import caps_of, in_flight, limits_of, locked, spent_in
from ledger.store.projection import Changes, Known, project
from ledger.store.protocol import CapReached
from ledger.store.sealing import NEW_STREAM, TAKEN, Head, erased, is_repeat, refuse, sealed, versions

__all__ = ["append_group"]

NOTHING: Final = Known()
TASK_ID: Final = attrgetter("task_id")
BUT_POSITION: Final = attrgetter(*Recorded._fields[1:])
DUPLICATE: Final = "23505"


class Before(NamedTuple):
    """What the ledger holds of a group, and what the group has added to it so far."""

    now_ms: int
    streams: Mapping[str, Stream]
    owners: dict[bytes, str]
    """Whom the keys name."""
    in_flight: dict[Limit, int]
    """How many attempts take a place of a limit."""
    purses: Purses
    newest: int
    """The position of the newest event, where caps are looked at."""

    def take(self, known: Known, changes: Changes, first: Recorded) -> None:
        """Add the attempts of one append to those in flight, and to what is spent."""
        self.purses.add(known, changes, first)
        for limit in self.in_flight:
            more = growth(limit, known.attempts.values(), changes.attempts.values(), self.now_ms)
            self.in_flight[limit] += more


async def append_group(database: Driver, appends: Sequence[Append], now_ms: int | None = None) -> list[Outcome]:
    """Write the appends (each of another stream and key), commit, and return each one's stream or what refused it.

    Args:
        database: the writer's connection, in no transaction.
        appends: what to write.
        now_ms: the clock of ``recorded_at_ms``; None is the server's.

    Raises:
        asyncpg.PostgresError: nothing was written.
        OSError: the connection broke, and nobody knows; so with the driver's own errors.
    """
    try:
        return await _in_transaction(database, appends, now_ms, _write)
    except FAILURES as error:
        if not is_unstorable(error):
            raise
    return await _in_transaction(database, appends, now_ms, _write_apart)


async def _in_transaction(
    database: Driver, appends: Sequence[Append], now_ms: int | None, write: Callable[..., Any]
) -> list[Outcome]:
    names = sql.locks(_names(appends))
    try:
        # In one message. What is read next has a snapshot of its own, taken when all locks are ours.
        await database.execute(f"BEGIN; {sql.PLANNED_ONCE}; {names}")
        outcomes: list[Outcome] = await write(database, appends, now_ms)
        said = await database.execute("COMMIT")
    except FAILURES as error:
        if not is_lost(error):  # else whoever holds the session drops it
            await database.execute("ROLLBACK")
        raise
    if said != "COMMIT":
        raise LedgerError(f"the ledger's server answered {said} to COMMIT; nothing was written")
    return outcomes


def _names(appends: Iterable[Append]) -> set[int]:
    """Return the numbers of the locks: of streams, of keys, of the providers whose places are counted."""
    texts = [b"stream " + append.task_id.encode() for append in appends]
    texts += [b"key " + append.key_digest for append in appends if append.key_digest is not None]
    texts += [name for append in appends for name in locked(append)]
    return {int.from_bytes(sha256(text).digest()[:8], signed=True) for text in texts}


async def _write_apart(database: Driver, appends: Sequence[Append], now_ms: int | None) -> list[Outcome]:
    """Write each append so that its failure leaves the others' rows alone."""
    outcomes: list[Outcome] = []
    if any(map(caps_of, appends)):  # before anything is written: who has written something may not wait for the others
        await database.execute(sql.CLOSE_RANGE)
    for append in appends:
        await database.execute("SAVEPOINT apart")
        try:
            outcomes += await _write(database, (append,), now_ms)
        except FAILURES as error:
            if not is_unstorable(error):
                raise
            await database.execute("ROLLBACK TO apart")
            outcomes.append(_refusal(error))
        await database.execute("RELEASE apart")
    return outcomes


def _refusal(error: BaseException) -> DispatchError:
    """Return what one append's own failure means."""
    if sqlstate(error) == GUARD_BROKEN:
        return VersionConflict("the stream was written to past the ledger's locks; read it again")
    if sqlstate(error) == DUPLICATE:
        return EventInvalid(TAKEN)
    return EventInvalid(f"PostgreSQL cannot store this: {error}")


async def _write(database: Driver, appends: Sequence[Append], now_ms: int | None) -> list[Outcome]:
    """Write what can be written; return each one's stream, or what refused it."""
    before = await _before(database, appends, now_ms)
    batch, outcomes = _planned(appends, before)
    if any(isinstance(outcome, CapReached) for outcome in outcomes):
        # What is told of a cap is true as of a position: nobody else may be about to commit one that is before it.
        await database.execute(sql.CLOSE_RANGE)
        before = await _before(database, appends, now_ms)
        batch, outcomes = _planned(appends, before)
    written = (append for append, outcome in zip(appends, outcomes, strict=True) if isinstance(outcome, tuple))
    gone = [place for append in written for place in erased(append)]
    positions = await batch.write(database)
    if gone:
        await database.executemany("DELETE FROM payloads WHERE task_id = $1 AND slot = $2", gone)
        await database.executemany("DELETE FROM keys WHERE task_id = $1", list({(task_id,) for task_id, _ in gone}))
    return [_told(outcome, before, batch, positions) for outcome in outcomes]


def _planned(appends: Sequence[Append], before: Before) -> tuple[Batch, list[Outcome]]:
    """Return the rows to write, and each append's stream with them, or what refuses it."""
    batch = Batch()
    outcomes: list[Outcome] = []
    for append in appends:
        try:
            outcomes.append(_plan(batch, append, before))
        except DispatchError as refusal:
            outcomes.append(refusal)
    return batch, outcomes


def _told(outcome: Outcome, before: Before, batch: Batch, positions: Mapping[str, int]) -> Outcome:
    """Give an outcome the positions that came with the insert; what was seen of caps is true as of the one before."""
    if not isinstance(outcome, CapReached):
        return outcome if isinstance(outcome, DispatchError) else _placed(outcome, positions)
    ahead = outcome.budgets[0].position
    position = positions[batch.events[ahead - 1]["event_id"]] if ahead else before.newest
    return CapReached(tuple(seen.model_copy(update={"position": position}) for seen in outcome.budgets))


async def _before(database: Driver, appends: Sequence[Append], now_ms: int | None) -> Before:
    found = await database.fetch(sql.STREAMS_OF, [append.task_id for append in appends])
    streams = _streams(found, {append.task_id: append.known for append in appends})
    digests = [append.key_digest for append in appends if append.key_digest is not None]
    owners = await database.fetch(sql.TASKS_OF_KEYS, digests) if digests else []
    at_ms: int = found[0]["now_ms"] if now_ms is None else now_ms
    counts = await in_flight(database, appends, at_ms)
    sums = await spent_in(database, appends, streams, at_ms)
    newest = await database.fetchval(sql.NEWEST) if any(map(caps_of, appends)) else 0
    return Before(at_ms, streams, dict(owners), counts, Purses(sums.__getitem__), newest)


def _streams(found: Iterable[Sequence[Any]], known: Mapping[str, Stream]) -> dict[str, Stream]:
    """Return the streams that were found; what the caller knows of one needs no decoding again."""
    streams: dict[str, Stream] = {}
    for task_id, rows in groupby((Recorded(*row[1:]) for row in found if row[1] is not None), TASK_ID):
        stream, mine = tuple(rows), known[task_id]
        same = mine and stream[: len(mine)][-1].hash == mine[-1].hash
        streams[task_id] = (*mine, *stream[len(mine) :]) if same else stream
    return streams


def _plan(batch: Batch, append: Append, before: Before) -> Stream:
    """Add an append's rows to the batch, none if they are there already; whatever refuses it is raised before."""
    stream = before.streams.get(append.task_id, ())
    first, last = versions(append)
    if is_repeat(append, [recorded for recorded in stream if first <= recorded.version <= last]):
        return stream
    head = Head(stream[-1].version, stream[-1].recorded_at_ms, stream[-1].hash) if stream else NEW_STREAM
    owner = None if append.key_digest is None else before.owners.get(append.key_digest)
    refuse(append, head, owner)
    chain = sealed(append, head, before.now_ms, -len(append.events))  # below 1: positions come with the insert
    known = _known(stream)
    changes = project(known, chain, lambda: [recorded.event() for recorded in stream])
    limits = limits_of(append)
    if limits:
        check_limits(limits, known, changes, before.now_ms, before.in_flight.__getitem__)
    check_caps(caps_of(append), known, changes, before.purses.spent, len(batch.events))
    if append.key_digest is not None and owner is None:
        batch.keys.append({"digest": append.key_digest, "task_id": append.task_id})
    added = [recorded for recorded, _ in chain]
    batch.add(append, added, known, changes)
    before.take(known, changes, (*stream, *added)[0])
    return (*stream, *added)


def _known(stream: Stream) -> Known:
    """Fold what a stream has come to; one that is no task is not read."""
    if all(recorded.type != TaskSubmitted.TYPE for recorded in stream):
        return NOTHING
    changes = project(NOTHING, ((recorded, recorded.event()) for recorded in stream), tuple)
    return Known(changes.task, changes.attempts)


def _placed(stream: Stream, positions: Mapping[str, int]) -> Stream:
    """Give the new events at a stream's end the positions that they were stored at."""
    return tuple(
        recorded if recorded.position > 0 else Recorded(positions[recorded.event_id], *BUT_POSITION(recorded))
        for recorded in stream
    )
