"""``verify``: walk the whole ledger, stream by stream, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.audit.anchors import STREAM as ANCHORS
from ledger.audit.anchors import Line
from ledger.audit.brakes import Sights
from ledger.audit.budgets import Purses
from ledger.audit.checking import Aids, Batch, Found, Hands, check_streams, event_problems
from ledger.audit.costs import Prices, read_books
from ledger.audit.covered import Coverage, readable
from ledger.audit.texts import key_digest, key_problems
from ledger.audit.walking import BUSY_OR_FULL, Walk
from ledger.envelope import Recorded, Stream
from ledger.errors import LedgerError
from ledger.store.beside import Side
from ledger.store.protocol import Problem, Store

__all__ = ["Report", "verify"]

PROBLEMS_MAX: Final = 1000
Seen = tuple[Sights, Purses]
"""What decisions saw of breakers, and of budgets."""
READS_MAX: Final = 100
"""How often a stream is read again that grows while it is checked; of one that busy the events alone are checked."""


@dataclass(frozen=True, slots=True)
class Report:
    """What ``verify`` found."""

    ok: bool
    events: int
    tasks: int
    unanchored: int
    """Events that no anchor covers, or none of those kept: what is missing among them cannot be seen."""
    problems: tuple[Problem, ...]
    """At most a thousand."""


async def verify(
    store: Store,
    *,
    progress: Callable[[int], object] | None = None,
    kept: Sequence[Line] = (),
    keys: Sequence[bytes] = (),
    processes: int = 0,
) -> Report:
    """Check everything a ledger can say about itself, and what was kept of it elsewhere.

    Args:
        store: the ledger.
        progress: called with the number of events checked so far.
        kept: anchors that were kept elsewhere; only then what was cut off or written anew is found.
        keys: public keys, one of which must have signed the anchors.
        processes: how many other processes check; each is spawned, so the caller's main module must bear an import.

    Raises:
        ConfigurationError: signatures are to be checked, and ``cryptography`` is not installed.
        LedgerError: the ledger cannot be read.
    """
    problems = list(await store.check())
    tally = _Tally(await _anchored(store, kept, keys, problems), progress, await store.newest())
    aids = Aids(await _key_salt(store, problems), await _texts(store, problems))
    walk, sights = Walk(store, problems), (Sights(store), Purses(store))
    begun: deque[tuple[Batch, asyncio.Future[Found]]] = deque()
    with Hands(aids, processes) as hands:
        async for batch, alone in walk.pages():
            if batch:
                begun.append((batch, hands.check(batch)))
            if alone:
                problems += await _read_apart(store, alone, aids, sights)
                tally.add(alone)
            while len(begun) >= (hands.under_way if batch else 1):
                problems += await _finished(store, *begun.popleft(), sights, tally)
            del problems[PROBLEMS_MAX:]
        while begun:
            problems += await _finished(store, *begun.popleft(), sights, tally)
    problems += await sights[1].problems()
    await walk.look_for_strays()
    await walk.look_for_hidden(tally.standing, tally.newest)
    return Report(not problems, tally.events, tally.tasks, tally.unanchored, tuple(problems[:PROBLEMS_MAX]))


@dataclass(slots=True)
class _Tally:
    """Counts what was checked."""

    anchored: Line | None
    progress: Callable[[int], object] | None
    newest: int = 0
    """The newest position when the walk began."""
    standing: int = 0
    """Events up to it."""
    events: int = 0
    tasks: int = 0
    unanchored: int = 0

    def add(self, stream: Stream) -> None:
        self.events += len(stream)
        self.tasks += stream[0].type == "task.submitted"
        self.standing += sum(recorded.position <= self.newest for recorded in stream)
        self.unanchored += sum(not _covered(recorded, self.anchored) for recorded in stream)
        if self.progress is not None:
            self.progress(self.events)


async def _finished(
    store: Store, batch: Batch, checked: asyncio.Future[Found], sights: Seen, tally: _Tally
) -> list[Problem]:
    """Wait for what was found in some streams, and add what takes a look at others."""
    found = await checked
    problems, (brakes, purses) = found.problems, sights
    for stream, digest in found.lost_keys:
        problems += key_problems(stream[0].task_id, stream, await store.task_of_key(digest))
    for stream, _ in batch:
        problems += await brakes.problems(stream)
        problems += purses.look(stream)
        tally.add(stream)
    return problems


async def _anchored(store: Store, kept: Sequence[Line], keys: Sequence[bytes], problems: list[Problem]) -> Line | None:
    """Check the anchors; return the one that reaches farthest."""
    try:
        stream = await store.read(ANCHORS)
        async for problem in Coverage(store, kept, keys).problems(stream):
            problems.append(problem)
            del problems[PROBLEMS_MAX:]
    except BUSY_OR_FULL:
        raise
    except LedgerError as error:
        problems.append(Problem("damaged", ANCHORS, None, f"anchors cannot be checked: {error}"))
        return None
    return max(kept or readable(stream), key=lambda line: line.sealed.last_position, default=None)


def _covered(recorded: Recorded, anchor: Line | None) -> bool:
    """Say whether an anchor covers an event: it lies in its range or before, or is an anchor that its hash covers."""
    if anchor is None:
        return False
    is_anchor = recorded.task_id == ANCHORS and recorded.version <= anchor.anchor
    return is_anchor or recorded.position <= anchor.sealed.last_position


async def _key_salt(store: Store, problems: list[Problem]) -> bytes | None:
    try:
        return await store.key_salt()
    except LedgerError as error:
        problems.append(Problem("key", None, None, f"the salt of the keys is gone, so no key can be found: {error}"))
        return None


async def _texts(store: Store, problems: list[Problem]) -> Mapping[str, str]:
    try:
        return await read_books(store, problems)
    except BUSY_OR_FULL:
        raise
    except LedgerError as error:
        problems.append(Problem("damaged", None, None, f"the price books cannot be read: {error}"))
        return {}


async def _read_apart(store: Store, stream: Stream, aids: Aids, sights: Seen) -> list[Problem]:
    """Check a stream and read what stands beside it; one that grew meanwhile is read again: others may be at work."""
    task_id = stream[0].task_id
    prices, tally = Prices(aids.texts), _Tally(None, None)
    for _ in range(READS_MAX):
        try:
            side = Side(await store.projected(task_id), await store.payloads(task_id))
            expected = None if aids.salt is None else key_digest(stream, side.payloads, aids.salt)
            if expected is not None and await store.task_of_key(expected) == task_id:
                side = side._replace(keys=(expected,))
            checked: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            checked.set_result(check_streams([(stream, side)], aids.salt, prices))
            found = await _finished(store, [(stream, side)], checked, sights, tally)
            again = await store.read(task_id) if found else stream
        except BUSY_OR_FULL:
            raise
        except LedgerError as error:
            problem = Problem("damaged", task_id, None, f"rows of this task cannot be read: {error}")
            return [*event_problems(stream), problem]
        if again == stream or not again:  # gone while it was read: what was found in it still stands
            return found
        stream = again
    return event_problems(stream)
