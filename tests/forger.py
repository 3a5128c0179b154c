"""Somebody who can write the whole ledger and knows how it is made: hashes, projections, anchors, all made anew."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import orjson

from ledger.audit.anchors import STREAM
from ledger.audit.merkle import Tree, leaf_hash
from ledger.canonical import canonical
from ledger.envelope import FIRST_PREV_HASH, Recorded, event_hash
from ledger.store import tables as t
from ledger.store.projection import project_stream

__all__ = ["Row", "behind_the_guards", "forge"]

Row = dict[str, Any]
FIELDS: Final = ("event_id", "task_id", "version", "type", "schema_version", "recorded_at_ms", "actor", "fence")


def behind_the_guards(path: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change a ledger by hand, and put the guards back so that only the change is left to find."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        guards = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for guard in guards:
            database.execute(f'DROP TRIGGER "{guard["name"]}"')
        change(database)
        for guard in guards:
            database.execute(guard["sql"])
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def forge(path: Path, edit: Callable[[list[Row]], list[Row] | None], *, reseal: bool) -> None:
    """Edit the events, then make all that follows from them anew: hashes, projections and, with ``reseal``, anchors.

    Args:
        path: the ledger.
        edit: gets the events by position, with ``data`` as an object; returns them anew, or changes them in place.
        reseal: the anchors too, each over the positions that it had.
    """

    def change(database: sqlite3.Connection) -> None:
        rows = [dict(row) for row in database.execute("SELECT * FROM events ORDER BY position")]
        for row in rows:
            row["data"] = orjson.loads(row["data"])
        rows = edit(rows) or rows
        _chain(rows, reseal=reseal)
        database.execute("DELETE FROM events")
        names = list(rows[0])
        marks = ", ".join("?" * len(names))
        for row in rows:
            database.execute(f"INSERT INTO events ({', '.join(names)}) VALUES ({marks})", list(row.values()))
        _project(database, rows)

    behind_the_guards(path, change)


def _chain(rows: list[Row], *, reseal: bool) -> None:
    last: dict[str, bytes] = {}
    leaves: list[tuple[int, bytes]] = []
    for row in rows:
        previous = last.get(row["task_id"])
        if reseal and row["task_id"] == STREAM:
            _seal(row["data"], leaves, previous)
        row["data"] = canonical(row["data"]).decode()
        row["prev_hash"] = previous or FIRST_PREV_HASH
        row["hash"] = event_hash(row["prev_hash"], [row[name] for name in FIELDS], row["data"].encode())
        last[row["task_id"]] = row["hash"]
        leaves.append((row["position"], row["hash"]))


def _seal(data: Row, leaves: list[tuple[int, bytes]], previous: bytes | None) -> None:
    tree = Tree()
    for position, digest in leaves:
        if data["first_position"] <= position <= data["last_position"]:
            tree.add(leaf_hash(position, digest))
    data |= {
        "ledger": leaves[0][1].hex(),
        "events": tree.size,
        "root": tree.root().hex(),
        "previous": None if previous is None else previous.hex(),
    }


def _project(database: sqlite3.Connection, rows: list[Row]) -> None:
    streams: defaultdict[str, list[Recorded]] = defaultdict(list)
    for row in rows:
        streams[row["task_id"]].append(Recorded(**row))
    for table in t.PROJECTIONS:
        database.execute(f"DELETE FROM {table.name}")
    for task_id in {row["task_id"] for row in database.execute("SELECT task_id FROM payloads")} - streams.keys():
        database.execute("DELETE FROM payloads WHERE task_id = ?", (task_id,))
        database.execute("DELETE FROM keys WHERE task_id = ?", (task_id,))
    for stream in streams.values():
        made = project_stream(stream)
        for table in t.PROJECTIONS:
            for row in getattr(made, table.name):
                _insert(database, table.name, row)


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
