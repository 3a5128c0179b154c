"""A store in memory: all that a store has to do, without a disk. For tests, dry runs, and to learn from."""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ledger.envelope import Append, Cap, Limit, Payload, Recorded, Stream
from ledger.errors import EventInvalid, LedgerError
from ledger.events import Event
from ledger.store.caps import check_caps, scope_of, spent_of
from ledger.store.limits import check_limits, in_flight
from ledger.store.memory_lists import matching, spent_in
from ledger.store.memory_workers import Roster, newest_ended, open_tasks
from ledger.store.projection import Changes, Known, project
from ledger.store.protocol import Problem, Projected, Spent, TaskQuery, Worker
from ledger.store.sealing import NEW_STREAM, TAKEN, Head, check, erased, is_repeat, refuse, sealed, versions

__all__ = ["MemoryStore"]


class MemoryStore:
    """Streams in lists, projections in dictionaries; gone when the process is.

    Args:
        now_ms: the clock of ``recorded_at_ms``, UTC milliseconds.
    """

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._events: list[Recorded] = []
        self._streams: dict[str, list[Recorded]] = {}
        self._event_ids: set[str] = set()
        self._payloads: dict[tuple[str, str], Payload] = {}
        self._keys: dict[bytes, str] = {}
        self._key_salt = os.urandom(32)
        self._projected: dict[str, Changes] = {}
        self._roster = Roster()
        self._closed = False

    async def append(self, append: Append) -> Stream:
        """Append all or nothing; between the checks and the last line nothing else runs."""
        check(append)
        await self._turn()
        stream = self._streams.get(append.task_id, [])
        first, last = versions(append)
        if is_repeat(append, stream[first - 1 : last]):
            return tuple(stream)
        head = Head(stream[-1].version, stream[-1].recorded_at_ms, stream[-1].hash) if stream else NEW_STREAM
        refuse(append, head, None if append.key_digest is None else self._keys.get(append.key_digest))
        now_ms = self._now_ms()
        chain = sealed(append, head, now_ms, len(self._events))
        changes = self._changes(append.task_id, chain)
        check_limits(append.limits, self._known(append.task_id), changes, now_ms, partial(self._in_flight, now_ms))
        summed = partial(spent_in, self._projected)
        check_caps(append.caps, self._known(append.task_id), changes, summed, len(self._events))
        slots = {(append.task_id, payload.slot): payload for payload in append.payloads}
        ids = {new.event_id for new in append.events}
        if len(ids) < len(append.events) or len(slots) < len(append.payloads):
            raise EventInvalid(TAKEN)
        if ids & self._event_ids or slots.keys() & self._payloads.keys():
            raise EventInvalid(TAKEN)
        self._write(append.task_id, chain, changes)
        self._payloads |= slots
        self._event_ids |= ids
        if append.key_digest is not None:
            self._keys[append.key_digest] = append.task_id
        for place in erased(append):
            self._payloads.pop(place, None)
            self._keys = {digest: owner for digest, owner in self._keys.items() if owner != append.task_id}
        return tuple(self._streams[append.task_id])

    def _known(self, task_id: str) -> Known:
        before = self._projected.get(task_id, Changes())
        return Known(before.task, before.attempts)

    def _changes(self, task_id: str, chain: Sequence[tuple[Recorded, Event]]) -> Changes:
        stream = self._streams.get(task_id, ())
        return project(self._known(task_id), chain, lambda: [recorded.event() for recorded in stream])

    def _in_flight(self, now_ms: int, limit: Limit) -> int:
        return sum(in_flight(limit, changes.attempts.values(), now_ms) for changes in self._projected.values())

    def _write(self, task_id: str, chain: Sequence[tuple[Recorded, Event]], after: Changes) -> None:
        before = self._projected.get(task_id, Changes())
        after.decisions[:0] = before.decisions
        after.validations[:0] = before.validations
        after.task_labels = before.task_labels or after.task_labels
        if after.task is not None:
            self._projected[task_id] = after
        self._events += [placed for placed, _ in chain]
        self._streams.setdefault(task_id, []).extend(placed for placed, _ in chain)

    async def read(self, task_id: str) -> Stream:
        """Return the stream."""
        await self._turn()
        return tuple(self._streams.get(task_id, ()))

    async def payload(self, task_id: str, slot: str) -> Payload | None:
        """Return one text of a task."""
        await self._turn()
        return self._payloads.get((task_id, slot))

    async def payloads(self, task_id: str) -> tuple[Payload, ...]:
        """Return all texts of a task, by slot."""
        await self._turn()
        mine = [payload for (owner, _), payload in self._payloads.items() if owner == task_id]
        return tuple(sorted(mine, key=lambda payload: payload.slot))

    async def task_of_key(self, key_digest: bytes) -> str | None:
        """Return the task that a key names."""
        await self._turn()
        return self._keys.get(key_digest)

    async def key_salt(self) -> bytes:
        """Return the salt of the keys."""
        await self._turn()
        return self._key_salt

    async def page(self, after_position: int, limit: int) -> Sequence[Recorded]:
        """Return events by position; here the index in the list, plus one."""
        await self._turn()
        return tuple(self._events[max(after_position, 0) :][: max(limit, 0)])

    async def newest(self) -> int:
        """Return the position of the newest event."""
        await self._turn()
        return self._events[-1].position if self._events else 0

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        """Return events by stream."""
        await self._turn()
        ordered = sorted(self._events, key=_place)
        return tuple(ordered[bisect_right(ordered, after, key=_place) :][: max(limit, 0)])

    async def find(self, part: str) -> Sequence[str]:
        """Return at most two tasks; a whole id is found alone."""
        await self._turn()
        if part in self._projected:
            return (part,)
        found = [task_id for task_id in sorted(self._projected) if task_id.startswith(part) or task_id.endswith(part)]
        return tuple(found[:2])

    async def tasks(self, query: TaskQuery) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``tasks``, newest first."""
        await self._turn()
        found = matching(self._projected, self._payloads, query)
        return tuple(dict(row) for row in found[: max(query.limit, 0)])

    def _tasks(self) -> list[Mapping[str, Any]]:
        return [changes.task for changes in self._projected.values() if changes.task is not None]

    async def projected(self, task_id: str) -> Projected:
        """Return the projections' rows of one task."""
        await self._turn()
        changes = self._projected.get(task_id)
        if changes is None or changes.task is None:
            return Projected()
        return Projected(
            tasks=(dict(changes.task),),
            attempts=tuple(dict(changes.attempts[number]) for number in sorted(changes.attempts)),
            decisions=tuple(dict(row) for row in changes.decisions),
            validations=tuple(dict(row) for row in changes.validations),
            task_labels=tuple(sorted((dict(row) for row in changes.task_labels), key=lambda row: str(row["key"]))),
        )

    async def projected_task_ids(self, after: str, limit: int) -> Sequence[str]:
        """Return the ids that anything but an event names, sorted."""
        await self._turn()
        named = {*self._projected, *self._keys.values(), *(task_id for task_id, _ in self._payloads)}
        return tuple(sorted(task_id for task_id in named if task_id > after)[: max(limit, 0)])

    async def now_ms(self) -> int:
        """Return the instant by the clock that was given."""
        await self._turn()
        return self._now_ms()

    async def beat(self, worker: str) -> None:
        """Note that a worker lives."""
        await self._turn()
        self._roster.beat(worker, self._now_ms())

    async def leave(self, worker: str) -> None:
        """Forget a worker and its claims."""
        await self._turn()
        self._roster.leave(worker)

    async def workers(self) -> Sequence[Worker]:
        """Return who has beaten and not left, by name."""
        await self._turn()
        return tuple(self._roster.workers(self._now_ms()))

    async def owners(self) -> Sequence[str | None]:
        """Return whose the open tasks are; None first."""
        await self._turn()
        owners = {row["worker"] for row in open_tasks(self._tasks())}
        return tuple(sorted(owners, key=lambda owner: (owner is not None, owner or "")))

    async def claim(self, worker: str, owners: Sequence[str | None], limit: int, for_ms: int) -> Sequence[str]:
        """Reserve due tasks of these owners."""
        await self._turn()
        now_ms = self._now_ms()
        return tuple(self._roster.claim(worker, self._tasks(), owners, limit, (now_ms, now_ms + for_ms)))

    async def unclaim(self, worker: str, task_ids: Sequence[str]) -> None:
        """Give claims back."""
        await self._turn()
        self._roster.unclaim(worker, task_ids)

    async def ended_attempts(self, provider: str, model: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``attempts``, the last to end first."""
        await self._turn()
        attempts = [row for changes in self._projected.values() for row in changes.attempts.values()]
        return tuple(dict(row) for row in newest_ended(attempts, provider, model)[: max(limit, 0)])

    async def spent(self, cap: Cap, task_id: str, at_ms: int) -> Spent:
        """Return what stands against a cap."""
        await self._turn()
        if cap.of_task:
            return spent_of(self._projected.get(task_id, Changes()).attempts.values())
        return spent_in(self._projected, scope_of(cap, at_ms))

    async def check(self) -> Sequence[Problem]:
        """Find nothing: there is no file that somebody else could change."""
        await self._turn()
        return ()

    async def aclose(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    async def _turn(self) -> None:
        """Let others run, as a store that waits for a disk would."""
        await asyncio.sleep(0)
        if self._closed:
            raise LedgerError("the ledger is closed")


def _place(recorded: Recorded) -> tuple[str, int]:
    return recorded.task_id, recorded.version
