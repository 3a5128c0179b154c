"""What is wrong with a configuration, in words: where, which key, what it is, what was expected."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from ledger.config.lines import Lines
from ledger.config.refusals import Circle, Wrong, WrongName, nearest
from ledger.errors import ConfigurationError

__all__ = ["Report", "name_of"]

Path = tuple[Any, ...]

MISTAKES_MAX: Final = 20
NAME_MAX: Final = 80
SECRET: Final = re.compile(r"(?i)(api[_-]?key|secret|password|passwd|(auth|api|access|bearer)[_-]?token|^token)$")
ENVIRONMENT: Final = {
    "api_key": {"anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"},
    "base_url": {"anthropic": "ANTHROPIC_BASE_URL", "gemini": "GOOGLE_GEMINI_BASE_URL"},
}
# A short word helps to find a slip; what could be a key, a password or a prompt is never repeated.
SHOWN_MAX: Final = 24
SHOWN_BITS_MAX: Final = 64
SHOWN: Final = re.compile(rf"[\w.:/ -]{{0,{SHOWN_MAX}}}", re.ASCII)
BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


class Report:
    """The mistakes of one configuration.

    Args:
        root: the model of the whole configuration.
        mapping: what was given.
        source: the file, or where else it came from.
        lines: where the keys stand in the file.
    """

    def __init__(self, root: type[BaseModel], mapping: Mapping[str, Any], source: str, lines: Lines) -> None:
        self._root = root
        self._mapping = mapping
        self._source = source
        self._lines = lines
        self._secrets = {path: _secret(path) for path in _secret_paths(mapping, ())}

    def error(self, found: Sequence[ErrorDetails]) -> ConfigurationError:
        """Return all that pydantic found, and every secret, as one error in the file's order."""
        explained = (self._explain(detail) for detail in found)
        mistakes: dict[Path, str] = {}
        for path, words in explained:
            mistakes.setdefault(path, words)
        return self._told(mistakes | self._secrets)

    def refuse_secrets(self) -> None:
        """Refuse a secret that stands where any key may.

        Raises:
            ConfigurationError: there is one, or several.
        """
        if self._secrets:
            raise self._told(self._secrets)

    def _told(self, mistakes: Mapping[Path, str]) -> ConfigurationError:
        placed = sorted(
            ((self._lines.of(path) or 0, words) for path, words in mistakes.items()), key=lambda one: one[0]
        )
        if len(placed) == 1:
            line, words = placed[0]
            return ConfigurationError(f"{self._source}{f', line {line}' if line else ''}: {words}")
        listed = [f"  {f'line {line}: ' if line else ''}{words}" for line, words in placed[:MISTAKES_MAX]]
        first = f", the first {MISTAKES_MAX}" if len(placed) > MISTAKES_MAX else ""
        return ConfigurationError("\n".join((f"{self._source} has {len(placed)} mistakes{first}:", *listed)))

    def _explain(self, detail: ErrorDetails) -> tuple[Path, str]:
        path: Path = tuple(part for part in detail["loc"] if part != "[key]")
        match detail.get("ctx", {}).get("error"):
            case Circle(chain=chain):
                return self._circle(chain)
            case WrongName() as wrong:
                return path, f"{name_of(path)} is not known, expected {wrong.expected}{_did_you_mean(wrong.near)}"
            case Wrong() as wrong:
                near = None if wrong.near is None else f'"{wrong.near}"'
                seen = shape(detail["input"])
                return path, f"{name_of(path)} is {seen}, expected {wrong.expected}{_did_you_mean(near)}"
        match detail["type"]:
            case "value_error" if detail["loc"][-1] == "[key]":
                return path, f"{name_of(path)} is not known, {detail['ctx']['error']}"
            case "value_error" if str(detail["ctx"]["error"]).startswith("expected "):
                expected = str(detail["ctx"]["error"]).removeprefix("expected ")
            case "extra_forbidden":
                return path, self._unknown(path)
            case "model_type" | "dict_type":
                expected = f"a table, [{name_of(path)}]" if path else "a table"
            case "tuple_type":
                expected = "a list"
            case "missing":
                return path, f"{name_of(path)} is missing"
            case _:
                expected = f"something else: {detail['msg']}"
        return path, f"{name_of(path)} is {shape(detail['input'])}, expected {expected}"

    def _circle(self, chain: tuple[str, ...]) -> tuple[Path, str]:
        """Point at a link that the person wrote: a built-in one is not theirs to find."""
        links: list[Path] = [("tiers", tier, "fallback") for tier in chain[:-1]]
        path = next((link for link in links if _is_written(self._mapping, link)), links[0])
        drawn = " -> ".join(chain)
        return path, f'{name_of(path)} makes a circle: {drawn}; let one of them have the fallback "none"'

    def _unknown(self, path: Path) -> str:
        name, here = str(path[-1]), _known(self._root, path[:-1])
        variable = ENVIRONMENT["base_url"].get(str(path[-2])) if name == "base_url" and len(path) > 1 else None
        if variable is not None:
            return f"{name_of(path)} is not read from a configuration; set {variable} in the environment"
        said = f"{name_of(path)} is not known"
        elsewhere = [known for known in _all_paths(self._root, ()) if known[-1] == name]
        if elsewhere:
            place = ", above the first table" if len(elsewhere[0]) == 1 else ""
            return f"{said}{_did_you_mean(name_of(elsewhere[0]) + place)}"
        near = nearest(name, here)
        if near is not None:
            return f"{said}{_did_you_mean(name_of((*path[:-1], near)))}"
        return f"{said}; known here: {', '.join(here)}"


def name_of(path: Path) -> str:
    """Return a key's full name as TOML has it: ``providers."a.b:make".concurrency``, ``script[0]``."""
    named = ""
    for part in path:
        if isinstance(part, int):
            named += f"[{part}]"
        else:
            name = str(part)[:NAME_MAX]
            # Control characters of a quoted key are escaped: this goes to terminals.
            quoted = name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=not name.isprintable())
            named += ("." if named else "") + quoted
    return named or "the configuration"


def shape(value: Any) -> str:
    """Say what a value is; a text only where it is short and plain."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int():
            # Python refuses to print a number of some thousand digits, and nobody would read it.
            return str(value) if value.bit_length() <= SHOWN_BITS_MAX else "a number of many digits"
        case float() | Decimal():
            return str(value).lower() if len(str(value)) <= SHOWN_MAX else "a number of many digits"
        case str():
            return f'"{value}"' if SHOWN.fullmatch(value) else f"a text of {len(value)} characters"
        case Mapping():
            return "a table"
        case list() | tuple():
            return f"a list of {len(value)} values" if len(value) != 1 else "a list of 1 value"
        case dt.date() | dt.time():
            return "a date or time"
        case _:
            return f"a {type(value).__name__}"


def _did_you_mean(near: str | None) -> str:
    return "" if near is None else f"; did you mean {near}?"


def _secret(path: Path) -> str:
    told = f"{name_of(path)} is a secret, and no configuration keeps one; remove it and"
    for owner, variable in ENVIRONMENT["api_key"].items():
        if owner in str(path[-1]).lower() or path[:2] == ("providers", owner):
            return f"{told} set {variable} in the environment"
    if path[0] == "providers":
        return f"{told} let its client read it from the environment"
    return f"{told} set {' or '.join(ENVIRONMENT['api_key'].values())} in the environment"


def _secret_paths(value: Any, path: Path) -> Iterator[Path]:
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, part in items:
        if isinstance(key, str) and SECRET.search(key) and not isinstance(part, Mapping):
            yield (*path, key)
        else:
            yield from _secret_paths(part, (*path, key))


def _is_written(mapping: Any, path: Path) -> bool:
    for part in path:
        if not isinstance(mapping, Mapping) or part not in mapping:
            return False
        mapping = mapping[part]
    return True


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a table, or of the tables in a table of tables."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _known(root: type[BaseModel], path: Path) -> tuple[str, ...]:
    """Return the keys that are known in a table."""
    table: type[BaseModel] | None = root
    for part in path:
        # A part without a field is a name that the user chose, as a simulated model's: the table stays.
        field = None if table is None else table.model_fields.get(str(part))
        table = table if field is None else _table(field.annotation)
    return () if table is None else tuple(table.model_fields)


def _all_paths(table: type[BaseModel], path: Path) -> Iterator[Path]:
    for name, field in table.model_fields.items():
        below = _table(field.annotation)
        yield (*path, name)
        if below is not None and len(get_args(field.annotation)) == 0:
            yield from _all_paths(below, (*path, name))
