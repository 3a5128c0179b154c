"""A group of appends in one transaction, as one function on the connection's thread.

Everything is checked under the write lock, so a stale version or a taken key costs its neighbours nothing. What only
the constraints can tell (an event id used elsewhere) breaks the group: it is rolled back and repeated, each append
within a savepoint of its own.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from ledger.envelope import Append, Recorded, Stream
from ledger.errors import DispatchError, EventInvalid
from ledger.events import Event
from ledger.store import rows
from ledger.store import sqlite_statements as sql
from ledger.store import tables as t
from ledger.store.projection import Changes, Known, project
from ledger.store.sealing import NEW_STREAM, TAKEN, Head, is_repeat, refuse, sealed, versions

__all__ = ["append_group", "recorded_from"]

TASK: Final = tuple(column.name for column in t.tasks.c)
ATTEMPT: Final = tuple(column.name for column in t.attempts.c)
UNSTORABLE: Final = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError)
"""What is one append's own fault: a constraint, or a value that is too big."""
PLACE: Final = re.compile(r":(\w+)")

Outcome = Stream | DispatchError


def append_group(database: sqlite3.Connection, appends: Sequence[Append], now_ms: int) -> list[Outcome]:
    """Write the appends (each of another stream and key), commit, and return each one's stream or what refused it.

    Raises:
        sqlite3.Error: nothing was written, or, after COMMIT, the streams could not be read back.
    """
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            refusals = _write(database, appends, now_ms)
        except UNSTORABLE:
            database.execute("ROLLBACK")
            database.execute("BEGIN IMMEDIATE")
            refusals = {}
            for append in appends:
                refusals |= _write_apart(database, append, now_ms)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    streams = _streams(database, [append.task_id for append in appends if append.task_id not in refusals])
    return [refusals.get(append.task_id) or streams[append.task_id] for append in appends]


def recorded_from(row: Sequence[Any]) -> Recorded:
    """Make the envelope of a row of ``events``, whose columns stand in its order."""
    return Recorded(*row)


class Before(NamedTuple):
    """What the ledger holds of the streams of a group."""

    heads: dict[str, Head]
    known: dict[str, Known]


class Statement(NamedTuple):
    """A statement with its parameters by place: binding thirty names costs half as much again as the insert."""

    text: str
    row: Callable[[Any], tuple[Any, ...]]
    """Takes a row's values in the order of the places."""


def _by_place(text: str, getter: Callable[..., Callable[[Any], tuple[Any, ...]]] = itemgetter) -> Statement:
    return Statement(PLACE.sub("?", text), getter(*PLACE.findall(text)))


INSERT_EVENT: Final = _by_place(sql.INSERT_EVENT, attrgetter)
INSERT_PAYLOAD: Final = _by_place(sql.INSERT_PAYLOAD)
INSERT_KEY: Final = _by_place(sql.INSERT_KEY)
INSERT_TASK: Final = _by_place(sql.INSERT_TASK)
UPDATE_TASK: Final = _by_place(sql.UPDATE_TASK)
INSERT_ATTEMPT: Final = _by_place(sql.INSERT_ATTEMPT)
END_ATTEMPT: Final = _by_place(sql.END_ATTEMPT)
INSERT_DECISION: Final = _by_place(sql.INSERT_DECISION)
INSERT_VALIDATION: Final = _by_place(sql.INSERT_VALIDATION)
INSERT_LABEL: Final = _by_place(sql.INSERT_LABEL)


@dataclass(slots=True)
class Batch:
    """The rows to write, a list for each statement."""

    events: list[Recorded] = field(default_factory=list)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    tasks_new: list[dict[str, Any]] = field(default_factory=list)
    tasks_changed: list[dict[str, Any]] = field(default_factory=list)
    attempts_started: list[dict[str, Any]] = field(default_factory=list)
    attempts_ended: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    task_labels: list[dict[str, Any]] = field(default_factory=list)

    def write(self, database: sqlite3.Connection) -> None:
        """Run the statements that have rows; an attempt starts before it ends."""
        statements: tuple[tuple[Statement, Sequence[Any]], ...] = (
            (INSERT_EVENT, self.events),
            (INSERT_PAYLOAD, self.payloads),
            (INSERT_KEY, self.keys),
            (INSERT_TASK, self.tasks_new),
            (UPDATE_TASK, self.tasks_changed),
            (INSERT_ATTEMPT, self.attempts_started),
            (END_ATTEMPT, self.attempts_ended),
            (INSERT_DECISION, self.decisions),
            (INSERT_VALIDATION, self.validations),
            (INSERT_LABEL, self.task_labels),
        )
        for statement, many in statements:
            if many:
                database.executemany(statement.text, map(statement.row, many))


def _write_apart(database: sqlite3.Connection, append: Append, now_ms: int) -> dict[str, DispatchError]:
    """Write one append so that its failure leaves the others' rows alone."""
    database.execute("SAVEPOINT apart")
    try:
        refusals = _write(database, (append,), now_ms)
    except UNSTORABLE as error:
        database.execute("ROLLBACK TO apart")
        taken = isinstance(error, sqlite3.IntegrityError)
        refusals = {append.task_id: EventInvalid(TAKEN if taken else f"SQLite cannot store this: {error}")}
    database.execute("RELEASE apart")
    return refusals


def _write(database: sqlite3.Connection, appends: Sequence[Append], now_ms: int) -> dict[str, DispatchError]:
    """Write what can be written and return what refused the others, by task."""
    before = _before(database, [append.task_id for append in appends])
    batch = Batch()
    refusals: dict[str, DispatchError] = {}
    for append in appends:
        try:
            _plan(batch, database, append, before, now_ms)
        except DispatchError as refusal:
            refusals[append.task_id] = refusal
    batch.write(database)
    return refusals


def _plan(batch: Batch, database: sqlite3.Connection, append: Append, before: Before, now_ms: int) -> None:
    """Add an append's rows to the batch, none if they are there already; whatever refuses it is raised before."""
    head = before.heads.get(append.task_id, NEW_STREAM)
    if _is_there(database, append, head):
        return
    owner = _key_owner(database, append)
    refuse(append, head, owner)
    chain = sealed(append, head, now_ms)
    known = before.known.get(append.task_id, Known())
    changes = project(known, chain, partial(_history, database, append.task_id))
    if append.key_digest is not None and owner is None:
        batch.keys.append({"digest": append.key_digest, "task_id": append.task_id})
    _add(batch, append, [recorded for recorded, _ in chain])
    if changes.task is not None:
        _add_projected(batch, changes, changes.task, new=known.task is None)


def _before(database: sqlite3.Connection, task_ids: Sequence[str]) -> Before:
    wanted = {"task_ids": json.dumps(task_ids)}
    heads = {task_id: Head(*rest) for task_id, *rest in database.execute(sql.HEADS, wanted)}
    if not heads:
        return Before(heads, {})
    tasks = {row[0]: dict(zip(TASK, row, strict=True)) for row in database.execute(sql.TASKS_OF, wanted)}
    attempts: dict[str, dict[int, dict[str, Any]]] = {task_id: {} for task_id in tasks}
    for row in database.execute(sql.ATTEMPTS_OF, wanted):
        attempts[row[0]][row[1]] = dict(zip(ATTEMPT, row, strict=True))
    return Before(heads, {task_id: Known(task, attempts[task_id]) for task_id, task in tasks.items()})


def _is_there(database: sqlite3.Connection, append: Append, head: Head) -> bool:
    """Say whether the append is a repetition; asked only when there are events at its versions."""
    first, last = versions(append)
    if head.version < last:
        return False
    wanted = {"task_id": append.task_id, "first": first, "last": last}
    return is_repeat(append, [recorded_from(row) for row in database.execute(sql.RANGE, wanted)])


def _key_owner(database: sqlite3.Connection, append: Append) -> str | None:
    if append.key_digest is None:
        return None
    row = database.execute(sql.TASK_OF_KEY, {"digest": append.key_digest}).fetchone()
    return None if row is None else str(row[0])


def _history(database: sqlite3.Connection, task_id: str) -> list[Event]:
    return [recorded_from(row).event() for row in database.execute(sql.STREAM, {"task_id": task_id})]


def _add(batch: Batch, append: Append, chain: Sequence[Recorded]) -> None:
    batch.events += chain
    batch.payloads += [
        {"task_id": append.task_id, "slot": payload.slot, "salt": payload.salt, "bytes": payload.content}
        for payload in append.payloads
    ]


def _add_projected(batch: Batch, changes: Changes, task: rows.Row, *, new: bool) -> None:
    if new:
        batch.tasks_new.append(task)
    else:
        batch.tasks_changed.append(task | {"of_task_id": task["task_id"]})
    batch.attempts_started += [changes.attempts[number] for number in changes.attempts_started]
    batch.attempts_ended += [
        changes.attempts[number] | {"of_task_id": task["task_id"], "of_attempt": number}
        for number in changes.attempts_ended
        if number not in changes.attempts_started
    ]
    batch.decisions += changes.decisions
    batch.validations += changes.validations
    batch.task_labels += changes.task_labels


def _streams(database: sqlite3.Connection, task_ids: Sequence[str]) -> dict[str, Stream]:
    streams: dict[str, list[Recorded]] = {task_id: [] for task_id in task_ids}
    for row in database.execute(sql.STREAMS_OF, {"task_ids": json.dumps(task_ids)}):
        recorded = recorded_from(row)
        streams[recorded.task_id].append(recorded)
    return {task_id: tuple(stream) for task_id, stream in streams.items()}
