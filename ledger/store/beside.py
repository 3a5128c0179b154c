"""Whole streams with all that stands beside them, many at a time and all at one instant: what ``verify`` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Table

from ledger.envelope import Payload, Recorded, Stream
from ledger.store import tables as t
from ledger.store.protocol import Projected
from ledger.store.snapshots import Snapshot

__all__ = ["Page", "Side", "page_of_streams"]

Rows = list[tuple[Any, ...]]

# S608 is about SQL made of texts: these are names of our own columns and tables.
COLUMNS: Final = Recorded._fields
EVENT: Final = ", ".join(COLUMNS)
TASK_ID: Final = COLUMNS.index("task_id")
VERSION: Final = COLUMNS.index("version")
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
    """Streams by id, each whole: rows as they were read, which are quickly handed to another process."""

    events: Rows
    """In the order of the fields of ``Recorded``."""
    beside: Mapping[str, Rows]
    """By table, each behind the id of the stream that it belongs to."""
    after: str
    """The last id."""
    is_last: bool

    def parted(self) -> tuple[Sequence[tuple[Stream, Side]], Sequence[str]]:
        """Return every stream with what stands beside it, and the ids between them that rows name, and no event."""
        rows = {name: _grouped(self.beside[name], put) for name, _, put in SOURCES}
        streams = []
        for stream in _whole([Recorded(*row) for row in self.events]):
            mine = {name: groups.pop(stream[0].task_id, []) for name, groups in rows.items()}
            payloads, keys = mine.pop("payloads"), mine.pop("keys")
            projected = Projected(**{name: tuple(found) for name, found in mine.items()})
            streams.append((stream, Side(projected, payloads, keys)))
        return streams, sorted(set().union(*rows.values()))


def _grouped(rows: Rows, put: Callable[[tuple[Any, ...]], Any]) -> dict[str, list[Any]]:
    """Return what is made of rows by the id of the stream that they belong to."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        group = groups.get(row[0])
        if group is None:
            groups[row[0]] = [put(row)]
        else:
            group.append(put(row))
    return groups


async def page_of_streams(snapshot: Snapshot, after: str | None, limit: int) -> Page:
    """Read the streams whose ids come after ``after``: as many as have about ``limit`` events, and at least one.

    After None come all, an id without a character too: no task has it, but somebody may have written it there.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    found = await snapshot.rows(_from(STREAMS, after), {"after": after or "", "most": limit})
    is_last = len(found) < limit
    if not is_last:
        found = await _of_whole_streams(snapshot, found)
    last = found[-1][TASK_ID] if found else after or ""
    wanted = {"after": after or "", "last": last}
    beside = {name: await snapshot.rows(_from(text, after), wanted) for name, text, _ in SOURCES}
    return Page(found, beside, last, is_last)


async def _of_whole_streams(snapshot: Snapshot, found: Rows) -> Rows:
    """Leave out the last stream, which may have more and comes again; where it is the only one, read the rest of it."""
    newest = found[-1]
    begun = len(found) - 1
    while begun and found[begun - 1][TASK_ID] == newest[TASK_ID]:
        begun -= 1
    if begun:
        return found[:begun]
    return [*found, *await snapshot.rows(REST, {"task_id": newest[TASK_ID], "version": newest[VERSION]})]


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


def _of(table: Table) -> str:
    """Return the column with the id of the stream that a row belongs to."""
    return "judge_task_id" if table is t.validations else "task_id"


def _select(table: Table, columns: Sequence[str], order: Sequence[str]) -> str:
    """Select columns of a range of streams, behind the id of the stream that a row belongs to."""
    of = _of(table)
    names = ", ".join(f'"{column}"' for column in columns)
    ordered = ", ".join(dict.fromkeys((of, *order)))
    return f"SELECT {of}, {names} FROM {table.name} WHERE {of} > :after AND {of} <= :last ORDER BY {ordered}"  # noqa: S608 - see above


def _mapping(columns: Sequence[str]) -> Callable[[tuple[Any, ...]], dict[str, Any]]:
    return lambda row: dict(zip(columns, row, strict=True))


def _projection(table: Table) -> tuple[str, str, Callable[[tuple[Any, ...]], Any]]:
    first, *columns = dict.fromkeys((_of(table), *(column.name for column in table.c)))
    key = [column.name for column in table.primary_key.columns]
    return table.name, _select(table, columns, key), _mapping((first, *columns))


SOURCES: Final = (
    *(_projection(table) for table in t.PROJECTIONS),
    ("payloads", _select(t.payloads, ("slot", "salt", "bytes"), ("slot",)), lambda row: Payload(*row[1:])),
    ("keys", _select(t.keys, ("digest",), ("digest",)), lambda row: row[1]),
)
