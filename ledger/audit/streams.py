"""Checking one task's stream, event by event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ledger import events as e
from ledger.audit.decisions import asked_again, may_not_start, misplaced
from ledger.audit.told import DECISIONS, Told
from ledger.envelope import FIRST_PREV_HASH, Recorded, Stream
from ledger.errors import EventInvalid
from ledger.evolve import evolve
from ledger.parts import Decision, Judgement
from ledger.state import INITIAL, Ended, State, Undecided
from ledger.store.projection import project_events
from ledger.store.protocol import Problem, Projected

__all__ = ["chain_problems", "history_problems", "projection_problems"]

SORTED: Final = orjson.OPT_SORT_KEYS
AFTER_THE_END = (e.AttemptSettled, e.PayloadErased)


def chain_problems(stream: Stream) -> Iterator[Problem]:
    """Check versions, links, hashes and times; a broken link is reported where it breaks."""
    previous: Recorded | None = None
    for recorded in stream:
        expected = 1 if previous is None else previous.version + 1
        if recorded.version != expected:
            yield _problem("version", recorded, f"version {recorded.version} stands where {expected} belongs")
        before = FIRST_PREV_HASH if previous is None else previous.hash
        if recorded.prev_hash != before:
            yield _problem("link", recorded, "prev_hash is not the hash of the event before")
        if recorded.position < 1:
            yield _problem("position", recorded, f"position {recorded.position} is none that a ledger gives")
        if recorded.computed_hash() != recorded.hash:
            yield _problem("hash", recorded, "the hash is not that of the event's fields; something was changed")
        if previous is not None and recorded.recorded_at_ms < previous.recorded_at_ms:
            yield _problem("time", recorded, "recorded before the event before it")
        if previous is not None and recorded.position <= previous.position:
            yield _problem("position", recorded, "its position is before that of the event before it")
        previous = recorded


@dataclass(slots=True)
class _History:
    """Walks a stream and remembers what its end has to add up to."""

    state: State = INITIAL
    started: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)

    problems: list[Problem] = field(default_factory=list)

    def step(self, recorded: Recorded, event: e.Event | EventInvalid) -> None:
        if isinstance(event, EventInvalid):
            self._note("schema", recorded, str(event))
            return
        if recorded.schema_version == event.SCHEMA_VERSION and not _is_canonical(recorded.data, event):
            self._note("schema", recorded, "the data is not in canonical form")
        if isinstance(self.state, Ended):
            if not isinstance(event, AFTER_THE_END):
                self._note("terminal", recorded, f"{event.TYPE} stands after the end of the task")
        elif type(event) in DECISIONS and isinstance(event, Decision):
            self._note("decision", recorded, asked_again(self.state, event))
        elif isinstance(event, e.AttemptStarted):
            self._note("attempt", recorded, may_not_start(self.state, event, recorded.recorded_at_ms))
        elif isinstance(event, Judgement):
            self._note("verdict", recorded, misplaced(self.state, event))
        self._pair(recorded, event)
        self.state = evolve(self.state, event)

    def _pair(self, recorded: Recorded, event: e.Event) -> None:
        """Put an outcome to its start."""
        match event:
            case e.AttemptStarted():
                if event.attempt in self.started:
                    self._note("attempt", recorded, f"attempt {event.attempt} started twice")
                self.started.add(event.attempt)
            case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned() | e.AttemptSettled():
                if event.attempt not in self.started:
                    self._note("attempt", recorded, f"attempt {event.attempt} ends without a start")
                self.ended.add(event.attempt)
            case _:
                pass

    def _note(self, kind: str, recorded: Recorded, wrong: str | None) -> None:
        if wrong is not None:
            self.problems.append(_problem(kind, recorded, wrong))


def _is_canonical(data: str, event: e.Event) -> bool:
    """Say whether bytes that an event was read from are its canonical form.

    The models are strict and closed, so what was read is what stands there; only its form is left to compare.
    """
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return len(parsed) == len(type(event).model_fields) and orjson.dumps(parsed, option=SORTED) == data.encode()


def history_problems(stream: Stream, events: Told) -> list[Problem]:
    """Check what the events say: schemas, decisions, one end, every start with an outcome."""
    history = _History()
    for recorded, event in zip(stream, events, strict=True):
        history.step(recorded, event)
    found = history.problems
    if isinstance(history.state, Undecided):
        found.append(_problem("decision", stream[-1], "the newest outcome led to no decision"))
    if isinstance(history.state, Ended):
        for attempt in sorted(history.started - history.ended):
            found.append(_problem("attempt", stream[-1], f"the task ended, and attempt {attempt} has no outcome"))
    return found


def projection_problems(stream: Stream, events: Told, projected: Projected) -> Iterator[Problem]:
    """Compare the tables with a new fold."""
    readable = [event for event in events if not isinstance(event, EventInvalid)]
    if len(readable) < len(stream):
        return  # reported as a schema problem, and nothing can be folded past it
    task_id, expected = stream[0].task_id, project_events(zip(stream, readable, strict=True))
    for table in ("tasks", "attempts", "decisions", "validations", "task_labels"):
        yield from _compare(task_id, table, getattr(expected, table), getattr(projected, table))


def _compare(
    task_id: str, table: str, expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]
) -> Iterator[Problem]:
    if len(expected) != len(actual):
        detail = f"{table} has {len(actual)} rows, the events make {len(expected)}"
        yield Problem("projection", task_id, None, detail)
        return
    for ours, theirs in zip(expected, actual, strict=True):
        for column in () if ours == theirs else ours:
            if ours[column] != theirs[column]:
                row = ", ".join(f"{name} {ours[name]}" for name in ("attempt", "version", "key") if name in ours)
                detail = (
                    f"{table}.{column} is {theirs[column]!r}, the events make it {ours[column]!r} ({row or 'its row'})"
                )
                yield Problem("projection", task_id, None, detail)


def _problem(kind: str, recorded: Recorded, detail: str) -> Problem:
    return Problem(kind, recorded.task_id, recorded.version, detail)
