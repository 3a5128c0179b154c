"""What every store does, whatever stands behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from ledger.envelope import Append, Cap, Limit, Payload, Recorded, Stream
from ledger.errors import DispatchError
from ledger.parts import BudgetSeen

__all__ = [
    "CapReached",
    "KeyTaken",
    "LimitReached",
    "Problem",
    "Projected",
    "Spent",
    "Store",
    "TaskQuery",
    "Worker",
    "storable",
]

SURROGATE: Final = re.compile("[\ud800-\udfff]")


class KeyTaken(DispatchError):
    """The key of an append names a task already.

    Attributes:
        task_id: the task that it names.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"the key names task {task_id} already")
        self.task_id = task_id


class LimitReached(DispatchError):
    """As many attempts are in flight as may be; nothing was written.

    Attributes:
        limit: the one that stood in the way.
    """

    def __init__(self, limit: Limit) -> None:
        of = limit.provider if limit.model is None else f"{limit.provider}/{limit.model}"
        super().__init__(f"{of} has as many attempts in flight as it may: {limit.most}")
        self.limit = limit


class CapReached(DispatchError):
    """An attempt does not fit under caps on spending; nothing was written.

    Attributes:
        budgets: those that it does not fit under, and what stood against each.
    """

    def __init__(self, budgets: tuple[BudgetSeen, ...]) -> None:
        super().__init__(f"the attempt does not fit under {', '.join(seen.cap for seen in budgets)}")
        self.budgets = budgets


class Spent(NamedTuple):
    """What stands against a cap, in nano-USD."""

    settled: int = 0
    """Costs that are known."""
    unknown: int = 0
    """The bounds of ended attempts whose cost is not."""
    reserved: int = 0
    """The bounds of running attempts."""
    unbounded: int = 0
    """Attempts, running ones too, of which neither cost nor bound is known."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Somebody who works on tasks, or died at it: who ends in good order is not listed any more."""

    name: str
    beats: int
    silent_ms: int
    """Since its last beat; negative when the clock was set back since."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of ``verify`` or ``db check``."""

    kind: str
    task_id: str | None
    version: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Projected:
    """The projections' rows of one task; each row is a mapping from column to value."""

    tasks: tuple[Mapping[str, Any], ...] = ()
    attempts: tuple[Mapping[str, Any], ...] = ()
    """By attempt."""
    decisions: tuple[Mapping[str, Any], ...] = ()
    """By version."""
    validations: tuple[Mapping[str, Any], ...] = ()
    """By version."""
    task_labels: tuple[Mapping[str, Any], ...] = ()
    """By key."""


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Which rows of ``tasks``; newest first (created_at_ms, then task_id, both descending)."""

    state: str | None = None
    tier: str | None = None
    """The tier asked for."""
    since_ms: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    limit: int = 100
    after: tuple[int, str] | None = None
    """The (created_at_ms, task_id) of the last row of the page before."""


def storable(*texts: str) -> bool:
    """Say whether a store can hold these: texts, and UTF-8 has no lone surrogates."""
    return all(isinstance(text, str) and SURROGATE.search(text) is None for text in texts)


class Store(Protocol):
    """Streams of events with their payloads, keys and projections."""

    async def append(self, append: Append) -> Stream:
        """Append all events or none, durably, with their payloads, key and projections; return the whole stream.

        Repeating an append whose events are already there, with the same ids and content, succeeds and writes nothing.

        Raises:
            VersionConflict: the stream is not at ``expected_version``.
            KeyTaken: the key names another task already; told before a conflict of versions.
            LimitReached: an attempt that it starts would be one too many; told after a conflict of versions.
            CapReached: an attempt that it starts does not fit under a cap; told after all limits.
            EventInvalid: an event has no canonical form, or an event id or a payload's slot is in use already.
            LedgerError: the ledger cannot be used; nothing was written.
        """
        ...

    async def read(self, task_id: str) -> Stream:
        """Return the stream, () if there is none."""
        ...

    async def payload(self, task_id: str, slot: str) -> Payload | None:
        """Return one text of a task, None if it was never there or is erased."""
        ...

    async def payloads(self, task_id: str) -> tuple[Payload, ...]:
        """Return all texts of a task, by slot."""
        ...

    async def task_of_key(self, key_digest: bytes) -> str | None:
        """Return the task that a key names."""
        ...

    async def key_salt(self) -> bytes:
        """Return the salt under which this ledger's keys are hashed."""
        ...

    async def page(self, after_position: int, limit: int) -> Sequence[Recorded]:
        """Return events by position, from the one after ``after_position``."""
        ...

    async def newest(self) -> int:
        """Return the position of the newest event, 0 if there is none."""
        ...

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        """Return events by (task_id, version), from the one after ``after``; ("", 0) begins."""
        ...

    async def find(self, part: str) -> Sequence[str]:
        """Return at most two ids of tasks that begin or end with ``part``, to tell unique from not."""
        ...

    async def tasks(self, query: TaskQuery) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``tasks``."""
        ...

    async def projected(self, task_id: str) -> Projected:
        """Return the projections' rows of one task."""
        ...

    async def projected_task_ids(self, after: str, limit: int) -> Sequence[str]:
        """Return the ids that a projection, a text or a key names, sorted, from the one after ``after``."""
        ...

    async def now_ms(self) -> int:
        """Return the instant by the clock that leases are judged by, UTC milliseconds."""
        ...

    async def beat(self, worker: str) -> None:
        """Say, durably, that a worker lives."""
        ...

    async def leave(self, worker: str) -> None:
        """Forget a worker and what it had claimed."""
        ...

    async def workers(self) -> Sequence[Worker]:
        """Return who has beaten and not left, by name."""
        ...

    async def owners(self) -> Sequence[str | None]:
        """Return whose the open tasks are that wait for no person, by name; None comes first, for those of nobody."""
        ...

    async def claim(self, worker: str, owners: Sequence[str | None], limit: int, for_ms: int) -> Sequence[str]:
        """Reserve due tasks of these owners for a while, and return their ids; those claimed already come again.

        Due is what waits neither for a person nor for a later instant; a wait that was set more than a minute from now
        is over, since the clock was set back. Not given are tasks that another worker has claimed until later than now;
        a claim that reaches more than a minute beyond this one was made before a clock was set back, and is void.
        Each owner's oldest come first: ready tasks by id, waits by their instant; between them, and between owners,
        a ready task counts as due since it was submitted. A claim keeps others from crowding and no more: who starts
        the task is decided by its stream.
        """
        ...

    async def unclaim(self, worker: str, task_ids: Sequence[str]) -> None:
        """Give claims back; what the worker has not claimed is left alone."""
        ...

    async def ended_attempts(self, provider: str, model: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``attempts``, by their end, then task and attempt, all descending; ``model`` as requested."""
        ...

    async def spent(self, cap: Cap, task_id: str, at_ms: int) -> Spent:
        """Return what stands against a cap: of that task, or of the UTC day of that instant."""
        ...

    async def check(self) -> Sequence[Problem]:
        """Return what is wrong with the guards and the schema; () when they stand as they were made."""
        ...

    async def aclose(self) -> None:
        """Release everything; appends under way are finished first, within a bound."""
        ...
