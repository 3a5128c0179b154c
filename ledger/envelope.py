r"""The envelope of a stored event, and the recipe of its hash.

``hash = SHA-256(tag | prev_hash | fields | SHA-256(data))`` where ``tag`` is ``dispatch-ledger event 1\n``, the first
``prev_hash`` of a stream is 32 zero bytes, and ``fields`` are event_id, task_id, version, type, schema_version,
recorded_at_ms, actor and fence in this order, each as UTF-8 text (integers in decimal) behind its length in bytes as
four bytes, big-endian. The position is given at insert and is covered by anchors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ledger.events import Event
from ledger.upcasting import decode

__all__ = [
    "FIRST_PREV_HASH",
    "ISSUES",
    "Append",
    "Cap",
    "Limit",
    "NewEvent",
    "Payload",
    "Recorded",
    "Stream",
    "event_hash",
    "issues_slot",
    "seal",
]

TAG: Final = b"dispatch-ledger event 1\n"
FIRST_PREV_HASH: Final = bytes(32)
SHORT: Final = 128
LENGTHS: Final = tuple(size.to_bytes(4, "big") for size in range(SHORT))
"""Made once: there are eight in every hash."""
FRAMES: Final = 256
ISSUES: Final = "issues/"
"""How the slot of a verdict's issues begins."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that wants to be appended; its id is made by the client, so that a repeated append is recognised."""

    event_id: str
    event: Event
    actor: str
    """``worker:<uuid>``, ``person`` or ``system``; never the name of a host or a user."""
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Payload:
    """A text that can be erased; events hold only its digest under the salt."""

    slot: str
    salt: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Limit:
    """How many attempts may be in flight at once; counted in the transaction that adds one."""

    provider: str
    most: int
    model: str | None = None
    """As requested; None: all models of the provider together."""
    grace_ms: int = 0
    """A running attempt counts until its deadline and this much."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What may be spent at most, on one task or in one UTC day; counted in the transaction that adds an attempt."""

    name: str
    """As the configuration names it, ``max_usd_per_day``."""
    limit_nano_usd: int
    of_task: bool = False
    """Of the attempt's own task, whenever; else of the UTC day in which an attempt starts."""
    tier: str | None = None
    """Of the day's attempts those on this tier."""
    label: tuple[str, str] | None = None
    """Of the day's attempts those of tasks with this label."""
    refuses_unpriced: bool = True
    """Where a cost may be anything, nothing more fits; else such attempts count as nothing."""


@dataclass(frozen=True, slots=True)
class Append:
    """Events for one stream, all or none, with what has to be durable together with them."""

    task_id: str
    expected_version: int
    """The version of the stream's newest event as the caller knows it; 0 for a new stream."""
    events: tuple[NewEvent, ...]
    payloads: tuple[Payload, ...] = ()
    key_digest: bytes | None = None
    """Names this task under a key of the ledger; unique."""
    limits: tuple[Limit, ...] = ()
    """What must hold when this append has started an attempt; it says nothing about an append that starts none."""
    caps: tuple[Cap, ...] = ()
    """Likewise."""
    known: Stream = ()
    """The stream as the caller has it, down to ``expected_version``, so that a store need not read it again; () where
    it has none. A store goes by what is stored: of the same hash it is the same stream."""


class _Row(NamedTuple):
    position: int
    event_id: str
    task_id: str
    version: int
    type: str
    schema_version: int
    recorded_at_ms: int
    actor: str
    fence: int
    data: str
    prev_hash: bytes
    hash: bytes


class Recorded(_Row):
    """A stored event, exactly as it stands; a tuple, since there are many.

    What was worked out of it once is kept beside it, and goes away with it.
    """

    decoded: Event | None = None
    state: Any = None
    """What its stream had come to with it, as whoever has folded it knows."""

    def event(self) -> Event:
        """Return today's event.

        Raises:
            EventInvalid: the bytes are none.
        """
        event = self.decoded
        if event is None:
            event = self.decoded = decode(self.type, self.schema_version, self.data)
        return event

    def computed_hash(self) -> bytes:
        """Return the hash that these fields should have."""
        return event_hash(
            self.prev_hash,
            (
                self.event_id,
                self.task_id,
                self.version,
                self.type,
                self.schema_version,
                self.recorded_at_ms,
                self.actor,
                self.fence,
            ),
            self.data.encode(),
        )


Stream = tuple[Recorded, ...]
"""A task's events in the order of their versions; () where there is no such task."""


def event_hash(prev_hash: bytes, fields: Sequence[str | int], data: bytes) -> bytes:
    """Return the hash of one event; ``fields`` are the eight of the recipe, in its order."""
    event_id, task_id, version, event_type, schema_version, recorded_at_ms, actor, fence = fields
    framed = (
        TAG,
        prev_hash,
        _frame(event_id),
        _shared(task_id),
        _shared(version),
        _shared(event_type),
        _shared(schema_version),
        _shared(recorded_at_ms),
        _shared(actor),
        _shared(fence),
        sha256(data).digest(),
    )
    return sha256(b"".join(framed)).digest()


def _frame(field: str | int) -> bytes:
    """Put a field behind its length."""
    encoded = str(field).encode()
    size = len(encoded)
    return (LENGTHS[size] if size < SHORT else size.to_bytes(4, "big")) + encoded


_shared: Final = lru_cache(FRAMES, typed=True)(_frame)
"""For what many events have in common."""


def seal(
    new: NewEvent, *, task_id: str, version: int, recorded_at_ms: int, prev_hash: bytes, position: int = 0
) -> Recorded:
    """Give a new event its place and its hash; the position, which is not hashed, is the store's to know."""
    event = new.event
    data = event.data()
    text = data.decode()
    fields = (
        new.event_id,
        task_id,
        version,
        event.TYPE,
        event.SCHEMA_VERSION,
        recorded_at_ms,
        new.actor,
        new.fence,
    )
    recorded = Recorded(position, *fields, text, prev_hash, event_hash(prev_hash, fields, data))
    recorded.decoded = event
    return recorded


def issues_slot(judge_attempt: int | None) -> str:
    """Return the payload that a verdict's issues stand in; None is a person's verdict."""
    return f"{ISSUES}{'person' if judge_attempt is None else judge_attempt}"
