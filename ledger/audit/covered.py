"""Checking anchors: those of the ledger against its events, and those that were kept elsewhere against the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from ledger.audit.anchors import STREAM, Line, line_of, range_leaves
from ledger.audit.merkle import Tree, leaf_hash
from ledger.audit.signing import is_signed_by
from ledger.envelope import Recorded
from ledger.errors import EventInvalid
from ledger.store.leaves import leaves
from ledger.store.protocol import Problem, Store
from ledger.system_events import AnchorSealed

__all__ = ["Coverage", "readable"]

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in a range."""

    events: int
    root: str
    gap: int | None
    """The first position that nothing stands at."""


class Coverage:
    """The anchors of a ledger, and what was kept of them.

    Args:
        store: the ledger.
        kept: lines that were kept elsewhere.
        keys: public keys, one of which must have signed.
    """

    def __init__(self, store: Store, kept: Sequence[Line], keys: Sequence[bytes]) -> None:
        self._store = store
        self._kept = kept
        self._keys = keys
        self._measured: dict[Range, Found] = {}

    async def problems(self, stream: Sequence[Recorded]) -> AsyncIterator[Problem]:
        """Check every anchor of the ledger, then every line.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        anchors = readable(stream)
        newest = await self._store.newest()
        lowest = next((digest.hex() for _, digest in await leaves(self._store, 0, newest, 1)), None)
        for problem in (*_links(stream, lowest), *self._signatures(anchors)):
            yield problem
        for line in anchors:
            wrong = _difference(line, await self._found(line.sealed))
            if wrong is not None:
                yield _problem(wrong[0] or "anchor_changed", line, wrong[1])
        own = {line.anchor: line for line in anchors}
        for line in self._kept:
            async for problem in self._kept_problems(line, own.get(line.anchor), newest, lowest):
                yield problem

    async def _kept_problems(
        self, line: Line, own: Line | None, newest: int, lowest: str | None
    ) -> AsyncIterator[Problem]:
        sealed = line.sealed
        if own is not None and own.hash == line.hash:
            if own.sealed != sealed:
                yield _problem(
                    "anchor_line", line, "the line differs from the anchor whose hash it has: it was altered"
                )
            return  # what the ledger's own anchor covers was checked with it
        if newest < sealed.last_position:
            detail = f"the ledger ends at position {newest}: its end was cut off, or an older copy was restored"
            yield _problem("anchor_cut", line, detail)
        elif lowest != sealed.ledger:
            detail = (
                "the ledger begins with another event: it is another ledger, or was written anew from its beginning"
            )
            yield _problem("anchor_ledger", line, detail)
        elif (wrong := _difference(line, await self._found(sealed))) is not None:
            detail = f"{wrong[1]}; the ledger's history was written anew, or an older copy was restored and used"
            yield _problem(wrong[0] or "anchor_forked", line, detail)
        elif own is None:
            yield _problem("anchor_lost", line, "its events stand, and the anchor itself is gone from the ledger")
        else:
            yield _problem("anchor_forked", line, "its events stand, and the ledger has another anchor in its place")

    async def _found(self, sealed: AnchorSealed) -> Found:
        """Measure a range, once."""
        place = (sealed.first_position, sealed.last_position)
        if place not in self._measured:
            tree, gap, due = Tree(), None, sealed.first_position
            async for position, event_hash in range_leaves(self._store, *place):
                tree.add(leaf_hash(position, event_hash))
                gap = due if gap is None and position != due else gap
                due = position + 1
            gap = due if gap is None and due <= sealed.last_position else gap
            self._measured[place] = Found(tree.size, tree.root().hex(), gap)
        return self._measured[place]

    def _signatures(self, anchors: Sequence[Line]) -> Iterator[Problem]:
        """Check that one key signed a line, and each after it: what comes before is linked to it."""
        if not self._keys:
            return
        if not anchors and not self._kept:
            yield Problem(
                "anchor_signature", STREAM, None, "the ledger has no anchor, so none that this key has signed"
            )
        for lines in (anchors, self._kept):
            signed = [any(is_signed_by(key, line.sealed) for key in self._keys) for line in lines]
            if lines and not any(signed):
                yield _problem(
                    "anchor_signature", lines[-1], "neither this anchor nor one before is signed by this key"
                )
            for line, is_good in list(zip(lines, signed, strict=True))[
                signed.index(True) if any(signed) else len(lines) :
            ]:
                if not is_good:
                    yield _problem("anchor_signature", line, "not signed by this key, and an anchor before it is")


def readable(stream: Sequence[Recorded]) -> list[Line]:
    """Return the anchors of a stream; what is none is left out."""
    return [line for line in map(_readable, stream) if line is not None]


def _readable(recorded: Recorded) -> Line | None:
    try:
        return line_of(recorded)
    except EventInvalid:
        return None  # reported as a link problem


def _links(stream: Sequence[Recorded], lowest: str | None) -> Iterator[Problem]:
    """Check that the anchors of a ledger follow each other without a hole."""
    before: Line | None = None
    for recorded in stream:
        line = _readable(recorded)
        if line is None:
            yield Problem("anchor_link", STREAM, recorded.version, "no anchor stands here")
            continue
        sealed = line.sealed
        previous = None if before is None else before.hash.hex()
        first = 1 if before is None else before.sealed.last_position + 1
        if sealed.previous != previous:
            yield _problem("anchor_link", line, "it is not linked to the anchor before")
        if sealed.first_position != first:
            yield _problem("anchor_link", line, f"its range begins there, and should at position {first}")
        if not sealed.first_position <= sealed.last_position < recorded.position:
            yield _problem("anchor_link", line, f"its range does not end before its own position {recorded.position}")
        if sealed.ledger != lowest:
            yield _problem("anchor_ledger", line, "the ledger begins with another event than it says")
        before = line


def _difference(line: Line, found: Found) -> tuple[str | None, str] | None:
    """Return the kind, where it is sure, and the detail of what is wrong in a range; None where it stands as sealed."""
    sealed = line.sealed
    if found.events < sealed.events:
        gone = sealed.events - found.events
        detail = f"{gone} of {sealed.events} sealed events are gone; the first empty position is {found.gap}"
        return "anchor_missing", detail
    if found.events > sealed.events:
        return "anchor_added", f"{found.events} events stand where {sealed.events} were sealed"
    if found.root != sealed.root:
        return None, f"the {sealed.events} events there do not have the sealed root: at least one is not what it was"
    return None


def _problem(kind: str, line: Line, detail: str) -> Problem:
    place = f"anchor {line.anchor} over positions {line.sealed.first_position} to {line.sealed.last_position}"
    return Problem(kind, STREAM, line.anchor, f"{place}: {detail}")
