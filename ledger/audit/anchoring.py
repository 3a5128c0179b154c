"""Sealing: everything since the last anchor becomes one root, appended to ``ledger:anchors``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.audit.anchors import STREAM, Line, line_of, range_leaves
from ledger.audit.merkle import Tree, leaf_hash
from ledger.audit.signing import Sign
from ledger.envelope import Append, NewEvent
from ledger.errors import LedgerBusy, VersionConflict
from ledger.ports import Ports
from ledger.store.leaves import leaves
from ledger.store.protocol import Store
from ledger.system_events import AnchorSealed

__all__ = ["Sealed", "seal_range"]

CONFLICTS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class Sealed:
    """The newest anchor of a ledger."""

    line: Line
    is_new: bool
    """False where nothing had been appended since but itself."""


async def seal_range(store: Store, ports: Ports, sign: Sign | None = None) -> Sealed | None:
    """Seal what no anchor covers yet; return the newest anchor, None where the ledger is empty.

    When two do it at once one is first, and the other seals what is left after it.

    Raises:
        EventInvalid: the newest anchor cannot be read.
        LedgerError: the ledger cannot be used.
    """
    for _ in range(CONFLICTS_MAX):
        anchors = await store.read(STREAM)
        before = line_of(anchors[-1]) if anchors else None
        sealed = await _range(store, before, ports.now_ms())
        if sealed is None:
            return None if before is None else Sealed(before, is_new=False)
        alone = bool(anchors) and (sealed.events, sealed.last_position) == (1, anchors[-1].position)
        if before is not None and alone and (sign is None or before.sealed.signature is not None):
            return Sealed(before, is_new=False)  # nothing but the anchor itself
        new = NewEvent(ports.new_id(), sealed if sign is None else sign(sealed), "system")
        try:
            stream = await store.append(Append(STREAM, len(anchors), (new,)))
        except VersionConflict:
            continue
        return Sealed(line_of(stream[len(anchors)]), is_new=True)
    raise LedgerBusy(f"others seal anchors all the time: {CONFLICTS_MAX} times somebody was faster; try again")


async def _range(store: Store, before: Line | None, at_ms: int) -> AnchorSealed | None:
    """Measure what follows an anchor; None where nothing does."""
    first = 1 if before is None else before.sealed.last_position + 1
    last = await store.newest()
    tree = Tree()
    async for position, event_hash in range_leaves(store, first, last):
        tree.add(leaf_hash(position, event_hash))
    if not tree.size:
        return None
    (_, lowest), *_ = await leaves(store, 0, last, 1)
    return AnchorSealed(
        ledger=lowest.hex(),
        first_position=first,
        last_position=last,
        events=tree.size,
        root=tree.root().hex(),
        previous=None if before is None else before.hash.hex(),
        sealed_at_ms=at_ms,
        signature=None,
        public_key=None,
    )
