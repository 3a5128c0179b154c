"""The work of ``batch``: the file, the progress, the results."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ledger.batch.lines import Asked, read_batch
from ledger.batch.running import refuse_taken_keys, run_batch
from ledger.batch.tally import Finished, Tally
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND, USAGE
from ledger.cli.options import Common
from ledger.cli.work.advice import outcome
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.progress import progress
from ledger.cli.work.whole import whole_file
from ledger.cli.work.words import plural
from ledger.errors import LedgerError, RequestRefused
from ledger.executor.replay_plans import Replay

__all__ = ["run_file"]

TOLD_MAX: Final = 10
INTERRUPTED: Final = "what is done is done: the same command goes on with what is left"
ELSEWHERE: Final = "every answer is in the ledger: the same command with another --out writes them, without a call"


def run_file(common: Common, file: str, concurrency: int | None, out: str | None, *, retry_failed: bool = False) -> int:
    """Run a batch and return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        batch = _read(file)
        _refuse_place(out)
        return _run(common, batch, file, concurrency, out, retry_failed=retry_failed)

    return perform(work, interrupted=INTERRUPTED)


async def _run(
    common: Common, batch: Sequence[Asked], name: str, concurrency: int | None, out: str | None, *, retry_failed: bool
) -> int:
    results = _Results(sum(len(asked.lines) for asked in batch), kept=out is not None)
    async with opened(common, create=True, tiers={asked.request.tier for asked in batch}) as executor:
        await refuse_taken_keys(executor, batch, name)
        now_ms = time.time_ns() // 1_000_000
        retry = Replay(executor.registry, asked_at_ms=now_ms) if retry_failed else None
        with progress(results.total) as report:

            def on_finished(finished: Finished) -> None:
                results.add(finished)
                report(finished.count, len(finished.asked.lines))

            try:
                tally = await run_batch(executor, batch, concurrency=concurrency, on_finished=on_finished, retry=retry)
            except (LedgerError, asyncio.CancelledError) as error:
                advice = "; the same command goes on with what is left" if isinstance(error, LedgerError) else ""
                output.note(f"{results.so_far()}{advice}")
                raise
        url = executor.ledger.shown
    try:
        if out is not None:
            results.write(Path(out))
    except OSError as error:
        raise output.Unwritable(f"--out {out}", error, ELSEWHERE) from error
    finally:
        _tell(tally, results, url, as_json=common.as_json)
    if tally.lines["refused"]:
        return USAGE
    return DONE if tally.all_well else FOUND


def _read(name: str) -> Sequence[Asked]:
    if name == "-":
        return read_batch(sys.stdin.buffer, "standard input")
    try:
        with Path(name).open("rb") as file:
            return read_batch(file, name)
    except OSError as error:
        raise RequestRefused(f"{name} cannot be read: {error.strerror}", field="file") from error


def _refuse_place(out: str | None) -> None:
    """Find out before anything is paid for whether the results can be written."""
    if out is None:
        return
    try:
        Path(out).exists()  # asks the system, which refuses a name that is too long
        folder = Path(out).resolve().parent
    except OSError as error:
        raise RequestRefused(f"--out {out} cannot be written: {error.strerror}", field="out") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RequestRefused(f"--out {out}: the folder {folder} is not there or cannot be written", field="out")


class _Results:
    """The lines' results, by number, as far as they are wanted; and the first of the bad ones."""

    def __init__(self, total: int, *, kept: bool) -> None:
        self.total = total
        self.bad: list[str] = []
        self._counts: Counter[str] = Counter()
        self._kept = kept
        self._lines: dict[int, bytes] = {}

    def add(self, finished: Finished) -> None:
        """Keep what is written about a request's lines."""
        self._counts[finished.count] += len(finished.asked.lines)
        if finished.count in {"failed", "held", "refused"} and len(self.bad) < TOLD_MAX:
            self.bad.append(_said(finished))
        if self._kept:
            self._lines |= {line: _encoded(finished.record(line)) for line in finished.asked.lines}

    def so_far(self) -> str:
        """Say how far a run came that did not come to its end."""
        counts = "".join(f", {count:,} {word}" for word, count in sorted(self._counts.items()))
        return f"{self._counts.total():,} of {self.total:,} lines were done{counts}"

    def write(self, path: Path) -> None:
        """Write them in the file's order, so that a reader sees all of them or what was there before."""
        content = [self._lines[line] for line in sorted(self._lines)]
        with whole_file(path) as file:
            file.writelines(content)


def _encoded(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _said(finished: Finished) -> str:
    """Say in a line what became of a bad one."""
    lines = finished.asked.lines
    where = f"line {lines[0]}" + (f" and {len(lines) - 1} equal" if len(lines) > 1 else "")
    if finished.done is None:
        return f"{where}: refused: {finished.refusal}"
    result = finished.done.result
    return f"{where}: {outcome(finished.count, result)} (task {result.task_id})"


def _tell(tally: Tally, results: _Results, url: str, *, as_json: bool) -> None:
    for line in results.bad:
        output.note(line)
    hidden = sum(tally.lines[count] for count in ("failed", "held", "refused")) - len(results.bad)
    if hidden > 0 and len(results.bad) == TOLD_MAX:
        output.note(f"… and {hidden:,} more; --out has every line's error")
    if as_json:
        output.document(tally.summary())
        return
    counts = [f"{tally.lines[count]:,} {count}" for count in ("succeeded", "failed", "held", "reused")]
    if tally.lines["refused"]:
        counts.append(f"{tally.lines['refused']:,} refused")
    output.write(f"{plural(results.total, 'line')}: {', '.join(counts)}\n")
    cost = output.money(tally.cost_known_nano_usd, tally.cost_unknown_attempts)
    output.write(
        f"this run: {plural(tally.submitted, 'task')} submitted, {plural(tally.attempts, 'attempt')}, {cost}\n"
    )
    output.write(f"ledger: {output.visible(url)}\n")
