"""How reports read a ledger: in SQL that both engines understand, everything at one instant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ledger.errors import LedgerError
from ledger.store.protocol import Store
from ledger.store.snapshots import Askable, Snapshot, SumTooLarge

__all__ = ["Snapshot", "SumTooLarge", "reading"]

T = TypeVar("T")


async def reading(store: Store, work: Callable[[Snapshot], Awaitable[T]]) -> T:
    """Do a piece of work on a snapshot of the ledger; it may be done twice, so it changes nothing outside.

    Raises:
        LedgerError: the ledger cannot be read, or is one in memory, which knows no SQL.
    """
    if not isinstance(store, Askable):
        raise LedgerError("a ledger in memory cannot be asked in SQL; keep it in a file or a database for reports")
    return await store.snapshot(work)
