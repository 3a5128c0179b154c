"""The work of ``submit``, ``worker``, ``resume`` and ``cancel``."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from ledger.batch.tally import Tally
from ledger.cli import output
from ledger.cli.asking import Wanted
from ledger.cli.exits import DONE, FOUND, INTERRUPTED
from ledger.cli.options import Common
from ledger.cli.work.advice import outcome
from ledger.cli.work.asking import by_option, request_of
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.words import plural
from ledger.errors import LedgerBusy
from ledger.executor.intake import Dispatched
from ledger.executor.requests import Request

__all__ = ["cancel_task", "resume_tasks", "submit_task", "work_on"]

LEFT: Final = "what was under way is recorded as interrupted; `dispatch-ledger resume` or a worker goes on with it"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def submit_task(common: Common, wanted: Wanted) -> int:
    """Queue a task and print its id."""

    def work() -> Coroutine[Any, Any, int]:
        return _submit(common, request_of(wanted))

    return perform(work)


async def _submit(common: Common, asked: Request) -> int:
    async with opened(common, create=True, tiers=(asked.tier,)) as executor:
        with by_option():
            task_id = await executor.submit(
                asked.tier,
                asked.prompt,
                asked.max_tokens,
                asked.retry_count,
                idempotency_key=asked.key,
                labels=asked.labels,
                timeout_s=asked.timeout_s,
                system=asked.system,
            )
    if common.as_json:
        output.document({"task_id": task_id})
    else:
        output.write(f"{task_id}\n")
        output.note("it is in the ledger; `dispatch-ledger worker` takes what is queued")
    return DONE


def work_on(common: Common, *, drain: bool, concurrency: int | None, grace_s: float) -> int:
    """Work until stopped, or until none is left; return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        return _work(common, drain=drain, concurrency=concurrency, grace_s=grace_s)

    return perform(work, interrupted=LEFT)


async def _work(common: Common, *, drain: bool, concurrency: int | None, grace_s: float) -> int:
    tally = Tally()
    async with opened(common, create=True) as executor:
        stop = asyncio.Event()

        def told(done: Dispatched) -> None:
            tally.count(done, executor.worker)
            if not common.as_json:
                _line(done)

        try:
            with _watching(stop, grace_s):
                if not drain:
                    output.note(f"working on {executor.ledger.shown} until stopped (Ctrl-C)")
                await executor.work(drain=drain, concurrency=concurrency, stop=stop, on_finished=told, on_away=_away)
        finally:
            _sums(tally, as_json=common.as_json)
    return DONE if tally.all_well or stop.is_set() else FOUND


@contextmanager
def _watching(stop: asyncio.Event, grace_s: float) -> Iterator[None]:
    """Let a first signal stop politely, the end of the grace interrupt, and a second signal end the process."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is None:
        raise RuntimeError("signals are watched from within a task")

    grace: asyncio.TimerHandle | None = None

    def stopped() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # what was in flight is found and recorded as orphaned by whoever comes next
        nonlocal grace
        stop.set()
        output.note(f"stopping: what is under way has {grace_s:g} s; a second signal ends it at once")
        grace = loop.call_later(grace_s, task.cancel)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            with suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, stopped)
    try:
        yield
    finally:
        if grace is not None:
            grace.cancel()
        for number in SIGNALS:
            with suppress(RuntimeError, ValueError):
                loop.remove_signal_handler(number)


def resume_tasks(common: Common, part: str | None, concurrency: int | None) -> int:
    """Finish what dead workers left, or one task; return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        return _resume(common, part, concurrency)

    return perform(work, interrupted=LEFT)


async def _resume(common: Common, part: str | None, concurrency: int | None) -> int:
    tally, orphaned = Tally(), 0
    async with opened(common, create=False, calls=True) as executor:

        def told(done: Dispatched) -> None:
            nonlocal orphaned
            tally.count(done, executor.worker)
            orphaned += sum(
                recorded.type == "attempt.orphaned" and recorded.actor == executor.worker for recorded in done.stream
            )
            if not common.as_json:
                _line(done)

        if part is None:
            await executor.work(drain=True, ownerless=False, concurrency=concurrency, on_finished=told)
        else:
            told(await executor.finish(await one_task(await executor.ledger.store(), part)))
    if common.as_json:
        resumed = {"resumed": tally.lines.total(), "orphaned": orphaned, **tally.summary()}
        output.document(resumed)
    else:
        _sums(tally, as_json=False)
        output.write(f"{plural(orphaned, 'attempt')} of dead workers recorded as orphaned\n")
    return DONE if tally.all_well else FOUND


def cancel_task(common: Common, part: str) -> int:
    """Call a task off; return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        return _cancel(common, part)

    return perform(work)


async def _cancel(common: Common, part: str) -> int:
    async with opened(common, create=False) as executor:
        task_id = await one_task(await executor.ledger.store(), part)
        state = await executor.cancel(task_id)
    if common.as_json:
        output.document({"task_id": task_id, "state": state})
    elif state == "cancelled":
        output.write(f"{task_id} is cancelled\n")
    else:
        output.complain(f"task {task_id} had ended before: it {state}; nothing was written")
    return DONE if state == "cancelled" else FOUND


def _away(error: LedgerBusy) -> None:
    output.note(f"{error}; trying on until it answers")


def _line(done: Dispatched) -> None:
    """Say in a line what became of a task."""
    result = done.result
    how = outcome(done.story.state_name, result)
    output.note(f"{done.story.task_id} {result.tier} {plural(result.attempts or 0, 'attempt')}, {how}")


def _sums(tally: Tally, *, as_json: bool) -> None:
    if as_json:
        output.document(tally.summary())
        return
    words = ("succeeded", "failed", "held", *(["reused"] if tally.lines["reused"] else []))
    counts = ", ".join(f"{tally.lines[count]:,} {count}" for count in words)
    cost = output.money(tally.cost_known_nano_usd, tally.cost_unknown_attempts)
    output.write(f"{plural(tally.lines.total(), 'task')}: {counts}; {plural(tally.attempts, 'attempt')}, {cost}\n")
