"""``verify``: walk the whole ledger, stream by stream, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.audit.anchors import STREAM as ANCHORS
from ledger.audit.anchors import Line
from ledger.audit.brakes import Sights
from ledger.audit.budgets import Purses
from ledger.audit.checking import Aids, Found, check_streams, event_problems
from ledger.audit.costs import Prices, read_books
from ledger.audit.covered import Coverage, readable
from ledger.audit.hands import Hands
from ledger.audit.texts import key_digest, key_problems
from ledger.audit.told import told
from ledger.audit.walking import BUSY_OR_FULL, Walk
from ledger.envelope import Stream
from ledger.errors import LedgerError
from ledger.store.beside import Page, Side
from ledger.store.protocol import Problem, Store

__all__ = ["Report", "verify"]

PROBLEMS_MAX: Final = 1000
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
    anchored, newest = await _anchored(store, kept, keys, problems), await store.newest()
    aids = Aids(await _key_salt(store, problems), await _texts(store, problems), newest, anchored)
    walk, others, counts = Walk(store, problems), _Others(store), _Counts(progress)
    begun: deque[asyncio.Future[Found]] = deque()
    with Hands(aids, processes) as hands:
        async for part in walk.pages():
            is_page = isinstance(part, Page)
            if isinstance(part, Page):
                begun.append(hands.check(part))
            while len(begun) >= (hands.under_way if is_page else 1):
                problems += await others.problems(counts.add(await begun.popleft()))
            if not isinstance(part, Page):
                problems += await _read_apart(store, part, aids, others)
                counts.add(_counted(part, aids))
            del problems[PROBLEMS_MAX:]
        while begun:
            problems += await others.problems(counts.add(await begun.popleft()))
    problems += await others.purses.problems()
    await walk.look_for_strays()
    await walk.look_for_hidden(counts.total.standing, newest)
    total = counts.total
    return Report(not problems, total.events, total.tasks, total.unanchored, tuple(problems[:PROBLEMS_MAX]))


@dataclass(slots=True)
class _Counts:
    """Adds up what was checked."""

    progress: Callable[[int], object] | None
    total: Found = field(default_factory=Found)

    def add(self, found: Found) -> Found:
        for name in ("events", "tasks", "standing", "unanchored"):
            setattr(self.total, name, getattr(self.total, name) + getattr(found, name))
        if self.progress is not None:
            self.progress(self.total.events)
        return found


def _counted(stream: Stream, aids: Aids) -> Found:
    found = Found()
    found.count(stream, aids)
    return found


class _Others:
    """What takes a look at other streams than those that were checked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sights = Sights(store)
        self.purses = Purses(store)

    async def problems(self, found: Found) -> list[Problem]:
        """Return what was found in some streams, and what is wrong with what they say of others."""
        problems = found.problems
        for task_id, digest in found.lost_keys:
            problems += key_problems(task_id, await self._store.task_of_key(digest))
        problems += await self._sights.problems(found.brakes)
        problems += self.purses.look(found.budgets)
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


async def _read_apart(store: Store, stream: Stream, aids: Aids, others: _Others) -> list[Problem]:
    """Check a stream and read what stands beside it; one that grew meanwhile is read again: others may be at work."""
    task_id = stream[0].task_id
    prices = Prices(aids.texts)
    for _ in range(READS_MAX):
        try:
            side = Side(await store.projected(task_id), await store.payloads(task_id))
            expected = None if aids.salt is None else key_digest(told(stream[:1]), side.payloads, aids.salt)
            if expected is not None and await store.task_of_key(expected) == task_id:
                side = side._replace(keys=(expected,))
            found = await others.problems(check_streams([(stream, side)], aids, prices))
            again = await store.read(task_id) if found else stream
        except BUSY_OR_FULL:
            raise
        except LedgerError as error:
            problem = Problem("damaged", task_id, None, f"rows of this task cannot be read: {error}")
            return [*event_problems(stream, told(stream)), problem]
        if again == stream or not again:  # gone while it was read: what was found in it still stands
            return found
        stream = again
    return event_problems(stream, told(stream))
