"""What reaches the terminal, a pipe or a file: answers, notes, tables, JSON; never a control character raw."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, Any, Final, Literal, TextIO

import click

from ledger.cli.exits import FOUND
from ledger.concealment import conceal

__all__ = [
    "NANO",
    "Column",
    "Unwritable",
    "answer",
    "complain",
    "document",
    "is_terminal",
    "money",
    "note",
    "nowhere",
    "prepare",
    "shortened",
    "table",
    "visible",
    "wrapped",
    "write",
]

# All of C0 but tab and newline, DEL, C1, the marks of direction, other ends of lines, and lone surrogates.
UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NANO: Final = 1_000_000_000
NARROW: Final = 60
"""Columns of a terminal below which there is no room for an indent."""
LINES: Final = 24
GAP: Final = "  "

Column = tuple[str, Literal["left", "right"]]


class Unwritable(click.ClickException):
    """A result that did not get out, on a full disk for one; what the ledger has recorded stays."""

    exit_code = FOUND

    def __init__(self, place: str, error: OSError, advice: str) -> None:
        super().__init__(f"{place} cannot be written: {error.strerror}; {advice}")

    def show(self, file: IO[Any] | None = None) -> None:
        """Say it as every other failure is said."""
        complain(self.message)


def prepare() -> None:
    """Let pipes and files have UTF-8, whatever the locale, and nothing end in an encoding error.

    What the caller has closed is nowhere: else the next file that is opened would pass for it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open as long as we run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Both at once: an encoding that is set alone makes errors strict again.
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def is_terminal(stream: TextIO | None = None) -> bool:
    """Say whether a person looks at this stream; None is standard output."""
    return (stream or sys.stdout).isatty()


def visible(text: str) -> str:
    r"""Return a text whose control characters are written out, as in ``\x1b``."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def write(text: str, stream: TextIO | None = None) -> bool:
    """Write, made safe for a terminal; a reader that went away is no error, and gets nothing more: then return False.

    Raises:
        Unwritable: standard output cannot be written.
    """
    stream = stream or sys.stdout
    try:
        stream.write(visible(text) if stream.isatty() else text)
        stream.flush()
    except OSError as error:
        nowhere(stream)
        if isinstance(error, BrokenPipeError) or stream is sys.stderr:
            return False
        advice = "what was recorded stays, and `dispatch-ledger tasks` and `show` tell it"
        raise Unwritable("standard output", error, advice) from error
    return True


def nowhere(stream: TextIO) -> None:
    """Give a stream up: what is still held back must not be tried again when the process ends."""
    opened = os.open(os.devnull, os.O_WRONLY)
    os.dup2(opened, stream.fileno())
    os.close(opened)


def answer(text: str) -> None:
    """Write a model's text on a line of its own: untouched into a pipe, made safe for a terminal."""
    write(text if text.endswith("\n") else f"{text}\n")


def note(text: str) -> None:
    """Write a line beside the result, on standard error, without secrets."""
    write(f"{visible(conceal(text))}\n", sys.stderr)


def complain(text: str) -> None:
    """Say what went wrong, on standard error."""
    note(f"dispatch-ledger: {text}")


def document(value: Any, *, on_one_line: bool = False) -> bool:
    """Write one JSON document, for people's eyes on several lines; bytes are hex in it. False: the reader is gone."""
    on_terminal = is_terminal()
    indent = 2 if on_terminal and not on_one_line else None
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)
    if on_terminal:
        # JSON leaves DEL, C1 and the direction marks raw; they stand in strings only, where this escape is JSON too.
        text = UNSAFE.sub(lambda found: "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
    return write(f"{text}\n")


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def width() -> int:
    """Return the columns of the terminal."""
    return max(shutil.get_terminal_size().columns, 20)


def wrapped(text: str, *, first: str = "", rest: str = "") -> str:
    """Return a paragraph as lines that a terminal does not break inside words; elsewhere as one line.

    Args:
        text: what to say.
        first: what the first line begins with.
        rest: what the others begin with; a narrow terminal gets four blanks at most.
    """
    if not is_terminal():
        return f"{first}{text}\n"
    if width() < NARROW:
        first, rest = first if first.strip() else first[:4], rest[:4]
    lines = textwrap.wrap(text, width(), initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines or [first.rstrip()])


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under their columns' names: a table on a terminal that is wide enough, aligned text in a pipe."""
    cells = [[visible(cell).replace("\n", " ") for cell in row] for row in rows]
    lines = [[name for name, _ in columns], *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    if is_terminal() and sum(widths) + len(GAP) * (len(widths) - 1) > width():
        for row in cells:
            named = [
                f"{name} {cell}" if side == "right" else cell for (name, side), cell in zip(columns, row, strict=True)
            ]
            write(wrapped(" · ".join(part for part in named if part), rest="  "))
        return
    if is_terminal():
        _rich_table(columns, cells)
        return
    for line in lines:
        padded = [
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(line, widths, columns, strict=True)
        ]
        write(GAP.join(padded).rstrip() + "\n")


def _rich_table(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.table import Table  # noqa: PLC0415 - likewise
    from rich.text import Text  # noqa: PLC0415 - likewise

    drawn = Table(box=None, header_style="" if os.environ.get("NO_COLOR") else "bold", pad_edge=False)
    for name, side in columns:
        drawn.add_column(name, justify=side, overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    # Both, or the width does not count on a terminal without capabilities.
    Console(highlight=False, width=width(), height=LINES).print(drawn)


def money(known_nano_usd: int, unknown_attempts: int) -> str:
    """Say what attempts cost; unknown is never shown as nothing."""
    known = f"{known_nano_usd / NANO:.6f} USD"
    if not unknown_attempts:
        return f"cost {known}" if known_nano_usd else "cost 0"
    calls = "1 attempt" if unknown_attempts == 1 else f"{unknown_attempts:,} attempts"
    return f"cost unknown for {calls}" + (f", {known} known" if known_nano_usd else "")


def shortened(text: str, most: int) -> str:
    """Return at most so many characters, and say what was left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]} … ({len(text) - most:,} more characters; --full shows them)"
