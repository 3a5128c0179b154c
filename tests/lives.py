"""Tasks from beginning to end as the appends that make them, with their texts: a ledger of them verifies."""

from __future__ import annotations

from typing import Final

from ledger.canonical import salted_digest
from ledger.envelope import Append, NewEvent, Payload
from ledger.events import AttemptSucceeded, TaskSubmitted
from tests.histories import History, request

__all__ = ["DIGEST", "life", "text"]

SALT: Final = b"salt"
TEXT: Final = b"a text of some length, so that a row is more than a handful of bytes"
DIGEST: Final = salted_digest(SALT, TEXT)
"""Of every text here."""


def life(task_id: str) -> tuple[Append, ...]:
    """Make the appends of a task that failed once and then was answered; an event's id is the task's and its number."""
    history = History(request(prompt_digest=DIGEST))
    ends = [len(history.events)]
    ends += [len(move().events) for move in (history.start, history.fail, history.start)]
    ends.append(len(history.succeed(response_digest=DIGEST).events))
    return tuple(_append(task_id, history, *span) for span in zip((0, *ends), ends, strict=False))


def text(slot: str) -> Payload:
    """Make the text of a slot."""
    return Payload(slot, SALT, TEXT)


def _append(task_id: str, history: History, after: int, end: int) -> Append:
    events = tuple(
        NewEvent(f"{task_id}/{version}", event, "system")
        for version, event in enumerate(history.events[after:end], after + 1)
    )
    slots = [slot for new in events if (slot := _slot(new)) is not None]
    return Append(task_id, after, events, tuple(map(text, slots)))


def _slot(new: NewEvent) -> str | None:
    match new.event:
        case TaskSubmitted():
            return "prompt"
        case AttemptSucceeded() as answered:
            return f"response/{answered.attempt}"
        case _:
            return None
