"""Reading a ledger in SQL: statements that both engines understand, all at one instant.

A statement names its parameters ``:so``, has no other colons, and casts where an engine could not tell a type. Sums
come back as integers on both engines. What a ledger is asked so runs beside everything else and writes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from ledger.errors import LedgerError

__all__ = ["NOTHING", "Askable", "Snapshot", "SumTooLarge"]

T = TypeVar("T")

Rows = list[tuple[Any, ...]]

NOTHING: Final[Mapping[str, Any]] = {}


class SumTooLarge(LedgerError):
    """A sum has more than 64 bits, which SQLite does not add up; ask for its parts."""


class Snapshot(Protocol):
    """A ledger as it stands at one instant."""

    async def rows(self, text: str, wanted: Mapping[str, Any] = NOTHING) -> Rows:
        """Return the rows of a statement, all of them: it is the caller who bounds their number.

        Raises:
            SumTooLarge: one of its sums is.
            LedgerError: the ledger cannot be read.
        """
        ...

    async def each(self, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[Rows]:
        """Return the rows of one statement for each set of parameters, at the price of one round trip in a file.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        ...


@runtime_checkable
class Askable(Protocol):
    """A store that can be asked in SQL, which the one in memory cannot."""

    async def snapshot(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Do a piece of work on a snapshot, again from its beginning when a lock or a lost connection broke it off.

        While it lasts a file's write-ahead log cannot shrink: seconds are no harm, minutes are. When it is cancelled a
        statement that runs in a file is broken off.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        ...
