"""Many rows in one step: after each step Python's ``sqlite3`` has to win the interpreter's lock back from the loop.

A thread that waits for that lock beside a busy event loop waits up to five milliseconds each time, so a group of
appends written or read row by row takes a hundred times as long there as alone. Written are ``INSERT``s of several
rows, read are arrays of JSON.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import LargeBinary, Table

__all__ = ["Insert", "array_of", "blobs", "insert_into", "rows_of"]

VARIABLES_MAX: Final = 999
"""What every SQLite takes in one statement."""
ROWS_MAX: Final = 64


class Insert(NamedTuple):
    """An insert of any number of rows."""

    table: str
    columns: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    """Takes a row's values in the order of the columns."""
    end: str
    """What is done about a row that is there already; empty where that is an error."""

    def write(self, database: sqlite3.Connection, many: Sequence[Any]) -> None:
        """Insert the rows, in few statements of few different lengths: each length is compiled once."""
        for size, first in _cuts(len(many), min(ROWS_MAX, VARIABLES_MAX // len(self.columns))):
            flat = chain.from_iterable(map(self.values, many[first : first + size]))
            database.execute(_text(self.table, self.columns, self.end, size), tuple(flat))


def insert_into(
    table: Table,
    getter: Callable[..., Callable[[Any], tuple[Any, ...]]] = itemgetter,
    *,
    or_set: Sequence[str] = (),
) -> Insert:
    """Make the insert of a table's rows; of one whose primary key is there already, ``or_set`` columns are set."""
    columns = tuple(column.name for column in table.c)
    end = ""
    if or_set:
        keys = ", ".join(column.name for column in table.primary_key.columns)
        end = f" ON CONFLICT ({keys}) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in or_set)
    return Insert(table.name, columns, getter(*columns), end)


@lru_cache(512)
def _text(table: str, columns: tuple[str, ...], end: str, size: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}{end}"  # noqa: S608 - our names


def _cuts(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut so many rows into pieces whose lengths are powers of two: the length and the first of each."""
    first, size = 0, 1 << (most.bit_length() - 1)
    while first < count:
        while size > count - first:
            size >>= 1
        yield size, first
        first += size


def array_of(table: Table, where: str, order: str) -> str:
    """Return an expression for the wanted rows of a table as one JSON text, bytes in hex."""
    cells = ", ".join(f"hex({column.name})" if _is_bytes(column) else column.name for column in table.c)
    source = f"(SELECT * FROM {table.name} WHERE {where} ORDER BY {order})"  # noqa: S608 - our names
    return f"(SELECT json_group_array(json_array({cells})) FROM {source})"  # noqa: S608 - our names


def _is_bytes(column: Any) -> bool:
    return isinstance(column.type, LargeBinary)


def blobs(table: Table) -> tuple[int, ...]:
    """Return the places of a table's columns of bytes."""
    return tuple(place for place, column in enumerate(table.c) if _is_bytes(column))


def rows_of(array: str, in_hex: Sequence[int] = ()) -> list[list[Any]]:
    """Read rows back from ``array_of``; ``in_hex`` are the places of columns of bytes."""
    rows: list[list[Any]] = orjson.loads(array)
    for row in rows:
        for place in in_hex:
            row[place] = bytes.fromhex(row[place])
    return rows
