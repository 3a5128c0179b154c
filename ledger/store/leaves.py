"""Places and hashes of events, for whoever hashes them together: the rows without their data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.store.protocol import Store
from ledger.store.snapshots import Askable, Snapshot

__all__ = ["leaves"]

LEAVES: Final = """
SELECT position, hash FROM events WHERE position > :after AND position <= :last ORDER BY position LIMIT :most
"""


async def leaves(store: Store, after: int, last: int, limit: int) -> Sequence[tuple[int, bytes]]:
    """Return position and hash of events, from the position after ``after`` to ``last``.

    On a server positions may be committed out of order: only up to what ``newest`` has given is nothing still to come.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    if isinstance(store, Askable):

        async def read(snapshot: Snapshot) -> Sequence[tuple[int, bytes]]:
            rows = await snapshot.rows(LEAVES, {"after": after, "last": last, "most": max(limit, 0)})
            return [(int(position), bytes(digest)) for position, digest in rows]

        return await store.snapshot(read)
    return [(one.position, one.hash) for one in await store.page(after, limit) if one.position <= last]
