"""``verify``: walk the whole ledger, stream by stream, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.audit.brakes import Sights, breaker_problems
from ledger.audit.streams import chain_problems, history_problems, projection_problems
from ledger.audit.texts import key_digest, key_problems, payload_problems
from ledger.envelope import Recorded, Stream
from ledger.errors import LedgerBusy, LedgerError, LedgerFull
from ledger.store.protocol import Problem, Store

__all__ = ["Report", "verify"]

PAGE: Final = 1000
PROBLEMS_MAX: Final = 1000
READS_MAX: Final = 100
"""How often a stream is read again that grows while it is checked; of one that busy the events alone are checked."""
BUSY_OR_FULL: Final = (LedgerBusy, LedgerFull)
"""Errors that say nothing about the ledger's content."""


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
    salt = await _key_salt(store, problems)
    sights = Sights(store)
    async for stream in _streams(store, problems):
        events += len(stream)
        tasks += stream[0].type == "task.submitted"
        problems += await _stream_problems(store, stream, salt, sights)
        del problems[PROBLEMS_MAX:]
        if progress is not None:
            progress(events)
    async for task_id in _projected_only(store):
        problems.append(Problem("projection", task_id, None, "a projection has rows of a task without events"))
    return Report(not problems, events, tasks, events, tuple(problems[:PROBLEMS_MAX]))


async def _key_salt(store: Store, problems: list[Problem]) -> bytes | None:
    try:
        return await store.key_salt()
    except LedgerError as error:
        problems.append(Problem("key", None, None, f"the salt of the keys is gone, so no key can be found: {error}"))
        return None


async def _stream_problems(store: Store, stream: Stream, salt: bytes | None, sights: Sights) -> list[Problem]:
    """Check a stream and what stands beside it; one that grew meanwhile is read again, for others may be at work."""
    task_id = stream[0].task_id
    for _ in range(READS_MAX):
        found = [*chain_problems(stream), *history_problems(stream), *breaker_problems(stream)]
        try:
            found += await sights.problems(stream)
            found += projection_problems(task_id, stream, await store.projected(task_id))
            found += payload_problems(task_id, stream, payloads := await store.payloads(task_id))
            if salt is not None and (digest := key_digest(stream, payloads, salt)) is not None:
                found += key_problems(task_id, stream, await store.task_of_key(digest))
            again = await store.read(task_id) if found else stream
        except BUSY_OR_FULL:
            raise
        except LedgerError as error:
            return [*found, Problem("damaged", task_id, None, f"rows of this task cannot be read: {error}")]
        if again == stream or not again:  # gone while it was read: what was found in it still stands
            return found
        stream = again
    return [*chain_problems(stream), *history_problems(stream), *breaker_problems(stream)]


async def _streams(store: Store, problems: list[Problem]) -> AsyncIterator[Stream]:
    """Yield every stream whole, holding one page and one stream at a time; past what cannot be read nothing is."""
    held: list[Recorded] = []
    after = ("", 0)
    while page := await _page(store, after, problems):
        for recorded in page:
            if held and held[0].task_id != recorded.task_id:
                yield tuple(held)
                held = []
            held.append(recorded)
        before, after = after, (page[-1].task_id, page[-1].version)
        if after == before:  # an id that is no text is read as another one, and the page would come again for ever
            problems.append(Problem("damaged", after[0], None, "what follows this task's id was not checked"))
            break
    if held:
        yield tuple(held)


async def _page(store: Store, after: tuple[str, int], problems: list[Problem]) -> Sequence[Recorded]:
    try:
        return await store.streams(after, PAGE)
    except BUSY_OR_FULL:
        raise
    except LedgerError as error:
        detail = f"events cannot be read, and what follows them was not checked: {error}"
        problems.append(Problem("damaged", after[0] or None, None, detail))
        return ()


async def _projected_only(store: Store) -> AsyncIterator[str]:
    before, after = None, ""
    while after != before and (ids := await store.projected_task_ids(after, PAGE)):
        for task_id in ids:
            if not await store.read(task_id):
                yield task_id
        before, after = after, ids[-1]
