"""Writing a table or view of a ledger out as CSV, safe for spreadsheets, or as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib import import_module
from typing import Any, BinaryIO, Final, Protocol

from ledger.errors import ConfigurationError
from ledger.spreadsheets import harmless
from ledger.store import tables as t
from ledger.store.copying import open_end
from ledger.store.opening import parse_url

__all__ = ["TABLES", "export_csv", "export_parquet"]

TABLES: Final = (
    "events", "tasks", "attempts", "decisions", "validations", "task_labels",
    "tier_cost", "tier_latency", "tasks_iso", "attempts_iso",
)  # fmt: skip
BY_VALUE: Final = {int: "int64", bool: "int64", float: "float64", bytes: "binary"}

Row = Sequence[Any]


class Sheet(Protocol):
    """Takes a table's rows, some at a time."""

    def begin(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Take the columns; the first rows are shown beforehand."""
        ...

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows."""
        ...

    def close(self) -> None:
        """Write what is held."""
        ...


async def export_csv(ledger: str, table: str, write: Callable[[bytes], object], after: int = 0) -> int:
    """Write a table as CSV and return the number of its rows; NULL is empty, bytes are hex.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.

    Raises:
        LedgerError: the ledger cannot be read, or has no such table.
    """
    return await _exported(ledger, table, _Csv(write), after)


async def export_parquet(ledger: str, table: str, file: BinaryIO, after: int = 0) -> int:
    """Write a table as Parquet and return the number of its rows.

    Raises:
        ConfigurationError: pyarrow is not installed.
        LedgerError: the ledger cannot be read, or has no such table.
    """
    return await _exported(ledger, table, _Parquet(file), after)


async def _exported(ledger: str, table: str, sheet: Sheet, after: int) -> int:
    count, begun = 0, False
    async with open_end(parse_url(ledger), writes=False) as side:
        async for columns, rows in side.listed(table):
            if not columns:
                raise ConfigurationError(
                    f"this ledger has no table or view {table}; `dispatch-ledger db upgrade` may add it"
                )
            if not begun:
                sheet.begin(columns, rows)
                begun = True
            kept = [row for row in rows if row[0] > after] if after else rows
            if kept:
                sheet.add(kept)
            count += len(kept)
    sheet.close()
    return count


class _Csv:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def begin(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Write the head."""
        self.add([columns])

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows."""
        text = io.StringIO(newline="")
        plain = csv.writer(text, lineterminator="\n")
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            cells = [_cell(value) for value in row]
            # The writer quotes no carriage return of its own accord, and readers take one for the end of a row.
            (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
        self._write(text.getvalue().encode("utf-8", "surrogatepass"))

    def close(self) -> None:
        """Hold nothing."""


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bytes():
            return value.hex()
        case str():
            return harmless(value)
        case _:
            return str(value)


class _Parquet:
    def __init__(self, file: BinaryIO) -> None:
        try:
            self._arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "Parquet needs pyarrow: pip install 'dispatch-ledger[parquet]'; --format csv needs nothing"
            ) from error
        self._file, self._new_writer = file, parquet.ParquetWriter
        self._writer: Any = None
        self._schema: Any = None

    def begin(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Find the columns' types."""
        kinds = [_kind(name, [row[place] for row in rows]) for place, name in enumerate(columns)]
        fields = [(name, getattr(self._arrow, kind)()) for name, kind in zip(columns, kinds, strict=True)]
        self._schema = self._arrow.schema(fields)
        self._writer = self._new_writer(self._file, self._schema)

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows as a group."""
        columns = [[_plain(row[place]) for row in rows] for place in range(len(self._schema))]
        arrays = [
            self._arrow.array(column, type=kind) for column, kind in zip(columns, self._schema.types, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the foot."""
        self._writer.close()


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


def _kind(name: str, values: Sequence[Any]) -> str:
    """Return a column's type: of the tables' columns by their name, else by what stands in it."""
    for table in (t.events, *t.PROJECTIONS):
        if name in table.c:
            return BY_VALUE.get(table.c[name].type.python_type, "string")
    found = {BY_VALUE.get(type(_plain(value)), "string") for value in values if value is not None}
    if found == {"int64", "float64"}:
        return "float64"
    if len(found) == 1:
        return found.pop()
    return "int64" if not found and name.endswith(("_usd", "_ms", "_attempts", "attempts")) else "string"
