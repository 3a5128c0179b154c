"""The work of ``verify``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from ledger.audit import Report, verify
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import plural
from ledger.store.protocol import Problem

__all__ = ["tell_problems", "tell_report", "verify_ledger"]

SHOWN_MAX: Final = 50
EVENTS_A_WORD: Final = 50_000


def verify_ledger(common: Common) -> int:
    """Verify a ledger and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False, guarded=False) as executor:
            report = await verify(await executor.ledger.store(), progress=_progress())
        if common.as_json:
            output.document(asdict(report))
        else:
            tell_report(report)
        return DONE if report.ok else FOUND

    return perform(work)


def _progress() -> Callable[[int], None]:
    """Say now and then how far it is, to whoever waits at a terminal."""
    told = 0

    def report(events: int) -> None:
        nonlocal told
        if events // EVENTS_A_WORD > told and output.is_terminal(sys.stderr):
            told = events // EVENTS_A_WORD
            output.note(f"{events:,} events checked")

    return report


def tell_problems(problems: Sequence[Problem]) -> None:
    """Say each finding in a line."""
    for problem in problems[:SHOWN_MAX]:
        where = "the ledger" if problem.task_id is None else f"task {problem.task_id}"
        version = "" if problem.version is None else f", version {problem.version}"
        output.write(f"{problem.kind}: {where}{version}: {output.visible(problem.detail)}\n")
    if len(problems) > SHOWN_MAX:
        output.write(f"… and {len(problems) - SHOWN_MAX:,} more; --json has them\n")


def tell_report(report: Report) -> None:
    """Say what was found."""
    tell_problems(report.problems)
    looked = f"{plural(report.events, 'event')} of {plural(report.tasks, 'task')}"
    if report.ok:
        output.write(output.wrapped(f"ok: {looked}; every hash, link, version, projection and decision holds"))
    else:
        output.write(f"{plural(len(report.problems), 'problem')} in {looked}\n")
    if report.unanchored:
        said = (
            f"The ledger is tamper-evident: what was changed inside a task's events is found. "
            f"{plural(report.unanchored, 'event')} not anchored yet: "
            "a missing task or a missing end of one cannot be seen among them."
        )
        output.write(output.wrapped(said))
