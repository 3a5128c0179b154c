"""Whole streams with all that stands beside them, many at a time and all at one instant: what ``verify`` reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from sqlalchemy import Table

from ledger.envelope import Payload, Recorded, Stream
from ledger.store import tables as t
from ledger.store.protocol import Projected
from ledger.store.snapshots import Snapshot

__all__ = ["Page", "Side", "page_of_streams"]

Rows = Sequence[tuple[Any, ...]]

# S608 is about SQL made of texts: these are names of our own columns and tables.
EVENT: Final = ", ".join(column.name for column in fields(Recorded))
STREAMS: Final = f"SELECT {EVENT} FROM events WHERE task_id > :after ORDER BY task_id, version LIMIT :most"  # noqa: S608 - see above
REST: Final = f"""
SELECT {EVENT} FROM events WHERE task_id = :task_id AND version > :version ORDER BY version
"""  # noqa: S608 - see above


class Side(NamedTuple):
    """What stands beside a stream."""

    projected: Projected = Projected()
    payloads: Sequence[Payload] = ()
    keys: Sequence[bytes] = ()
    """The digests of the keys that name it."""


@dataclass(frozen=True, slots=True)
class Page:
    """Streams by id, each whole."""

    streams: Sequence[tuple[Stream, Side]]
    strays: Sequence[str]
    """Ids between them that rows name, and no event."""
    after: str
    """The last id."""
    is_last: bool


@dataclass(slots=True)
class _Rows:
    """The rows beside one stream, by table."""

    tables: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def side(self) -> Side:
        projected = Projected(**{table.name: tuple(self.tables[table.name]) for table in t.PROJECTIONS})
        return Side(projected, self.tables["payloads"], self.tables["keys"])


async def page_of_streams(snapshot: Snapshot, after: str | None, limit: int) -> Page:
    """Read the streams whose ids come after ``after``: as many as have about ``limit`` events, and at least one.

    After None come all, an id without a character too: no task has it, but somebody may have written it there.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    found = [
        Recorded(*row) for row in await snapshot.rows(_from(STREAMS, after), {"after": after or "", "most": limit})
    ]
    is_last = len(found) < limit
    streams = _whole(found)
    if not is_last and len(streams) > 1:
        streams.pop()  # it may have more, and comes again
    elif not is_last:
        newest = found[-1]
        rest = await snapshot.rows(REST, {"task_id": newest.task_id, "version": newest.version})
        streams = [(*found, *(Recorded(*row) for row in rest))]
    last = streams[-1][0].task_id if streams else after or ""
    beside: defaultdict[str, _Rows] = defaultdict(_Rows)
    for name, text, put in SOURCES:
        for row in await snapshot.rows(_from(text, after), {"after": after or "", "last": last}):
            beside[row[0]].tables[name].append(put(row))
    sides = [(stream, beside.pop(stream[0].task_id, _Rows()).side()) for stream in streams]
    return Page(sides, sorted(beside), last, is_last)


def _from(text: str, after: str | None) -> str:
    """Return the statement for ids after one, or for all from the first on."""
    return text.replace("> :after", ">= :after") if after is None else text


def _whole(found: Sequence[Recorded]) -> list[Stream]:
    """Part events that are sorted by stream."""
    streams: list[Stream] = []
    begun = 0
    for at in range(1, len(found) + 1):
        if at == len(found) or found[at].task_id != found[begun].task_id:
            streams.append(tuple(found[begun:at]))
            begun = at
    return streams


def _select(table: Table, columns: Sequence[str], order: Sequence[str]) -> str:
    """Select columns of a range of streams, behind the id of the stream that a row belongs to."""
    of = "judge_task_id" if table is t.validations else "task_id"
    names = ", ".join(f'"{column}"' for column in columns)
    ordered = ", ".join(dict.fromkeys((of, *order)))
    return f"SELECT {of}, {names} FROM {table.name} WHERE {of} > :after AND {of} <= :last ORDER BY {ordered}"  # noqa: S608 - see above


def _mapping(columns: Sequence[str]) -> Callable[[tuple[Any, ...]], dict[str, Any]]:
    return lambda row: dict(zip(columns, row[1:], strict=True))


def _projection(table: Table) -> tuple[str, str, Callable[[tuple[Any, ...]], Any]]:
    columns = [column.name for column in table.c]
    key = [column.name for column in table.primary_key.columns]
    return table.name, _select(table, columns, key), _mapping(columns)


SOURCES: Final = (
    *(_projection(table) for table in t.PROJECTIONS),
    ("payloads", _select(t.payloads, ("slot", "salt", "bytes"), ("slot",)), lambda row: Payload(*row[1:])),
    ("keys", _select(t.keys, ("digest",), ("digest",)), lambda row: row[1]),
)
