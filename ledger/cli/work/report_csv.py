"""A report as CSV: quoted as RFC 4180 says, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

from ledger.reports.asked import Report
from ledger.spreadsheets import harmless

__all__ = ["cell", "comma_separated"]


def comma_separated(report: Report) -> str:
    """Return a report with a line for its columns' names; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([cell(column.name) for column in report.columns])
    for row in report.rows:
        writer.writerow([cell(row[column.name]) for column in report.columns])
    return text.getvalue()


def cell(value: Any) -> str:
    """Return a cell: numbers as they are, a text that could be a formula behind an apostrophe."""
    match value:
        case None:
            return ""
        case str():
            return harmless(value)
        case dict():
            return cell(";".join(f"{word}={count}" for word, count in value.items()))
        case _:
            return str(value)
