"""A group of appends in one transaction, as one function on the connection's thread.

Everything is checked under the write lock, so a stale version or a taken key costs its neighbours nothing. What only
the constraints can tell (an event id used elsewhere, a stream that is not as new as its append has it) breaks the
group: it is rolled back and repeated, each append within a savepoint of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

from ledger.envelope import Append, Recorded, Stream
from ledger.errors import DispatchError, EventInvalid
from ledger.store import rows
from ledger.store import sqlite_statements as sql
from ledger.store import tables as t
from ledger.store.caps import Purses, check_caps
from ledger.store.limits import Places, check_limits
from ledger.store.projection import Changes, Known, project
from ledger.store.protocol import CapReached, LimitReached
from ledger.store.sealing import NEW_STREAM, TAKEN, Head, erased, is_repeat, refuse, sealed, versions
from ledger.store.sqlite_limits import written_in_flight, written_spent
from ledger.store.sqlite_steps import Insert, array_of, blobs, insert_into, rows_of
from ledger.uncollected import uncollected

__all__ = ["append_group", "recorded_from"]

TASK: Final = tuple(column.name for column in t.tasks.c)
ATTEMPT: Final = tuple(column.name for column in t.attempts.c)
UNSTORABLE: Final = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError)
"""What is one append's own fault: a constraint, or a value that is too big."""
NOTHING: Final = Known()
WANTED: Final = "task_id IN (SELECT value FROM json_each(:{}))"
UNKNOWN: Final = array_of(t.events, WANTED.format("unknown"), "task_id, version")
TASKS: Final = array_of(t.tasks, WANTED.format("all"), "task_id")
ATTEMPTS: Final = array_of(t.attempts, WANTED.format("all"), "task_id, attempt")
# The hash is of the row with the greatest version, as SQLite has it.
NEWEST: Final = f"SELECT task_id, hex(hash) AS hash, max(version) FROM events WHERE {WANTED.format('known')} GROUP BY 1"  # noqa: S608 - our names
HEADS: Final = f"(SELECT json_group_array(json_array(task_id, hash)) FROM ({NEWEST}))"  # noqa: S608 - our names
BEFORE: Final = f"SELECT ({sql.LAST_POSITION}), {UNKNOWN}, {TASKS}, {ATTEMPTS}, {HEADS}"
EVENT_BLOBS: Final = blobs(t.events)

Outcome = Stream | DispatchError


def append_group(database: sqlite3.Connection, appends: Sequence[Append], now_ms: int) -> list[Outcome]:
    """Write the appends (each of another stream and key), commit, and return each one's stream or what refused it.

    Raises:
        sqlite3.Error: nothing was written.
    """
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            with uncollected():
                outcomes = _write(database, appends, now_ms)
        except UNSTORABLE:
            database.execute("ROLLBACK")
            database.execute("BEGIN IMMEDIATE")
            outcomes = [_write_apart(database, append, now_ms) for append in appends]
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return outcomes


def recorded_from(row: Sequence[Any]) -> Recorded:
    """Make the envelope of a row of ``events``, whose columns stand in its order."""
    return Recorded(*row)


class Before(NamedTuple):
    """What the ledger holds of the streams of a group, and the greatest position it ever gave."""

    newest: int
    streams: dict[str, Stream]
    known: dict[str, Known]


INSERT_EVENT: Final = insert_into(t.events, attrgetter)
INSERT_PAYLOAD: Final = insert_into(t.payloads)
INSERT_KEY: Final = insert_into(t.keys)
WRITE_TASK: Final = insert_into(t.tasks, or_set=[name for name in TASK if name not in rows.SUBMITTED])
WRITE_ATTEMPT: Final = insert_into(t.attempts, or_set=rows.OUTCOME)
INSERT_DECISION: Final = insert_into(t.decisions)
INSERT_VALIDATION: Final = insert_into(t.validations)
INSERT_LABEL: Final = insert_into(t.task_labels)


@dataclass(slots=True)
class Batch:
    """The rows to write, a list for each statement."""

    places: Places
    purses: Purses
    events: list[Recorded] = field(default_factory=list)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    task_labels: list[dict[str, Any]] = field(default_factory=list)
    erased: list[tuple[str, str]] = field(default_factory=list)
    """Task and slot of texts to delete."""

    def write(self, database: sqlite3.Connection) -> None:
        """Write the rows there are; first the events, which tell whether a stream is as new as its append has it."""
        statements: tuple[tuple[Insert, Sequence[Any]], ...] = (
            (INSERT_EVENT, self.events),
            (INSERT_PAYLOAD, self.payloads),
            (INSERT_KEY, self.keys),
            (WRITE_TASK, self.tasks),
            (WRITE_ATTEMPT, self.attempts),
            (INSERT_DECISION, self.decisions),
            (INSERT_VALIDATION, self.validations),
            (INSERT_LABEL, self.task_labels),
        )
        for statement, many in statements:
            if many:
                statement.write(database, many)
        if self.erased:
            database.executemany("DELETE FROM payloads WHERE task_id = ? AND slot = ?", self.erased)
            database.executemany("DELETE FROM keys WHERE task_id = ?", {(task_id,) for task_id, _ in self.erased})


def _write_apart(database: sqlite3.Connection, append: Append, now_ms: int) -> Outcome:
    """Write one append so that its failure leaves the others' rows alone."""
    database.execute("SAVEPOINT apart")
    try:
        (outcome,) = _write(database, (append,), now_ms, sure=True)
    except UNSTORABLE as error:
        database.execute("ROLLBACK TO apart")
        taken = isinstance(error, sqlite3.IntegrityError)
        outcome = EventInvalid(TAKEN if taken else f"SQLite cannot store this: {error}")
    database.execute("RELEASE apart")
    return outcome


def _write(
    database: sqlite3.Connection, appends: Sequence[Append], now_ms: int, *, sure: bool = False
) -> list[Outcome]:
    """Write what can be written; return each one's stream, or what refused it.

    Unless it has to be ``sure``, an append that begins a stream is believed: the constraints tell if there is one.
    """
    before = _before(database, [append for append in appends if sure or append.expected_version > 0])
    places = Places(partial(written_in_flight, database, now_ms=now_ms), now_ms)
    batch = Batch(places, Purses(partial(written_spent, database)))
    outcomes: list[Outcome] = []
    for append in appends:
        outcome = _fate(batch, database, append, before, now_ms)
        if isinstance(outcome, LimitReached | CapReached) and append.expected_version == 0:
            # It was only believed: if it is there already, no limit stands in its way.
            outcome = _fate(batch, database, append, _before(database, [append]), now_ms)
        outcomes.append(outcome)
    batch.write(database)
    return outcomes


def _fate(batch: Batch, database: sqlite3.Connection, append: Append, before: Before, now_ms: int) -> Outcome:
    try:
        return _plan(batch, database, append, before, now_ms)
    except DispatchError as refusal:
        return refusal


def _plan(batch: Batch, database: sqlite3.Connection, append: Append, before: Before, now_ms: int) -> Stream:
    """Add an append's rows to the batch, none if they are there already; whatever refuses it is raised before."""
    stream = before.streams.get(append.task_id, ())
    first, last = versions(append)
    if is_repeat(append, [recorded for recorded in stream if first <= recorded.version <= last]):
        return stream
    head = Head(stream[-1].version, stream[-1].recorded_at_ms, stream[-1].hash) if stream else NEW_STREAM
    owner = _key_owner(database, append)
    refuse(append, head, owner)
    chain = sealed(append, head, now_ms, before.newest + len(batch.events))
    known = before.known.get(append.task_id, NOTHING)
    changes = project(known, chain, lambda: [recorded.event() for recorded in stream])
    check_limits(append.limits, known, changes, now_ms, batch.places.taken)
    check_caps(append.caps, known, changes, batch.purses.spent, before.newest + len(batch.events))
    if append.key_digest is not None and owner is None:
        batch.keys.append({"digest": append.key_digest, "task_id": append.task_id})
    added = [recorded for recorded, _ in chain]
    _add(batch, append, added)
    if changes.task is not None:
        _add_projected(batch, changes, changes.task)
        batch.places.add(known, changes)
        batch.purses.add(known, changes, (*stream, *added)[0])
    return (*stream, *added)


def _before(database: sqlite3.Connection, appends: Sequence[Append]) -> Before:
    """Read what there is of the streams; of one that the caller knows only how new it is."""
    if not appends:
        (newest,) = database.execute(sql.LAST_POSITION).fetchone()
        return Before(newest, {}, {})
    said = {append.task_id: append.known for append in appends}
    known = [task_id for task_id, stream in said.items() if stream]
    unknown = [task_id for task_id, stream in said.items() if not stream]
    wanted = {"all": json.dumps([*said]), "unknown": json.dumps(unknown), "known": json.dumps(known)}
    newest, *arrays = database.execute(BEFORE, wanted).fetchone()
    heads = {task_id: bytes.fromhex(head) for task_id, head in rows_of(arrays[3])}
    same = {task_id: said[task_id] for task_id in known if heads.get(task_id) == said[task_id][-1].hash}
    if len(same) < len(known):  # somebody has written meanwhile: all is read
        return _before(database, [replace(append, known=same.get(append.task_id, ())) for append in appends])
    streams: dict[str, list[Recorded]] = {}
    for row in rows_of(arrays[0], EVENT_BLOBS):
        streams.setdefault(row[2], []).append(recorded_from(row))
    tasks = {row[0]: dict(zip(TASK, row, strict=True)) for row in rows_of(arrays[1])}
    attempts: dict[str, dict[int, dict[str, Any]]] = {task_id: {} for task_id in tasks}
    for row in rows_of(arrays[2]):
        attempts[row[0]][row[1]] = dict(zip(ATTEMPT, row, strict=True))
    projected = {task_id: Known(task, attempts[task_id]) for task_id, task in tasks.items()}
    return Before(newest, same | {task_id: tuple(stream) for task_id, stream in streams.items()}, projected)


def _key_owner(database: sqlite3.Connection, append: Append) -> str | None:
    if append.key_digest is None:
        return None
    row = database.execute(sql.TASK_OF_KEY, {"digest": append.key_digest}).fetchone()
    return None if row is None else str(row[0])


def _add(batch: Batch, append: Append, chain: Sequence[Recorded]) -> None:
    batch.events += chain
    batch.erased += erased(append)
    batch.payloads += [
        {"task_id": append.task_id, "slot": payload.slot, "salt": payload.salt, "bytes": payload.content}
        for payload in append.payloads
    ]


def _add_projected(batch: Batch, changes: Changes, task: rows.Row) -> None:
    batch.tasks.append(task)
    touched = dict.fromkeys((*changes.attempts_started, *changes.attempts_ended))
    batch.attempts += [changes.attempts[number] for number in touched]
    batch.decisions += changes.decisions
    batch.validations += changes.validations
    batch.task_labels += changes.task_labels
