"""The work of ``export``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ledger.audit.exporting import export_lines
from ledger.audit.tabling import export_csv, export_parquet
from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.whole import whole_file
from ledger.cli.work.words import plural
from ledger.errors import RequestRefused

__all__ = ["Wanted", "export_ledger"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    form: str
    out: Path | None
    table: str
    after: int
    texts: bool


def export_ledger(common: Common, wanted: Wanted) -> int:
    """Write a ledger out and return the exit code."""
    if wanted.out is None and wanted.form == "parquet" and output.is_terminal():
        output.complain("Parquet is no text: name a file by --out")
        return 2

    async def work() -> int:
        async with opened(common, create=False) as executor:
            url = executor.ledger.url
        try:
            with _sink(wanted.out) as file:
                told = await _written(url, wanted, file)
        except BrokenPipeError:
            output.nowhere(sys.stdout)
            return DONE
        if wanted.out is not None and common.as_json:
            output.document({"out": str(wanted.out), **told})
        else:
            words = [plural(told["rows"], "row")] if "rows" in told else [plural(told["events"], "event")]
            words += [plural(told["texts"], "text")] if "texts" in told else []
            upto = f", up to position {told['upto']:,}" if "upto" in told else ""
            output.note(f"exported {' and '.join(words)}{upto}" + (f" to {wanted.out}" if wanted.out else ""))
        return DONE

    return perform(work, interrupted="no file was made; what went to standard output has no end")


async def _written(url: str, wanted: Wanted, file: BinaryIO) -> dict[str, Any]:
    # Lines come whole: a terminal gets what is safe for it, all else every byte.
    write = _show if wanted.out is None and output.is_terminal() else file.write
    if wanted.form == "csv":
        return {"rows": await export_csv(url, wanted.table, write, wanted.after)}
    if wanted.form == "parquet":
        return {"rows": await export_parquet(url, wanted.table, file, wanted.after)}
    done = await export_lines(url, write, after=wanted.after, texts=wanted.texts)
    return {"events": done.events, "texts": done.texts, "upto": done.upto}


def _show(lines: bytes) -> None:
    output.write(lines.decode("utf-8", "replace"))


@contextmanager
def _sink(out: Path | None) -> Iterator[BinaryIO]:
    """Give what to write to."""
    if out is not None:
        with _told(str(out)), whole_file(out) as file:
            yield file
        return
    with _told("standard output"):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Say it where a file cannot be written; a reader of standard output that went away is no failure of ours.

    Raises:
        RequestRefused: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RequestRefused(f"{place} cannot be written: {error.strerror or error}", field="out") from error
