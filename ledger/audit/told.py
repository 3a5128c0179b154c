"""What a stream's rows say, read once for all checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ledger.envelope import Recorded, Stream
from ledger.errors import EventInvalid
from ledger.events import Event
from ledger.parts import Decision
from ledger.upcasting import EVENT_TYPES, decode

__all__ = ["DECISIONS", "Told", "decisions", "told"]

Told = tuple[Event | EventInvalid, ...]
"""The events of a stream; in the place of one that cannot be read, why."""

DECISIONS: Final = frozenset(event for event in EVENT_TYPES.values() if issubclass(event, Decision))
"""To be asked for an event's own type: a set answers sooner than ``isinstance``, and this is asked of every event."""


def told(stream: Stream) -> Told:
    """Read the events of a stream."""
    return tuple(map(_event, stream))


def decisions(stream: Stream, events: Told) -> Iterator[tuple[Recorded, Decision]]:
    """Yield the decisions of a stream, each with its row."""
    for recorded, event in zip(stream, events, strict=True):
        if type(event) in DECISIONS and isinstance(event, Decision):
            yield recorded, event


def _event(recorded: Recorded) -> Event | EventInvalid:
    try:
        return decode(recorded.type, recorded.schema_version, recorded.data)
    except EventInvalid as why:
        return why
