"""Recording how an attempt ended, whatever happens: an answer that the ledger does not take is kept until it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from clients.base import ExecutionResult
from ledger import commands as c
from ledger import events as e
from ledger.concealment import Hide
from ledger.envelope import Stream
from ledger.errors import LedgerError, LedgerFull
from ledger.executor import outcomes
from ledger.executor.bench import Bench
from ledger.executor.calling import say
from ledger.executor.outcomes import Terms
from ledger.executor.spill import Spilled, spill
from ledger.ports import Ports
from ledger.state import Task

__all__ = ["ended", "record"]

KEPT_S: Final = 5.0
"""How long an answer that the ledger does not take is kept in memory and offered again, before it is spilled."""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 1.0


def ended(
    ports: Ports, started: e.AttemptStarted, result: ExecutionResult, task: Task, terms: Terms, hide: Hide
) -> outcomes.Ended:
    """Make the record of an end, without secrets; a result that cannot be recorded is a failure that can."""
    judged_attempt = None if task.answer is None else task.answer.attempt
    try:
        result = _concealed(result, hide)
        return outcomes.ended(started, result, task.submitted, judged_attempt, ports, terms)
    except Exception as error:  # noqa: BLE001 - nothing that a client gives may lose the record of its call
        why = hide(f"the client's result cannot be recorded: {say(error)}")
        failed = outcomes.failure(started.request_model, "other", why, billed=True)
        return outcomes.ended(started, failed, task.submitted, judged_attempt, ports, terms)


def _concealed(result: ExecutionResult, hide: Hide) -> ExecutionResult:
    """Return a result whose words about the call hold no secret; its answer stays as it is."""
    said = ("error", "raw_usage", "finish_reason", "request_id", "served_model")
    hidden: dict[str, object] = _hidden({name: getattr(result, name) for name in said}, hide)
    rows = [_hidden(vars(row), hide) for row in result.usage]
    if any(rows):
        hidden["usage"] = tuple(row.model_copy(update=names) for row, names in zip(result.usage, rows, strict=True))
    return result.model_copy(update=hidden) if hidden else result


def _hidden(said: Mapping[str, object], hide: Hide) -> dict[str, object]:
    """Return what is to be said in the place of texts that hold a secret."""
    return {name: text for name, value in said.items() if isinstance(value, str) and (text := hide(value)) != value}


async def record(bench: Bench, stream: Stream, started: e.AttemptStarted, done: outcomes.Ended, task: Task) -> Stream:
    """Append an outcome and what it leads to; then see whether a breaker follows from it.

    Raises:
        LedgerError: the ledger does not take it; where the outcome is kept instead, the message says.
    """
    task_id, ports = stream[0].task_id, bench.desk.ports
    command = c.Record(done.outcome, started.fence, bench.desk.seen(task.submitted.policy), done.verdict)
    ports.passing("before outcome")
    clock = asyncio.get_running_loop().time
    waited_s, pause_s, begun_s = 0.0, PAUSE_FIRST_S, clock()
    try:
        while True:
            try:
                recorded = await bench.desk.transact(
                    task_id, command, fence=started.fence, payloads=done.payloads, known=stream
                )
                break
            except LedgerError as error:
                if max(waited_s, clock() - begun_s) >= KEPT_S:
                    raise _spilled(bench, Spilled(task_id, started.fence, done)) from error
            await ports.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, PAUSE_MAX_S)
    except asyncio.CancelledError:
        # Only the end of the event loop reaches in here, and nobody comes after it to bring the answer in.
        _spilled(bench, Spilled(task_id, started.fence, done))
        raise
    ports.passing("after outcome")
    await bench.brakes.after(task_id, started.provider, started.request_model, recorded)
    return recorded


def _spilled(bench: Bench, spilled: Spilled) -> LedgerError:
    """Write an outcome beside the ledger, let no new call begin, and return what the caller is told."""
    attempt, task_id = spilled.ended.outcome.attempt, spilled.task_id
    if bench.folder is None:
        return LedgerFull(f"the ledger did not take the outcome of attempt {attempt} of task {task_id}")
    bench.desk.ports.passing("before spill")
    try:
        path = spill(bench.folder, spilled)
    except LedgerFull as lost:
        bench.pool.stalled = lost
        return lost
    bench.desk.ports.passing("after spill")
    told = LedgerFull(
        f"the ledger did not take the outcome of attempt {attempt} of task {task_id}: it is kept in {path}, "
        "and the next start brings it in; make room first"
    )
    bench.pool.stalled = told
    return told
