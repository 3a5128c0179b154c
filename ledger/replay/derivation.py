"""Deriving a task's history again from its recorded outcomes, by the rules as they are today. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.envelope import Recorded, Stream
from ledger.errors import CommandRefused, EventInvalid
from ledger.evolve import evolve, fold
from ledger.parts import Decision
from ledger.questions import asked_for, question, seen_in
from ledger.state import INITIAL, Absent, State, Waiting

__all__ = ["Difference", "difference", "lead", "seen_after"]

VERDICTS = (e.ValidationPassed, e.ValidationFailed)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where today's rules and the record part."""

    version: int
    """Of the event; one past the newest where the rules go on and the record does not."""
    recorded: str | None
    """The type of the event that the ledger has; None where it has none."""
    derived: str | None
    """The type of the event that today's rules give; None where they give none."""
    fields: tuple[tuple[str, Any, Any], ...] = ()
    """Of two events of one type: each field that differs, as recorded and as derived."""
    why: str = ""
    """What stood in the way, in words."""


def difference(stream: Stream) -> Difference | None:
    """Return where a task's recorded history is not what its outcomes lead to now; None where it is, to the byte."""
    try:
        events = [recorded.event() for recorded in stream]
    except EventInvalid as error:
        bad = next(recorded for recorded in stream if not _readable(recorded))
        return Difference(bad.version, bad.type, None, why=str(error))
    state: State = INITIAL
    at = 0
    while at < len(events):
        command = lead(state, events, at)
        if command is None:  # a fact by itself
            state, at = evolve(state, events[at]), at + 1
            continue
        try:
            derived = decide(state, command)
        except (CommandRefused, ValueError) as refused:  # ValueError: an instant so late that no wait can be added
            return Difference(stream[at].version, stream[at].type, None, why=str(refused))
        if not derived:
            return Difference(stream[at].version, stream[at].type, None, why="nothing is left to decide here")
        for place, event in enumerate(derived, at):
            found = _compared(stream, place, event)
            if found is not None:
                return found
        state, at = fold(derived, state), at + len(derived)
    return None


def lead(state: State, events: Sequence[e.Event], at: int) -> c.Command | None:
    """Return the command that led to the event ``at``, and to those that follow from it; None for a bare fact."""
    event = events[at]
    match event:
        case e.TaskSubmitted():
            return c.Submit(asked_for(event), seen_in(event.inputs), _verdict(events, at))
        case e.AttemptStarted():
            return c.Start(event, state.not_before_ms if isinstance(state, Waiting) else 0)
        case e.AttemptSucceeded() | e.AttemptFailed():
            fence = 0 if isinstance(state, Absent) else state.task.fence
            return c.Record(event, fence, seen_after(events, at), _verdict(events, at))
        case e.AttemptOrphaned(cause="cancelled"):
            return c.Cancel(seen_after(events, at))
        case e.AttemptOrphaned():
            return c.Orphan(event, seen_after(events, at))
        case e.AttemptSettled():
            return c.Settle(event, seen_after(events, at))
        case e.ValidationErrored():
            return c.Choose(seen_after(events, at))
        case Decision():
            return question(event)
        case _:
            return None


def seen_after(events: Sequence[e.Event], at: int) -> c.Seen:
    """Return what was seen by the decision that the event ``at`` led to; nothing where it led to none."""
    for place in range(at + 1, len(events)):
        event = events[place]
        if isinstance(event, Decision):
            return seen_in(event.inputs)
        if not isinstance(event, (*VERDICTS, e.ValidationErrored)):
            break
    return c.Seen(at_ms=0)


def _verdict(events: Sequence[e.Event], at: int) -> e.ValidationPassed | e.ValidationFailed | None:
    """Return the verdict that came with the event ``at``."""
    following = events[at + 1] if at + 1 < len(events) else None
    return following if isinstance(following, VERDICTS) else None


def _compared(stream: Stream, place: int, derived: e.Event) -> Difference | None:
    if place >= len(stream):
        return Difference(len(stream) + 1, None, derived.TYPE, why="the record ends where the rules go on")
    recorded = stream[place]
    theirs = recorded.event()
    if recorded.type != derived.TYPE:
        return Difference(recorded.version, recorded.type, derived.TYPE)
    # What an older version wrote has other bytes; it is compared as today's event.
    stored = recorded.data.encode() if recorded.schema_version == derived.SCHEMA_VERSION else theirs.data()
    if stored == derived.data():
        return None
    mine, before = derived.model_dump(), theirs.model_dump()
    fields = tuple((name, before[name], mine[name]) for name in sorted(mine) if mine[name] != before[name])
    return Difference(recorded.version, recorded.type, derived.TYPE, fields, "" if fields else "not in canonical form")


def _readable(recorded: Recorded) -> bool:
    try:
        recorded.event()
    except EventInvalid:
        return False
    return True
