"""``verify``: walk the whole ledger, stream by stream, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from ledger.audit.streams import chain_problems, history_problems, payload_problems, projection_problems
from ledger.envelope import Recorded, Stream
from ledger.store.protocol import Problem, Store

__all__ = ["Report", "verify"]

PAGE: Final = 1000
PROBLEMS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """What ``verify`` found."""

    ok: bool
    events: int
    tasks: int
    unanchored: int
    """Events that no anchor covers: a missing tail or a missing task among them cannot be seen."""
    problems: tuple[Problem, ...]
    """At most a thousand."""


async def verify(store: Store, *, progress: Callable[[int], object] | None = None) -> Report:
    """Check everything a ledger can say about itself.

    Args:
        store: the ledger.
        progress: called with the number of events checked so far.
    """
    problems = list(await store.check())
    events = tasks = 0
    async for stream in _streams(store):
        task_id = stream[0].task_id
        events += len(stream)
        tasks += stream[0].type == "task.submitted"
        problems += chain_problems(stream)
        problems += history_problems(stream)
        problems += projection_problems(task_id, stream, await store.projected(task_id))
        problems += payload_problems(task_id, stream, await store.payloads(task_id))
        del problems[PROBLEMS_MAX:]
        if progress is not None:
            progress(events)
    async for task_id in _projected_only(store):
        problems.append(Problem("projection", task_id, None, "a projection has rows of a task without events"))
    return Report(not problems, events, tasks, events, tuple(problems[:PROBLEMS_MAX]))


async def _streams(store: Store) -> AsyncIterator[Stream]:
    """Yield every stream whole, holding one page and one stream at a time."""
    held: list[Recorded] = []
    after = ("", 0)
    while page := await store.streams(after, PAGE):
        for recorded in page:
            if held and held[0].task_id != recorded.task_id:
                yield tuple(held)
                held = []
            held.append(recorded)
        after = (page[-1].task_id, page[-1].version)
    if held:
        yield tuple(held)


async def _projected_only(store: Store) -> AsyncIterator[str]:
    after = ""
    while ids := await store.projected_task_ids(after, PAGE):
        for task_id in ids:
            if not await store.read(task_id):
                yield task_id
        after = ids[-1]
