"""The statements of the append and of the reads, compiled once from the tables to SQLite's text."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    Column,
    CompoundSelect,
    Insert,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import sqlite

from ledger.store import tables as t

__all__ = [
    "FIND",
    "FIND_EXACT",
    "LAST_POSITION",
    "NEWEST",
    "PAGE",
    "PAYLOAD",
    "PAYLOADS",
    "PROJECTED",
    "PROJECTED_IDS",
    "SALT",
    "STREAM",
    "STREAMS",
    "TASK_OF_KEY",
    "text_of",
]

DIALECT: Final = sqlite.dialect(paramstyle="named")


def text_of(statement: Select[Any] | CompoundSelect[Any] | Insert | Update) -> str:
    """Return a statement as SQLite reads it: ``:name`` for every parameter, constants in their places."""
    compiled = statement.compile(dialect=DIALECT)
    text = str(compiled)
    for name, bind in compiled.binds.items():
        if not bind.required:
            text = re.sub(rf":{name}\b", compiled.render_literal_value(bind.value, bind.type), text)
    return text


def _stream_of(table: Table) -> Column[str]:
    """Return the column that names the stream a projected row was made from."""
    return table.c.judge_task_id if table is t.validations else table.c.task_id


EVENT: Final = tuple(t.events.c)


STREAM: Final = text_of(select(*EVENT).where(t.events.c.task_id == bindparam("task_id")).order_by(t.events.c.version))
NEWEST: Final = text_of(select(func.coalesce(func.max(t.events.c.position), 0)))
LAST_POSITION: Final = (
    "SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0), "
    "coalesce((SELECT max(position) FROM events), 0))"
)
"""The greatest position that was ever given, by SQLite's own rule for AUTOINCREMENT."""
PAGE: Final = text_of(
    select(*EVENT)
    .where(t.events.c.position > bindparam("after"))
    .order_by(t.events.c.position)
    .limit(bindparam("rows"))
)
STREAMS: Final = text_of(
    select(*EVENT)
    .where(tuple_(t.events.c.task_id, t.events.c.version) > tuple_(bindparam("task_id"), bindparam("version")))
    .order_by(t.events.c.task_id, t.events.c.version)
    .limit(bindparam("rows"))
)
PAYLOAD: Final = text_of(
    select(t.payloads.c.slot, t.payloads.c.salt, t.payloads.c.bytes).where(
        t.payloads.c.task_id == bindparam("task_id"), t.payloads.c.slot == bindparam("slot")
    )
)
PAYLOADS: Final = text_of(
    select(t.payloads.c.slot, t.payloads.c.salt, t.payloads.c.bytes)
    .where(t.payloads.c.task_id == bindparam("task_id"))
    .order_by(t.payloads.c.slot)
)
TASK_OF_KEY: Final = text_of(select(t.keys.c.task_id).where(t.keys.c.digest == bindparam("digest")))
_id = t.tasks.c.task_id
_part: BindParameter[str] = bindparam("part")
FIND_EXACT: Final = text_of(select(_id).where(_id == _part))
FIND: Final = text_of(
    select(_id)
    .where(
        or_(
            func.substr(_id, 1, func.length(_part)) == _part,
            and_(func.length(_id) >= func.length(_part), func.substr(_id, -func.length(_part)) == _part),
        )
    )
    .order_by(_id)
    .limit(2)
)
SALT: Final = text_of(select(t.salts.c.salt).where(t.salts.c.name == bindparam("name")))

PROJECTED: Final = tuple(
    text_of(select(table).where(_stream_of(table) == bindparam("task_id")).order_by(*table.primary_key.columns))
    for table in t.PROJECTIONS
)
"""The rows that one stream made, a statement for each projection."""
PROJECTED_IDS: Final = tuple(
    text_of(
        select(_stream_of(table))
        .distinct()
        .where(_stream_of(table) > bindparam("after"))
        .order_by(_stream_of(table))
        .limit(bindparam("rows"))
    )
    for table in (*t.PROJECTIONS, t.payloads, t.keys)
)
"""The streams that rows say they belong to, a statement for each table but the events."""
