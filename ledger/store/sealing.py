"""What every store does with an append before it writes: check it, recognise a repeated one, give it place and hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.envelope import FIRST_PREV_HASH, Append, Recorded, seal
from ledger.errors import EventInvalid, VersionConflict
from ledger.events import Event, PayloadErased
from ledger.store.protocol import KeyTaken

__all__ = ["NEW_STREAM", "TAKEN", "Head", "check", "erased", "is_repeat", "refuse", "sealed", "versions"]

TAKEN: Final = "an event id or the slot of a payload is in use already; nothing was written"


class Head(NamedTuple):
    """The newest event of a stream, as far as the next one needs it."""

    version: int
    recorded_at_ms: int
    hash: bytes


NEW_STREAM: Final = Head(0, 0, FIRST_PREV_HASH)


def check(append: Append) -> None:
    """Refuse what no store can keep, before anybody else's append is touched.

    Raises:
        EventInvalid: there is nothing to append, or an id is not Unicode; of events it is told when they are sealed.
    """
    if not append.events or not append.task_id or append.expected_version < 0:
        raise EventInvalid("an append needs a task id, an expected version from 0 and at least one event")
    texts = [append.task_id, *(payload.slot for payload in append.payloads)]
    for new in append.events:
        texts += (new.event_id, new.actor)
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise EventInvalid(f"an id, actor or slot is not Unicode text: {error.reason}") from error


def versions(append: Append) -> tuple[int, int]:
    """Return the first and last version that the append's events will have."""
    return append.expected_version + 1, append.expected_version + len(append.events)


def sealed(append: Append, head: Head, now_ms: int, newest: int) -> list[tuple[Recorded, Event]]:
    """Chain the events onto the head, at the positions that follow ``newest``.

    The clock never runs backwards within a stream.
    """
    at_ms = max(now_ms, head.recorded_at_ms)
    version, prev_hash = head.version, head.hash
    chain = []
    for position, new in enumerate(append.events, newest + 1):
        version += 1
        recorded = seal(
            new,
            task_id=append.task_id,
            version=version,
            recorded_at_ms=at_ms,
            prev_hash=prev_hash,
            position=position,
        )
        chain.append((recorded, new.event))
        prev_hash = recorded.hash
    return chain


def erased(append: Append) -> list[tuple[str, str]]:
    """Return the task and slot of each text that the append erases: a store deletes it, and the task's keys with it."""
    return [(append.task_id, new.event.slot) for new in append.events if isinstance(new.event, PayloadErased)]


def is_repeat(append: Append, stored: Sequence[Recorded]) -> bool:
    """Say whether ``stored``, the events at the append's versions, are its own: same hash, so same id and content."""
    return len(stored) == len(append.events) and all(
        old.hash == _as_stored(append, index, old).hash for index, old in enumerate(stored)
    )


def _as_stored(append: Append, index: int, old: Recorded) -> Recorded:
    return seal(
        append.events[index],
        task_id=append.task_id,
        version=append.expected_version + 1 + index,
        recorded_at_ms=old.recorded_at_ms,
        prev_hash=old.prev_hash,
    )


def refuse(append: Append, head: Head, key_owner: str | None) -> None:
    """Raise what stands in the way of an append that is no repeat.

    Raises:
        KeyTaken: its key names another task; this comes first, since that task is the answer.
        VersionConflict: the stream is elsewhere.
    """
    if key_owner is not None and key_owner != append.task_id:
        raise KeyTaken(key_owner)
    if head.version != append.expected_version:
        raise VersionConflict(
            f"task {append.task_id} is at version {head.version}, the append expected {append.expected_version}"
        )
