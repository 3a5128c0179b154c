"""Where each key of a TOML text stands: what ``tomllib`` knows while it reads, and does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Lines"]

TOKEN = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'''
    r"""|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"""
    r'''|"(?:[^"\\\n]|\\.)*+"'''
    r"""|'[^'\n]*+'"""
    r"""|(?P<comment>\#[^\n]*+)|(?P<newline>\n)|(?P<equals>=)|(?P<opens>[\[{])|(?P<closes>[]}])"""
    r"""|[^"'\#\n=\[\]{}]++""",
    re.DOTALL,
)

Path = tuple[str, ...]


class Lines:
    """The lines of a TOML text's keys and tables, from 1.

    Args:
        text: a text that ``tomllib`` has read without an error; "" knows no lines.
    """

    def __init__(self, text: str = "") -> None:
        self._lines: dict[Path, int] = {}
        table: Path = ()
        for line, key, is_header in _statements(text.replace("\r\n", "\n")):
            path = _parts(key)
            if is_header:
                table = path
            else:
                path = table + path
            for depth in range(1, len(path) + 1):
                self._lines.setdefault(path[:depth], line)

    def of(self, path: Sequence[object]) -> int | None:
        """Return the line of a key, else that of the nearest table or key around it."""
        for depth in range(len(path), 0, -1):
            line = self._lines.get(tuple(str(part) for part in path[:depth]))
            if line is not None:
                return line
        return None


def _statements(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the line, the key and whether it is a table's header, for every statement of a text."""
    line, started, depth = 1, 1, 0
    key, has_value = "", False
    for token in TOKEN.finditer(text + "\n"):
        kind, part = token.lastgroup, token.group()
        if kind == "newline" and depth == 0:
            if key.strip():
                yield started, key.strip(), not has_value
            key, has_value = "", False
        elif kind == "equals" and depth == 0:
            has_value = True
        elif kind in {"opens", "closes"}:
            depth += 1 if kind == "opens" else -1
        if not has_value and kind not in {"newline", "comment"}:
            started = started if key.strip() else line
            key += part
        line += part.count("\n")


def _parts(key: str) -> Path:
    """Return a key's parts, as ``tomllib`` reads them: dotted, bare or quoted."""
    found: object = tomllib.loads(f"{key.strip('[]')} = 0")
    parts: list[str] = []
    while isinstance(found, Mapping):
        (name,) = found
        parts.append(name)
        found = found[name]
    return tuple(parts)
