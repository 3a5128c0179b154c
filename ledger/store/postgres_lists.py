"""Lists of tasks: the statements of ``sqlite_lists``, which read out of an index on both engines."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import CompoundSelect, Select
from sqlalchemy.dialects import postgresql

from ledger.store import sqlite_lists
from ledger.store.protocol import TaskQuery

__all__ = ["page_of_tasks"]

DIALECT: Final = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call] # SQLAlchemy has no types here
NAME: Final = re.compile(r"(?<!:):(\w+)")
ROWS_MAX: Final = 2**63 - 1


def page_of_tasks(query: TaskQuery) -> tuple[str, list[Any]]:
    """Return the statement of one page and its parameters in their order."""
    text, wanted = sqlite_lists.page_of_tasks(query, _text_of)
    numbered, names = _numbered(text)
    wanted["rows"] = min(wanted["rows"], ROWS_MAX)
    return numbered, [wanted[name] for name in names]


def _text_of(statement: Select[Any] | CompoundSelect[Any]) -> str:
    """Return a statement with ``:name`` for every parameter and constants in their places."""
    compiled = statement.compile(dialect=DIALECT)
    text = str(compiled)
    for name, bind in compiled.binds.items():
        if not bind.required:
            text = re.sub(rf":{name}\b", compiled.render_literal_value(bind.value, bind.type), text)
    return text


@lru_cache(maxsize=64)
def _numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """Replace names by numbers, and return the names by number."""
    names = tuple(dict.fromkeys(NAME.findall(text)))
    return NAME.sub(lambda found: f"${names.index(found[1]) + 1}", text), names
