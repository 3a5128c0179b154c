"""The work of ``config``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.cli.work.spending import Standing, standings, tell_standings
from ledger.config.load import load, resolve_ledger
from ledger.config.mistakes import name_of
from ledger.config.origins import VARIABLES, Setting, settings
from ledger.remarks import Remark, remarks

__all__ = ["show_config"]

NESTED: Final = frozenset({"tiers", "providers", "prices"})
"""Tables of tables; everywhere else a deeper key is written with dots."""


def show_config(common: Common) -> int:
    """Print what is in force and return the exit code."""

    async def work() -> int:
        loaded = load(common.config)
        found, told = settings(loaded, common.ledger), remarks(loaded.config)
        spent = await standings(loaded.config, resolve_ledger(common.ledger, loaded.config))
        is_set = {name: bool(os.environ.get(name)) for name in VARIABLES}
        if common.as_json:
            output.document(
                {**_document(loaded.source, found, is_set, told), "budgets": [one.document() for one in spent]}
            )
        else:
            _tell(loaded.source, found, is_set, spent, told)
        return DONE

    return perform(work)


def _document(
    source: str | None, found: Sequence[Setting], is_set: Mapping[str, bool], told: Sequence[Remark]
) -> dict[str, Any]:
    values = [
        {"key": name_of(one.path), "value": one.value, "source": one.source, "name": one.name, "line": one.line}
        for one in found
    ]
    return {"file": source, "values": values, "environment": dict(is_set), "warnings": [asdict(one) for one in told]}


def _tell(
    source: str | None,
    found: Sequence[Setting],
    is_set: Mapping[str, bool],
    spent: tuple[Standing, ...],
    told: Sequence[Remark],
) -> None:
    """Write the values as TOML, each with its origin behind it."""
    output.write(f"# file: {output.visible(source or 'none; all of this is built in')}\n")
    table: tuple[str, ...] = ()
    for one in found:
        is_empty = len(one.path) == 1 and one.value == {}
        depth = 1 if is_empty else 0 if len(one.path) == 1 else 1 + (one.path[0] in NESTED)
        if one.path[:depth] != table:
            table = one.path[:depth]
            output.write(f"\n[{name_of(table)}]\n")
        if not is_empty:
            output.write(f"{_line(one, depth)}\n")
    output.write("\n# environment (values are never shown):\n")
    for name, there in is_set.items():
        output.write(f"#   {name} is {'set' if there else 'not set'}\n")
    tell_standings(spent)
    for remark in told:
        output.note(f"warning: {remark.said}; {remark.advice}")


def _line(one: Setting, depth: int) -> str:
    name, value = name_of(one.path[depth:]), one.value
    if value is None and one.path[-1] != "fallback":
        return f"# {name} is not set"
    match one.source:
        case "file":
            origin = f"line {one.line}"
        case "built-in":
            origin = one.source
        case _:
            origin = str(one.name)
    return output.visible(f"{name} = {_toml(value)}  # {origin}")


def _toml(value: Any) -> str:
    match value:
        case None:
            return '"none"'
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            written = [(name, part) for name, part in value.items() if part is not None]
            inside = ", ".join(f"{name_of((name,))} = {_toml(part)}" for name, part in written)
            return f"{{ {inside} }}" if inside else "{}"
        case str():
            # TOML's escapes are JSON's, but for DEL, which JSON leaves raw; the others go out as \uXXXX here.
            return json.dumps(value, ensure_ascii=not value.isprintable()).replace("\x7f", "\\u007f")
        case _:
            return str(value)
