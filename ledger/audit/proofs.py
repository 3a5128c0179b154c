"""Proofs that a task's events are among what an anchor sealed, for who has one line of that and not the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from ledger.audit.anchors import STREAM, Line, line_of, range_leaves
from ledger.audit.merkle import Tree, leaf_hash
from ledger.envelope import Recorded
from ledger.errors import LedgerCorrupt, UsageError
from ledger.store.protocol import Store

__all__ = ["task_proof"]

FORM: Final = "dispatch_ledger_proof"
UNSEALED: Final[dict[str, Any]] = {"anchor": None, "index": None, "path": None}


async def task_proof(store: Store, task_id: str) -> dict[str, Any]:
    """Return a task's events, each with its way to the root of its anchor, and the anchors up to the newest.

    The page of code in ``docs/audit.md`` checks it against a kept line. The task's row, which is made of its events,
    is there to be read; nothing proves it but them.

    Raises:
        UsageError: no anchor covers any event of the task yet.
        LedgerCorrupt: an anchor does not fit the events that it covers.
        EventInvalid: an anchor cannot be read.
        LedgerError: the ledger cannot be read.
    """
    stream, anchors = await store.read(task_id), await store.read(STREAM)
    lines = {recorded.version: line_of(recorded) for recorded in anchors}
    by_anchor: defaultdict[int, list[Recorded]] = defaultdict(list)
    for recorded in stream:
        covering = next((line for line in lines.values() if _covers(line, recorded)), None)
        if covering is not None:
            by_anchor[covering.anchor].append(recorded)
    if not by_anchor:
        raise UsageError(f"no anchor covers task {task_id} yet; `dispatch-ledger anchor` seals what is new")
    ways: dict[int, dict[str, Any]] = {}
    for number, mine in by_anchor.items():
        ways |= await _ways(store, lines[number], mine)
    tasks = (await store.projected(task_id)).tasks
    return {
        FORM: 1,
        "task_id": task_id,
        "task": dict(tasks[0]) if tasks else None,
        "events": [_written(recorded) | ways.get(recorded.position, UNSEALED) for recorded in stream],
        "anchors": [_written(recorded) for recorded in anchors if recorded.version >= min(by_anchor)],
    }


def _covers(line: Line, recorded: Recorded) -> bool:
    return line.sealed.first_position <= recorded.position <= line.sealed.last_position


async def _ways(store: Store, line: Line, mine: Sequence[Recorded]) -> dict[int, dict[str, Any]]:
    """Return the way of each event to the root of one anchor, by position."""
    sealed, tree, places = line.sealed, Tree(), dict.fromkeys((recorded.position for recorded in mine), 0)
    async for position, event_hash in range_leaves(store, sealed.first_position, sealed.last_position):
        is_mine = position in places
        if is_mine:
            places[position] = tree.size
        tree.add(leaf_hash(position, event_hash), prove=is_mine)
    if (tree.size, tree.root().hex()) != (sealed.events, sealed.root):
        raise LedgerCorrupt(f"anchor {line.anchor} does not fit the events that it sealed; run `verify`")
    return {
        position: {"anchor": line.anchor, "index": index, "path": [node.hex() for node in tree.path(index)]}
        for position, index in places.items()
    }


def _written(recorded: Recorded) -> dict[str, Any]:
    """Return an event with its data as the very text that is hashed."""
    return recorded._asdict() | {"prev_hash": recorded.prev_hash.hex(), "hash": recorded.hash.hex()}
