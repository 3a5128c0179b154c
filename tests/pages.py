"""Write the generated pages of docs/ out of the code: ``python -m tests.pages`` (``make docs``)."""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import click

from ledger import events, parts, policy
from ledger.events import Event
from ledger.policy import Value
from ledger.upcasting import EVENT_TYPES
from tests.sql_page import sql_page

__all__ = ["DOCS", "PAGES", "commands", "write"]

COLUMNS: Final = 100
"""The width of the help on the page, whatever the terminal's is."""

DOCS: Final = Path(__file__).parent.parent / "docs"

LISTS: Final[Mapping[str, Any]] = {
    "Tier": policy.Tier,
    "Purpose": policy.Purpose,
    "ErrorType": policy.ErrorType,
    "UsageSource": parts.UsageSource,
    "DecisionKind": parts.DecisionKind,
}
"""The closed lists of words that fields share."""

SCALARS: Final = (
    (policy.Natural, "integer from 0"),
    (policy.Positive, "integer from 1"),
    (parts.Digest, "64 hex digits"),
    (str, "text"),
    (int, "integer"),
    (bool, "true or false"),
    (None, "NULL"),
    (type(None), "NULL"),
)

INTRODUCTION: Final = """\
# Events

Written by `make docs` from the event classes; change those, not this page.

A task is a stream of events; each is one row of `events`, and what this page describes is its column `data`: canonical
JSON (UTF-8, keys sorted, no spaces, no floats), whose exact bytes are hashed. Every field is always there, NULL where
there is nothing to say. Times are UTC milliseconds (`_ms`), money is in billionths of a dollar (`_nano_usd`), shares
are in thousandths or millionths (`_thousandths`, `_ppm`). Numbers stay below 2^63. A digest names a text that stands in
`payloads` under a salt and can be erased.

Names and meanings are for ever. A change of a type's fields makes a new `schema_version`; old rows are never rewritten
but understood as today's when they are read.

The columns around `data`: `position` (the global order), `event_id`, `task_id` (the stream), `version` (1 to n in the
stream), `type`, `schema_version`, `recorded_at_ms` (the writer's clock, never earlier than the stream's event before),
`actor` (`worker:<uuid>`, `person` or `system`), `fence` (0 where there is none), `prev_hash` and `hash`.
"""

COMMANDS: Final = """\
# Commands

Written by `make docs` from the program's own `--help`; change that, not this page.
"""

HASHES: Final = """\
## How a hash is made

    hash = SHA-256( "dispatch-ledger event 1\\n"
                  | prev_hash
                  | each of event_id, task_id, version, type, schema_version, recorded_at_ms, actor, fence
                  | SHA-256(data) )

`|` joins bytes. A `prev_hash` is the 32 bytes of the stream's event before, 32 zero bytes for the first. Each field is
its UTF-8 text, integers in decimal, behind its length in bytes as four bytes, big-endian. `position` is not part of it.
"""


def events_page() -> str:
    """Return the page of every event type and the parts they share."""
    shared = sorted(set(_parts(*EVENT_TYPES.values())), key=lambda part: part.__name__)
    tasks = [kind for kind in EVENT_TYPES.values() if kind.__module__ == events.__name__]
    others = [kind for kind in EVENT_TYPES.values() if kind.__module__ != events.__name__]
    sections = [
        INTRODUCTION,
        HASHES,
        "## The stream of a task\n",
        *(_event(kind) for kind in tasks),
        "## Other streams\n\n`breaker:<provider>/<model>`, `ledger:prices` and `ledger:anchors`.\n",
        *(_event(kind) for kind in others),
        "## Parts\n",
        *(f"### {part.__name__}\n\n{_described(part)}" for part in shared),
        "## Words\n",
        *(f"### {name}\n\n{_words(words)}\n" for name, words in LISTS.items()),
    ]
    return "\n".join(sections)


def commands_page() -> str:
    """Return the help of every command."""
    sections = [f"## `{' '.join(path)}`\n\n```text\n{text}\n```\n" for path, _, text in commands()]
    return "\n".join((COMMANDS, *sections))


def commands() -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    """Yield each command of the command line: its words, itself, its help."""
    from ledger.cli.entry import dispatch_ledger  # noqa: PLC0415 - the page of events does without it

    settings = {**dispatch_ledger.context_settings, "terminal_width": COLUMNS}
    yield from _helped(dispatch_ledger, click.Context(dispatch_ledger, info_name="dispatch-ledger", **settings))


def _helped(command: click.Command, ctx: click.Context) -> Iterator[tuple[tuple[str, ...], click.Command, str]]:
    yield tuple(ctx.command_path.split()), command, command.get_help(ctx)
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _helped(inner, click.Context(inner, info_name=name, parent=ctx, **inner.context_settings))


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "commands.md": commands_page,
    "events.md": events_page,
    "sql.md": sql_page,
}
"""From a page's file to the function that makes its text."""


def write() -> None:
    """Write every generated page."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


def _event(kind: type[Event]) -> str:
    return f"### `{kind.TYPE}`\n\nschema_version {kind.SCHEMA_VERSION}. {_described(kind)}"


def _described(kind: type[Value]) -> str:
    """Return what a class is, its own fields as a table, and links to the parts that it takes in."""
    taken_in = [base for base in kind.__bases__ if issubclass(base, Value) and base not in (Value, Event)]
    lines = [_markdown(kind.__doc__ or ""), ""]
    rows = [f"| `{name}` | {_type(hint)} | {meaning}".rstrip() + " |" for name, hint, meaning in _fields(kind)]
    if rows:
        lines += ["| field | holds | meaning |", "| --- | --- | --- |", *rows, ""]
    if taken_in:
        also = "And all" if rows else "All"
        lines += [f"{also} of {' and '.join(map(_link, taken_in))}.", ""]
    return "\n".join(lines)


def _fields(kind: type[Value]) -> Iterator[tuple[str, Any, str]]:
    """Yield name, type and meaning of the fields that a class itself declares."""
    hints = get_type_hints(kind, include_extras=True)
    meanings = _meanings(kind)
    for name in inspect.get_annotations(kind):
        if name in kind.model_fields:
            yield name, hints[name], meanings.get(name, "")


def _meanings(kind: type[Value]) -> dict[str, str]:
    """Return the texts that stand below the fields of a class."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in pairwise(tree.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = _markdown(meaning)
            case _:
                continue
    return found


def _parts(*kinds: type[Value]) -> Iterator[type[Value]]:
    """Yield every class that these are made of."""
    for kind in kinds:
        inside = [part for _, hint, _ in _fields(kind) for part in _values(hint)]
        bases = [base for base in kind.__bases__ if issubclass(base, Value) and base not in (Value, Event)]
        yield from (*inside, *bases)
        yield from _parts(*inside, *bases)


def _values(hint: Any) -> Iterator[type[Value]]:
    """Yield the classes of ours that a type names."""
    if isinstance(hint, type) and issubclass(hint, Value):
        yield hint
    for inner in get_args(hint):
        yield from _values(inner)


def _type(hint: Any) -> str:
    """Say a type in words."""
    for name, words in LISTS.items():
        if hint is words:
            return f"[{name}](#{name.lower()})"
    for scalar, text in SCALARS:
        if hint is scalar:
            return text
    if isinstance(hint, type) and issubclass(hint, Value):
        return _link(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return _words(hint)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"object, {_type(inner[0])} to {_type(inner[1])}"
    if origin in {types.UnionType, Union}:
        return " or ".join(_type(each) for each in inner)
    return _annotated(inner)


def _annotated(inner: tuple[Any, ...]) -> str:
    """Say a type with bounds, or a union told apart by a field."""
    bounds = {
        key: value
        for mark in getattr(inner[1], "metadata", ())
        for key in ("ge", "le")
        if (value := getattr(mark, key, None)) is not None
    }
    low, high = bounds.get("ge"), bounds.get("le")
    if low is None or high is None:
        return _type(inner[0])
    if high == policy.INT64_MAX:
        return "integer" if low < 0 else f"integer from {low:,}"
    return f"integer from {low:,} to {high:,}"


def _markdown(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


def _words(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in get_args(words))


def _link(part: type[Value]) -> str:
    return f"[{part.__name__}](#{part.__name__.lower()})"


if __name__ == "__main__":
    write()
