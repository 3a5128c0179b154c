"""A report for people: a table with its total, small bars on a terminal, and what is unknown in a sentence."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from ledger.canonical import INT64_MAX
from ledger.cli import output
from ledger.cli.work.report_columns import ALWAYS, CHARTED, EMPTY, GIVEN_UP, HEADINGS, PARTLY
from ledger.cli.work.words import instant, plural
from ledger.reports.asked import LABEL, Asked, Column, Report

__all__ = ["tell_table", "usd"]

BAR: Final = 12
GAP: Final = "  "
EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
DASH: Final = "-"
NANO_DIGITS: Final = 9

Row = Mapping[str, Any]


def tell_table(name: str, report: Report, total: Row | None, asked: Asked) -> None:
    """Write a report for people."""
    if total is None:
        output.write(f"{EMPTY[name]}{_time(asked)}\n")
        return
    headings = HEADINGS[name]
    keys = [column for column in report.columns if column.kind == "key" and column.name not in headings]
    drawn = [_Drawn(one.name, _heading(one), "left", [_key(one, row) for row in report.rows]) for one in keys]
    for number, key in enumerate(drawn):
        key.cells.append("" if number else "total")
    for column in report.columns:
        if column.name in headings and _is_told(report, column):
            side: Literal["left", "right"] = "left" if column.kind == "key" else "right"
            cells = [_cell(column, row) for row in (*report.rows, total)]
            drawn.append(_Drawn(column.name, headings[column.name], side, cells))
    if output.is_terminal():
        charted = headings[CHARTED[name]]
        drawn.append(_Drawn("", charted, "left", [*_bars(report.rows, CHARTED[name]), ""]))
    left_out = _fitted(drawn, GIVEN_UP[name]) if output.is_terminal() else []
    output.table([(one.heading, one.side) for one in drawn], list(zip(*(one.cells for one in drawn), strict=True)))
    for sentence in _sentences(name, total):
        output.write(output.wrapped(sentence))
    if left_out:
        output.write(output.wrapped(f"Left out for want of room: {', '.join(left_out)}; --format csv has everything."))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A column as it is drawn, the total's cell last."""

    name: str
    heading: str
    side: Literal["left", "right"]
    cells: list[str]

    @property
    def width(self) -> int:
        return max(len(output.visible(text)) for text in (self.heading, *self.cells)) + len(GAP)


def _fitted(drawn: list[_Drawn], given_up: Sequence[str]) -> list[str]:
    """Take columns away until the rest fits the terminal, and return their headings; none where that cannot be."""
    room = shutil.get_terminal_size().columns + len(GAP)
    gone: list[_Drawn] = []
    for name in given_up:
        if sum(one.width for one in drawn) <= room + sum(one.width for one in gone):
            break
        gone += [one for one in drawn if one.name == name]
    if sum(one.width for one in drawn) > room + sum(one.width for one in gone):
        return []
    for one in gone:
        drawn.remove(one)
    return [one.heading for one in gone]


def usd(nano_usd: int) -> str:
    """Return nano-USD as USD, exactly, with two decimals at the least."""
    whole, _, decimals = f"{Decimal(nano_usd).scaleb(-NANO_DIGITS):,.9f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _is_told(report: Report, column: Column) -> bool:
    """Leave a column out that says nothing in any row, unless it says that nothing is unknown."""
    return column.name in ALWAYS or any(row[column.name] for row in report.rows)


def _heading(column: Column) -> str:
    return column.name if column.name.startswith(LABEL) else column.name.replace("_", " ")


def _key(column: Column, row: Row) -> str:
    value = row[column.name]
    if value is None:
        return "(no such label)" if column.name.startswith(LABEL) else DASH
    return str(value)


def _cell(column: Column, row: Row) -> str:
    value = row[column.name]
    match column.kind:
        case _ if value is None:
            return "" if column.kind == "key" else DASH
        case "money":
            return usd(value) + (" + ?" if row.get(PARTLY.get(column.name, "")) else "")
        case "share":
            return f"{Decimal(str(value)) * 100:.2f} %"
        case "ratio":
            return f"{value:.2f}"
        case "key":
            return str(value)
        case _:
            return f"{value:,}"


def _bars(rows: Sequence[Row], name: str) -> list[str]:
    """Return a bar a row, the longest as wide as there is room for; a share's is of the whole."""
    values = [row[name] or 0 for row in rows]
    most = 1 if any(isinstance(value, float) for value in values) else max(values, default=0)
    return [_bar(value / most if most > 0 else 0) for value in values]


def _bar(part: float) -> str:
    if not _can_say(EIGHTHS):
        return "#" * round(max(part, 0) * BAR)
    full, rest = divmod(round(max(part, 0) * BAR * 8), 8)
    return EIGHTHS[-1] * full + (EIGHTHS[rest] if rest else "")


def _sentences(name: str, total: Row) -> list[str]:
    """Say what is unknown, and how large it can be."""
    said = []
    match name:
        case "cost":
            said += _unknown(
                total["cost_unknown_attempts"], total["exposure_nano_usd"], total["exposure_unknown_attempts"]
            )
            if total["tokens_unknown_attempts"]:
                said.append(f"The tokens of {plural(total['tokens_unknown_attempts'], 'attempt')} are unknown.")
            if total.get("compared_attempts") is not None:
                said.append(
                    f"An estimate over {plural(total['compared_attempts'], 'attempt')}: the recorded tokens at another "
                    "model's price; another model would have counted and written others, and failed elsewhere."
                )
        case "latency" if total["unmeasured_attempts"]:
            said.append(f"Nobody measured {plural(total['unmeasured_attempts'], 'answer')}.")
        case "reliability":
            if total["settled"]:
                said.append(f"Settled later, and in no rate: {plural(total['settled'], 'attempt')}.")
            if total["running"]:
                said.append(f"Still running: {plural(total['running'], 'attempt')}.")
            if total["requests_unknown_attempts"]:
                attempts = plural(total["requests_unknown_attempts"], "attempt")
                said.append(f"How often a provider was asked is unknown for {attempts}.")
        case "validation" if total["judge_cost_unknown_attempts"]:
            said.append(f"The cost of {plural(total['judge_cost_unknown_attempts'], 'call')} of judges is unknown.")
        case _:
            pass
    if total.get("errors"):
        said.append(f"Errors: {', '.join(f'{word} {count:,}' for word, count in total['errors'].items())}.")
    return said


def _unknown(attempts: int, exposure: int, unbounded: int) -> list[str]:
    if not attempts:
        return ["The cost of every attempt is known."]
    unknown = f"The cost of {plural(attempts, 'attempt')} is unknown"
    if attempts == unbounded:
        return [f"{unknown}, and so is the most that it can be."]
    without = f"; for {unbounded:,} of them no bound is known" if unbounded else ""
    return [f"{unknown}, at most {usd(exposure)} USD{without}."]


def _time(asked: Asked) -> str:
    since = f" since {instant(asked.since_ms)}" if asked.since_ms else ""
    return since + (f" before {instant(asked.until_ms)}" if asked.until_ms < INT64_MAX else "")


def _can_say(text: str) -> bool:
    """Say whether standard output's encoding has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
