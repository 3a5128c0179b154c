"""What every benchmark needs: how much to do, stopwatches, medians, tables."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

__all__ = ["Plan", "Stopwatch", "Table", "conditions", "figure", "folder_in", "fsync_us", "median", "percentile"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do, and where."""

    scale: float = 1.0
    folder: Path = Path()

    def times(self, count: int, at_least: int = 1) -> int:
        """Scale a count."""
        return max(at_least, round(count * self.scale))


@dataclass(slots=True)
class Stopwatch:
    """Wall and processor time of a ``with`` block; the processor's is this process's, all threads, system included."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    _begun: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def __enter__(self) -> Self:
        self._begun = (time.perf_counter(), time.process_time())
        return self

    def __exit__(self, *_: object) -> None:
        wall_s, cpu_s = self._begun
        self.wall_s, self.cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s


@dataclass(slots=True)
class Table:
    """Rows of texts under a title."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        widths = [max(len(row[index]) for row in (self.columns, *self.rows)) for index in range(len(self.columns))]
        lines = [self.title, self._line(self.columns, widths), "  ".join("-" * width for width in widths)]
        lines += [self._line(row, widths) for row in self.rows]
        return "\n".join((*lines, *self.notes)) + "\n"

    @staticmethod
    def _line(row: Sequence[str], widths: Sequence[int]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join((first.strip().ljust(widths[0]), *rest)).rstrip()


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the nearest rank: a value that occurred."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def figure(value: float) -> str:
    """Show three digits of a figure, without an exponent."""
    for below, digits in ((1, 3), (10, 2), (100, 1)):
        if abs(value) < below:
            return f"{value:.{digits}f}"
    return f"{value:,.0f}"


@contextmanager
def folder_in(parent: Path) -> Iterator[Path]:
    """Make a folder for a ledger and take it away again."""
    made = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def fsync_us(folder: Path, times: int = 50) -> float:
    """Return the median time of making 4 KiB durable on a folder's disk, in microseconds."""
    with tempfile.TemporaryFile(dir=folder) as file:
        took = []
        for _ in range(times):
            os.write(file.fileno(), b"x" * 4096)
            begun = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return median(took) * 1e6


def conditions(folder: Path) -> str:
    """Say what the figures depend on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, fsync {fsync_us(folder):,.0f} us"
    )
