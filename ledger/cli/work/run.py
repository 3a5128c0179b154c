"""The work of ``run``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from ledger.batch.tally import task_record
from ledger.cli import output
from ledger.cli.asking import Wanted
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.asking import request_of
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.streaming import Flow
from ledger.executor.intake import Dispatched
from ledger.executor.listening import Listener
from ledger.executor.requests import Request

__all__ = ["run_task"]

RESUMABLE: Final = "the task is in the ledger as it stands, and nothing of it is lost"
SAME_KEY: Final = "the same command goes on with this task, since it has a key"


def run_task(common: Common, wanted: Wanted, *, stream: bool) -> int:
    """Dispatch one task, print its answer and return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        return _run(common, request_of(wanted), Flow(as_json=common.as_json) if stream else None)

    return perform(work, interrupted=RESUMABLE if wanted.key is None else SAME_KEY)


async def _run(common: Common, request: Request, flow: Flow | None) -> int:
    async with opened(common, create=True) as executor:
        if flow is None:
            done = await executor.dispatch(request, Listener())
        else:
            try:
                done = await executor.dispatch(request, Listener(flow.hear, flow.restart))
            finally:
                flow.end_line()
        if not common.as_json:
            _tell(done, executor.ledger.shown, flow)
        elif flow is None:
            output.document(task_record(done))
        else:
            output.document({"type": "result", **task_record(done)}, on_one_line=True)
    return DONE if done.result.success else FOUND


def _tell(done: Dispatched, url: str, flow: Flow | None) -> None:
    result, money = done.result, done.story.money()
    if flow is not None:
        flow.end(result)
    elif result.success:
        output.answer(result.response)
    if not result.success:
        output.complain(f"the task {done.story.state_name}: {result.error_type or 'no error'}: {result.error}")
    served = "" if result.served_model in (None, result.model) else f", served by {result.served_model}"
    attempts = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
    parts = [
        f"{result.tier} {result.model}{served}",
        attempts,
        f"{_count(result.tokens_input)} tokens in, {_count(result.tokens_output)} out",
        f"{result.latency_ms:,} ms",
        output.money(money.known_nano_usd, money.unknown_attempts),
        *(["recorded before, nobody was called"] if result.attempts == done.attempts_before > 0 else []),
        f"task {done.story.task_id}",
        url,
    ]
    output.note(" · ".join(parts))


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"
