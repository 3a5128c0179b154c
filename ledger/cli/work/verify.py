"""The work of ``verify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ledger.audit import Report, read_lines, read_public_key, verify
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import plural
from ledger.store.protocol import Problem

__all__ = ["tell_problems", "tell_report", "verify_ledger"]

SHOWN_MAX: Final = 50
EVENTS_FOR_SEVERAL: Final = 20_000
"""From how many events on it is quicker to start other processes than to check all in this one."""
PROCESSES_MAX: Final = 8
"""What one reader can keep busy."""


def verify_ledger(common: Common, anchors: Sequence[Path], public_keys: Sequence[Path]) -> int:
    """Verify a ledger and return the exit code.

    Args:
        common: what the command was told.
        anchors: files with lines that were kept elsewhere.
        public_keys: files with keys, one of which must have signed the anchors.
    """

    async def work() -> int:
        kept = [line for path in anchors for line in read_lines(path)]
        keys = [read_public_key(path) for path in public_keys]
        async with opened(common, create=False, guarded=False) as executor:
            store = await executor.ledger.store()
            newest = await store.newest()
            with _progress(newest) as progress:
                report = await verify(store, progress=progress, kept=kept, keys=keys, processes=_processes(newest))
        if common.as_json:
            output.document(asdict(report))
        else:
            tell_report(report, kept=len(kept))
        return DONE if report.ok else FOUND

    return perform(work)


def _processes(events: int) -> int:
    """Return how many processes are worth their start."""
    if events < EVENTS_FOR_SEVERAL:
        return 0
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(processors, PROCESSES_MAX) if processors > 1 else 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object] | None]:
    """Show how far it is, to whoever waits at a terminal; ``total`` is the newest position, so at least the events."""
    if not output.is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415 - likewise

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("", total=total)
        yield lambda events: shown.update(bar, completed=events)


def tell_problems(problems: Sequence[Problem]) -> None:
    """Say each finding in a line."""
    for problem in problems[:SHOWN_MAX]:
        kind = "stream" if ":" in (problem.task_id or "") else "task"
        where = "the ledger" if problem.task_id is None else f"{kind} {problem.task_id}"
        version = "" if problem.version is None else f", version {problem.version}"
        output.write(f"{problem.kind}: {where}{version}: {output.visible(problem.detail)}\n")
    if len(problems) > SHOWN_MAX:
        output.write(f"… and {len(problems) - SHOWN_MAX:,} more; --json has them\n")


def tell_report(report: Report, *, kept: int = 0) -> None:
    """Say what was found; ``kept`` is the number of anchors from elsewhere that it was compared with."""
    tell_problems(report.problems)
    looked = f"{plural(report.events, 'event')} of {plural(report.tasks, 'task')}"
    if report.ok:
        also = f", and {plural(kept, 'kept anchor')}" if kept else ""
        output.write(output.wrapped(f"ok: {looked}; every hash, link, version, projection and decision holds{also}"))
    else:
        output.write(f"{plural(len(report.problems), 'problem')} in {looked}\n")
    if report.unanchored:
        said = (
            f"The ledger is tamper-evident: what was changed inside a task's events is found. "
            f"{plural(report.unanchored, 'event')} not anchored yet: "
            "a missing task or a missing end of one cannot be seen among them."
        )
        output.write(output.wrapped(said))
    elif report.events and not kept:
        said = (
            "Every event is anchored. Who can write the ledger can seal it anew, though: only "
            "`verify --anchor FILE`, with a line that was kept elsewhere, shows that."
        )
        output.write(output.wrapped(said))
