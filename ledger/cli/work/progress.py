"""How far a batch is: a bar on a terminal, a line now and then elsewhere; always on standard error."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ledger.cli import output

__all__ = ["progress"]

STEPS: Final = 10
Report = Callable[[str, int], None]
"""Called with the word that lines count under, and how many there are."""


@contextmanager
def progress(total: int, of: str = "lines") -> Iterator[Report]:
    """Show how many of ``total`` lines, or what they are called, are done, for as long as the block lasts."""
    if output.is_terminal(sys.stderr):
        with _bar(total) as report:
            yield report
    else:
        yield _lines(total, of)


def _lines(total: int, of: str) -> Report:
    """Write a line at about every tenth of the way."""
    counts: Counter[str] = Counter()
    told = 0

    def report(word: str, lines: int) -> None:
        nonlocal told
        counts[word] += lines
        done = counts.total()
        if done * STEPS // total > told:
            told = done * STEPS // total
            output.note(f"{done:,}/{total:,} {of}: {_said(counts)}")

    return report


@contextmanager
def _bar(total: int) -> Iterator[Report]:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - likewise

    counts: Counter[str] = Counter()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("", total=total)

        def report(word: str, lines: int) -> None:
            counts[word] += lines
            shown.update(bar, advance=lines, description=_said(counts))

        yield report


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]:,} {word}" for word in sorted(counts))
