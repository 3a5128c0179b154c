"""Reading a ledger in PostgreSQL in SQL at one instant."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeVar

from ledger.store.postgres_connection import Driver
from ledger.store.snapshots import NOTHING, Snapshot

__all__ = ["in_snapshot"]

T = TypeVar("T")

Rows = list[tuple[Any, ...]]

NAME: Final = re.compile(r"(?<!:):(\w+)")
STATEMENT_WITHIN_S: Final = 600.0
"""A question over many millions of rows may take longer than anything else that the server is asked."""


async def in_snapshot(database: Driver, work: Callable[[Snapshot], Awaitable[T]]) -> T:
    """Do a piece of work in a transaction that only reads."""
    async with database.transaction(isolation="repeatable_read", readonly=True):
        return await work(_Snapshot(database))


class _Snapshot:
    def __init__(self, database: Driver) -> None:
        self._database = database

    async def rows(self, text: str, wanted: Mapping[str, Any] = NOTHING) -> Rows:
        """Return the rows of a statement."""
        numbered, names = _numbered(text)
        values = [wanted[name] for name in names]
        found = await self._database.fetch(numbered, *values, timeout=STATEMENT_WITHIN_S)
        return [tuple(_plain(value) for value in row) for row in found]

    async def each(self, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[Rows]:
        """Return the rows of one statement for each set of parameters."""
        return [await self.rows(text, one) for one in wanted]


@lru_cache(maxsize=64)
def _numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """Replace names by numbers, and return the names by number."""
    names = tuple(dict.fromkeys(NAME.findall(text)))
    return NAME.sub(lambda found: f"${names.index(found[1]) + 1}", text), names


def _plain(value: Any) -> Any:
    """Return a sum as an integer: the server adds big integers up as decimals."""
    return int(value) if isinstance(value, Decimal) else value
