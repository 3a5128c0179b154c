"""The price book that attempts start under: found in the ledger, else made and published there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ledger import events as e
from ledger.envelope import Recorded, Stream
from ledger.errors import VersionConflict
from ledger.executor.outcomes import Terms
from ledger.executor.transact import Desk
from ledger.prices.book import PriceBook
from ledger.prices.shelf import STREAM, published, read_published
from ledger.prices.source import SOURCE, build_book, has_prices, source_version
from ledger.prices.tables import PriceTable
from ledger.system_events import PriceBookPublished

__all__ = ["STREAM", "Books", "built", "in_force"]

BOOKS_MAX: Final = 8

_built: Final[dict[str, PriceBook]] = {}
"""By their source's version: a process makes a book once, however many executors it has."""


class Books:
    """The price book of one executor's attempts; looked for when the first attempt needs it.

    Args:
        desk: the ledger, and the worker who publishes.
        own: ``[prices]`` of the configuration.
    """

    def __init__(self, desk: Desk, own: Mapping[str, PriceTable]) -> None:
        self._desk = desk
        self._own = own
        self._book: PriceBook | None = None
        self._turn = asyncio.Lock()

    async def of(self, provider: str) -> PriceBook | None:
        """Return the book for a provider's attempts; None where no price of that provider is known to anybody.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        if self._book is None and has_prices(provider, self._own):
            async with self._turn:
                self._book = self._book or await in_force(self._desk, self._own)
        return self._book if has_prices(provider, self._own) else None

    def terms(self, stream: Stream, started: e.AttemptStarted) -> Terms:
        """Return what an attempt of ours is charged by: the book that its start names, when it was recorded.

        Args:
            stream: the task's, with the start in it.
            started: the attempt's.
        """
        at_ms = next(recorded.recorded_at_ms for recorded in reversed(stream) if _is_start(recorded, started.attempt))
        named = self._book is not None and self._book.digest == started.price_book
        return Terms(self._book if named else None, at_ms)


def _is_start(recorded: Recorded, attempt: int) -> bool:
    event = recorded.event() if recorded.type == e.AttemptStarted.TYPE else None
    return isinstance(event, e.AttemptStarted) and event.attempt == attempt


async def in_force(desk: Desk, own: Mapping[str, PriceTable]) -> PriceBook:
    """Return the published book of the installed prices and our own ones; publish it where none is.

    The newest one with the same source's version is taken: two hosts with different prices publish one each, and
    not a new one at every start.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    version = source_version(own)
    while True:
        books = await published(desk.store)
        found = next((one.event for one in reversed(books) if one.event.source_version == version), None)
        if found is not None:
            kept = _built.get(version)
            return kept if kept is not None and kept.digest == found.price_book else read_published(found)
        book: PriceBook = _built[version] if version in _built else await asyncio.to_thread(built, own)
        event = PriceBookPublished(
            price_book=book.digest,
            source=SOURCE,
            source_version=version,
            as_of_ms=desk.ports.now_ms(),
            content=book.text,
        )
        try:
            await desk.store.append(desk.sealed(STREAM, books[-1].version if books else 0, (event,), fence=0))
        except VersionConflict:  # somebody else published one: it may be the same
            continue
        return book


def built(own: Mapping[str, PriceTable]) -> PriceBook:
    """Make the book of the installed prices and our own ones, once a process; it takes a quarter of a second."""
    version = source_version(own)
    if version not in _built:
        if len(_built) >= BOOKS_MAX:
            _built.clear()
        _built[version] = build_book(own)
    return _built[version]
