"""The events of streams that are not tasks: ``breaker:<provider>/<model>``, ``ledger:prices``, ``ledger:anchors``."""

from __future__ import annotations

from typing import Literal

from ledger.events import Event
from ledger.parts import Digest, Natural, Positive

__all__ = ["AnchorSealed", "BreakerClosed", "BreakerOpened", "PriceBookPublished"]


class BreakerOpened(Event):
    """A provider's model is left alone until an instant."""

    TYPE = "breaker.opened"
    provider: str
    model: str
    cause: Literal["failures", "retry_after", "trial_failed"]
    until_ms: Natural
    open_ms: Positive
    failures: tuple[str, ...]
    """The event ids of the failures that opened it."""


class BreakerClosed(Event):
    """A trial call went through."""

    TYPE = "breaker.closed"
    provider: str
    model: str
    trial_event_id: str


class PriceBookPublished(Event):
    """Dated prices, named by the hash of their content."""

    TYPE = "price_book.published"
    price_book: Digest
    source: str
    source_version: str
    as_of_ms: Natural
    content: str
    """The book as canonical JSON text."""


class AnchorSealed(Event):
    """A Merkle root over the events of a range of positions, linked to the anchor before."""

    TYPE = "anchor.sealed"
    first_position: Positive
    last_position: Positive
    events: Positive
    root: Digest
    previous: Digest | None
    """The hash of the anchor before; NULL for the first."""
    signature: str | None
    public_key: str | None
