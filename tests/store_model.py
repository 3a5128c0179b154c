"""What a store is, in fifty lines: a list of events, and what may be put behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.envelope import Append, NewEvent, Payload
from ledger.errors import DispatchError, EventInvalid, VersionConflict
from ledger.events import TaskSubmitted
from ledger.store.protocol import KeyTaken

__all__ = ["Model"]


@dataclass
class Model:
    """Everything in the order in which it was appended."""

    events: list[tuple[str, int, NewEvent]] = field(default_factory=list)
    """Stream, version and event; the place in the list, counted from 1, is the position."""
    payloads: dict[tuple[str, str], Payload] = field(default_factory=dict)
    keys: dict[bytes, str] = field(default_factory=dict)

    def append(self, append: Append) -> type[DispatchError] | None:
        """Append all events or return what refuses them; a repetition changes nothing."""
        stream = self.stream(append.task_id)
        if stream[append.expected_version :][: len(append.events)] == list(append.events):
            return None
        if append.key_digest is not None and self.keys.get(append.key_digest, append.task_id) != append.task_id:
            return KeyTaken
        if len(stream) != append.expected_version:
            return VersionConflict
        ids = [new.event_id for _, _, new in self.events] + [new.event_id for new in append.events]
        slots = [*self.payloads, *((append.task_id, payload.slot) for payload in append.payloads)]
        if len(set(ids)) < len(ids) or len(set(slots)) < len(slots):
            return EventInvalid
        self.events += [(append.task_id, len(stream) + place, new) for place, new in enumerate(append.events, 1)]
        self.payloads |= {(append.task_id, payload.slot): payload for payload in append.payloads}
        self.keys |= {} if append.key_digest is None else {append.key_digest: append.task_id}
        return None

    def stream(self, task_id: str) -> list[NewEvent]:
        """Return a stream's events."""
        return [new for owner, _, new in self.events if owner == task_id]

    def tasks(self) -> list[str]:
        """Return the streams that are tasks."""
        return sorted(
            owner for owner, version, new in self.events if version == 1 and isinstance(new.event, TaskSubmitted)
        )

    def named(self) -> Sequence[str]:
        """Return what a projection, a text or a key names."""
        return sorted({*self.tasks(), *self.keys.values(), *(owner for owner, _ in self.payloads)})
