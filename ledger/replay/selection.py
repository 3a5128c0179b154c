"""Which tasks of a ledger: by what they came to, when, and their labels; page by page, newest first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ledger.store.protocol import Store, TaskQuery

__all__ = ["Selection", "selected"]

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Selection:
    """What tasks have to be like; what is None does not matter."""

    state: str | None = None
    since_ms: int | None = None
    """Made at this instant or later."""
    until_ms: int | None = None
    """Made before this instant."""
    error_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Say whether a row of ``tasks`` fits where the store cannot say it."""
        if self.until_ms is not None and row["created_at_ms"] >= self.until_ms:
            return False
        return self.error_type is None or row["error_type"] == self.error_type


async def selected(store: Store, selection: Selection) -> AsyncIterator[Mapping[str, Any]]:
    """Yield rows of ``tasks``, one page held at a time; tasks that are made meanwhile do not come."""
    query = TaskQuery(state=selection.state, since_ms=selection.since_ms, labels=selection.labels, limit=PAGE)
    if selection.until_ms is not None:
        query = replace(query, after=(selection.until_ms, ""))  # newest first, so this is where its page begins
    while page := await store.tasks(query):
        for row in page:
            if selection.takes(row):
                yield row
        query = replace(query, after=(page[-1]["created_at_ms"], page[-1]["task_id"]))
