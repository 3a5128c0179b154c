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
    """A Merkle root over the events of a range of positions, linked to the anchor before.

    Ranges follow each other without a hole, from position 1 on: what later turns up at a position that nothing stood
    at is found. A signature is Ed25519 over what ``ledger.audit.anchors.statement`` makes of all fields but itself.
    """

    TYPE = "anchor.sealed"
    ledger: Digest
    """The hash of the event at the lowest position: which ledger this is."""
    first_position: Positive
    """Where the range begins: 1, or the position after the range before."""
    last_position: Positive
    """Where it ends; no event was still to come at or before it."""
    events: Positive
    """How many there are in the range: the size of the tree."""
    root: Digest
    previous: Digest | None
    """The hash of the anchor before; NULL for the first."""
    sealed_at_ms: Natural
    """The clock of whoever sealed it, UTC milliseconds; unlike the time of recording it is signed."""
    signature: str | None
    """In hex."""
    public_key: str | None
    """In hex: the 32 bytes of the key that signed."""
