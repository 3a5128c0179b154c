"""The price books that a ledger holds, by the beginning of their digest, and the one that would be made now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import LedgerCorrupt, RequestRefused
from ledger.prices.book import PriceBook, read_book
from ledger.prices.source import build_book
from ledger.prices.tables import PriceTable
from ledger.store.protocol import Store
from ledger.system_events import PriceBookPublished

__all__ = ["CURRENT", "STREAM", "Published", "chosen", "current", "named", "published", "read_published"]

STREAM: Final = "ledger:prices"
CURRENT: Final = "current"
"""Names the book that this installation and its configuration would make now."""


@dataclass(frozen=True, slots=True)
class Published:
    """A book as it stands in the ledger."""

    version: int
    """Its place in the stream of books."""
    recorded_at_ms: int
    event: PriceBookPublished


async def published(store: Store) -> tuple[Published, ...]:
    """Return the ledger's books, oldest first.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    stream = await store.read(STREAM)
    books = ((recorded, recorded.event()) for recorded in stream)
    return tuple(
        Published(recorded.version, recorded.recorded_at_ms, event)
        for recorded, event in books
        if isinstance(event, PriceBookPublished)
    )


async def current(own: Mapping[str, PriceTable]) -> PriceBook:
    """Make the book of the installed prices and our own; a quarter of a second, on another thread.

    Raises:
        ConfigurationError: our own prices cannot be put into it.
    """
    return await asyncio.to_thread(build_book, own)


async def named(store: Store | None, name: str, own: Mapping[str, PriceTable]) -> PriceBook:
    """Return the book that a person means: the beginning of a digest, or ``current``.

    Raises:
        RequestRefused: no book of the ledger answers to the name, or several do.
        LedgerError: the ledger cannot be read, or the book is not as it was published.
        ConfigurationError: our own prices cannot be put into the current one.
    """
    if name.lower() == CURRENT:
        return await current(own)
    return read_published(chosen(() if store is None else await published(store), name).event)


def chosen(books: Sequence[Published], name: str) -> Published:
    """Return the one book whose digest begins so; the same one published twice is one.

    Raises:
        RequestRefused: none does, or several do.
    """
    wanted = name.strip().lower()
    found = {one.event.price_book: one for one in books if wanted and one.event.price_book.startswith(wanted)}
    match list(found.values()):
        case [one]:
            return one
        case []:
            said = f"no price book of this ledger begins with {name!r}; `dispatch-ledger prices books` lists them"
            raise RequestRefused(f"{said}, and {CURRENT!r} is what would be made now", field="prices")
        case several:
            digests = ", ".join(one.event.price_book[:16] for one in several)
            raise RequestRefused(
                f"several price books begin with {name!r}: {digests}; write more of it", field="prices"
            )


def read_published(event: PriceBookPublished) -> PriceBook:
    """Read a published book.

    Raises:
        EventInvalid: its content is no book.
        LedgerCorrupt: its content is not what its digest names.
    """
    book = read_book(event.content)
    if book.digest != event.price_book:
        raise LedgerCorrupt(f"the price book {event.price_book[:12]}… is not as it was published; run `verify`")
    return book
