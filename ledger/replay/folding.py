"""A backtest of a ledger: its finished tasks, one at a time, through another policy; no call is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ledger.errors import CommandRefused, EventInvalid
from ledger.questions import asked_for
from ledger.replay.account import Account
from ledger.replay.backtest import CannotAnswer, backtested
from ledger.replay.overlay import Asked, Overlay
from ledger.replay.record import read_record
from ledger.replay.selection import Selection, selected
from ledger.store.protocol import Store

__all__ = ["backtest"]


async def backtest(
    store: Store, selection: Selection, overlay: Overlay, *, progress: Callable[[int], object] | None = None
) -> Account:
    """Fold the recorded outcomes of every finished task through another policy.

    Args:
        store: the ledger.
        selection: which tasks; those that have not ended are counted and left out.
        overlay: the other policy.
        progress: called with the number of tasks looked at so far.
    """
    account, looked = Account(), 0
    async for row in selected(store, selection):
        if row["ended_at_ms"] is None:
            account.unfinished += 1
        else:
            await _one(store, row, overlay, account)
        looked += 1
        if progress is not None:
            progress(looked)
    return account


async def _one(store: Store, row: Any, overlay: Overlay, account: Account) -> None:
    task_id, tier = row["task_id"], row["tier_requested"]
    try:
        record = read_record([recorded.event() for recorded in await store.read(task_id)])
    except EventInvalid:
        account.leave(tier, "unreadable")
        return
    if record is None or not (record.submitted.route or record.submitted.judge):
        return  # a person's verdict: no policy had a part in it
    pinned, asked = asked_for(record.submitted), await _asked(store, task_id)
    if overlay.other_tokens(pinned, asked):
        account.leave(tier, "max_tokens")
        return
    try:
        account.add(record, backtested(record, overlay.request(pinned, asked)))
    except CannotAnswer as without:
        account.leave(tier, without.reason)
    except (CommandRefused, ValueError):  # ValueError: an instant so late that no wait can be added to it
        account.leave(tier, "no_outcome")


async def _asked(store: Store, task_id: str) -> Asked:
    """Return what the caller named; after redaction that is not known."""
    fingerprint = await store.payload(task_id, "fingerprint")
    if fingerprint is None:
        return Asked()
    named: dict[str, Any] = orjson.loads(fingerprint.content)
    return Asked(named.get("retries"), named.get("max_tokens"))
