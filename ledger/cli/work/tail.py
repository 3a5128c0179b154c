"""The work of ``tail``.

Events are read by position. No store shows one while a smaller one may still be committed (SQLite gives them under its
one writer's lock, PostgreSQL under a lock that readers wait for), so to read on from the last one seen misses nothing.
Every read is short: a long one would keep SQLite's log from shrinking.
"""

from __future__ import annotations

import asyncio
import io
import select
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.show import event_record
from ledger.cli.work.story import event_lines
from ledger.cli.work.words import instant
from ledger.envelope import Recorded
from ledger.errors import EventInvalid
from ledger.store.protocol import Store

__all__ = ["tail_events"]

PAGE: Final = 500
POLL_S: Final = 0.2
ID_END: Final = 12


def tail_events(common: Common, lines: int, *, follow: bool) -> int:
    """Print events and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            store = await executor.ledger.store()
            newest = await store.newest()
            first = await _first(store, newest, lines)
            async for recorded in _from(store, first, newest, follow=follow):
                if not _tell(recorded, as_json=common.as_json):
                    break
        return DONE

    return perform(work, interrupted="the ledger was only read")


async def _first(store: Store, newest: int, lines: int) -> int:
    """Return the position before the last so many events; a number that no event has does not count."""
    if lines == 0:
        return newest
    span = min(lines, newest)
    while True:
        found: Sequence[Recorded] = await store.page(newest - span, span)
        if len(found) >= lines:
            return found[-lines].position - 1
        if span == newest:
            return 0
        span = min(span * 2, newest)


async def _from(store: Store, after: int, newest: int, *, follow: bool) -> AsyncIterator[Recorded]:
    """Yield what stands after a position, up to the newest there was, or for ever as long as somebody reads."""
    while True:
        page = await store.page(after, PAGE)
        for recorded in page:
            if not follow and recorded.position > newest:
                return
            yield recorded
        after = page[-1].position if page else after
        if len(page) == PAGE:
            continue
        if not follow or _reader_is_gone():
            return
        await asyncio.sleep(POLL_S)


def _reader_is_gone() -> bool:
    """Say whether the other end of a pipe was closed: without an event to write, nothing else would tell."""
    try:
        descriptor = sys.stdout.fileno()
    except (io.UnsupportedOperation, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))


def _tell(recorded: Recorded, *, as_json: bool) -> bool:
    """Write one event; False when nobody reads any more."""
    if as_json:
        return output.document(event_record(recorded), on_one_line=True)
    try:
        first, *_ = event_lines(recorded.event(), {})
    except EventInvalid:
        first = f"{recorded.type} (of a newer version)"
    of = recorded.task_id[-ID_END:] if output.is_terminal() and ":" not in recorded.task_id else recorded.task_id
    line = f"{instant(recorded.recorded_at_ms)} {of} v{recorded.version} {first}"
    return output.write(f"{output.visible(line)}\n")
