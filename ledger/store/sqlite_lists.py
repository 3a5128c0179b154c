"""Lists of tasks: which statement reads a page, so that a million tasks cost what a hundred do.

Every page comes out of an index in its order, newest first, and stops at its limit; nothing is sorted. A label
leads, by ``task_labels``, unless a state other than succeeded does: of those there are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, get_args

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Select,
    Table,
    bindparam,
    exists,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from ledger.policy import Tier
from ledger.store import sqlite_statements as sql
from ledger.store import tables as t
from ledger.store.protocol import TaskQuery

__all__ = ["page_of_tasks"]

SUBJECT: Final = "subject"
"""The label that can be erased: a payload, in no index."""
TIERS: Final[tuple[str, ...]] = get_args(Tier)
MANY: Final = (None, "succeeded")

Conditions = list[ColumnElement[bool]]
TextOf = Callable[[Select[Any] | CompoundSelect[Any]], str]
"""Compiles a statement for an engine."""


def page_of_tasks(query: TaskQuery, text_of: TextOf = sql.text_of) -> tuple[str, dict[str, Any]]:
    """Return the statement of one page and its parameters."""
    labels = sorted(query.labels, key=lambda key: (key == SUBJECT, key))
    wanted: dict[str, Any] = {"state": query.state, "tier": query.tier, "since_ms": query.since_ms}
    given = frozenset(name for name, value in wanted.items() if value is not None)
    for index, key in enumerate(labels):
        text = query.labels[key]
        wanted |= {f"key_{index}": key, f"label_{index}": text.encode() if key == SUBJECT else text}
    wanted |= dict(zip(("after_ms", "after_id"), query.after or (None, None), strict=True))
    subjects = tuple(key == SUBJECT for key in labels)
    leads = bool(subjects) and not subjects[0] and query.state in MANY
    statement = _statement(text_of, given, subjects, paged=query.after is not None, label_leads=leads)
    return statement, wanted | {"rows": max(query.limit, 0)}


@lru_cache(maxsize=64)
def _statement(
    text_of: TextOf, given: frozenset[str], subjects: tuple[bool, ...], *, paged: bool, label_leads: bool
) -> str:
    """Compile the query for the filters that are given; ``subjects`` says which label is a payload."""
    if label_leads:
        return text_of(_by_label(given, subjects, paged=paged))
    task = t.tasks.c
    conditions = [*_window(t.tasks, given, paged=paged), *_labels(enumerate(subjects))]
    if "state" in given:
        conditions.append(task.state == bindparam("state"))
    if "tier" in given:
        conditions.append(task.tier_requested == bindparam("tier"))
    if "state" not in given or "tier" in given:
        return text_of(_ordered(select(t.tasks).where(*conditions), t.tasks))
    # The index has the tier between state and time: both engines merge five ordered arms as they read them.
    of_each = [select(t.tasks).where(*conditions, task.tier_requested == tier) for tier in TIERS]
    merged = union_all(*of_each)
    newest_first = merged.order_by(*(merged.selected_columns[name].desc() for name in ("created_at_ms", "task_id")))
    return text_of(newest_first.limit(bindparam("rows")))


def _by_label(given: frozenset[str], subjects: tuple[bool, ...], *, paged: bool) -> Select[Any]:
    """Read the first label's index, and look each task up."""
    task, label = t.tasks.c, t.task_labels.c
    conditions = [label.key == bindparam("key_0"), label.value == bindparam("label_0")]
    conditions += _window(t.task_labels, given, paged=paged)
    conditions += _labels(list(enumerate(subjects))[1:])
    if "state" in given:
        conditions.append(_Unindexed(task.state) == bindparam("state"))
    if "tier" in given:
        conditions.append(_Unindexed(task.tier_requested) == bindparam("tier"))
    joined = t.task_labels.join(t.tasks, task.task_id == label.task_id)
    return _ordered(select(t.tasks).select_from(joined).where(*conditions), t.task_labels)


class _Unindexed(ColumnElement[str]):
    """Keeps SQLite from leading with a column's index, whose order the list does not have."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[str]) -> None:
        self.column = column
        self.type = column.type


@compiles(_Unindexed)
def _plain(element: _Unindexed, compiler: SQLCompiler, **how: Any) -> str:
    # A server that plans by costs would take an expression for a condition that few rows meet.
    return str(compiler.process(element.column, **how))


@compiles(_Unindexed, "sqlite")
def _hidden(element: _Unindexed, compiler: SQLCompiler, **how: Any) -> str:
    return f"({compiler.process(element.column, **how)} || '')"


def _window(table: Table, given: frozenset[str], *, paged: bool) -> Conditions:
    """Bound the time, and begin after the page before."""
    conditions: Conditions = []
    if "since_ms" in given:
        conditions.append(table.c.created_at_ms >= bindparam("since_ms"))
    if paged:
        here = tuple_(table.c.created_at_ms, table.c.task_id)
        conditions.append(here < tuple_(bindparam("after_ms"), bindparam("after_id")))
    return conditions


def _labels(numbered: Iterable[tuple[int, bool]]) -> Conditions:
    """Ask for labels beside what leads, each looked up by the task."""
    task, found, text = t.tasks.c, t.task_labels.alias("other").c, t.payloads.c
    conditions: Conditions = []
    for index, is_subject in numbered:
        value: BindParameter[Any] = bindparam(f"label_{index}")
        if is_subject:
            has = (text.task_id == task.task_id, text.slot == SUBJECT, text.bytes == value)
        else:
            has = (found.task_id == task.task_id, found.key == bindparam(f"key_{index}"), found.value == value)
        conditions.append(exists().where(*has))
    return conditions


def _ordered(statement: Select[Any], table: Table) -> Select[Any]:
    return statement.order_by(table.c.created_at_ms.desc(), table.c.task_id.desc()).limit(bindparam("rows"))
