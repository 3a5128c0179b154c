"""The work of ``run``."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

from clients.base import ExecutionResult
from ledger.batch.tally import task_record
from ledger.cli import output
from ledger.cli.asking import Wanted
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.advice import next_step, outcome, stopped_short
from ledger.cli.work.asking import by_option, request_of
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.streaming import Flow
from ledger.cli.work.words import plural
from ledger.events import TaskSucceeded, ValidationErrored
from ledger.executor.intake import Dispatched
from ledger.executor.listening import Listener
from ledger.executor.requests import Request
from ledger.state import Ended

__all__ = ["run_task"]

RESUMABLE: Final = "what was begun is in the ledger; `dispatch-ledger resume` goes on with it"
ANEW: Final = "a failed task stays failed under its key: another key, or none, asks anew"
SAME_KEY: Final = "the same command goes on with this task, since it has a key"


def run_task(common: Common, wanted: Wanted, *, stream: bool, validated: bool = False) -> int:
    """Dispatch one task, print its answer and return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        request = replace(request_of(wanted), validated=validated)
        return _run(common, request, Flow(as_json=common.as_json, validated=validated) if stream else None)

    return perform(work, interrupted=RESUMABLE if wanted.key is None else SAME_KEY)


async def _run(common: Common, request: Request, flow: Flow | None) -> int:
    with by_option():
        return await _dispatched(common, request, flow)


async def _dispatched(common: Common, request: Request, flow: Flow | None) -> int:
    async with opened(common, create=True, tiers=(request.tier,)) as executor:
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
            flow.check()
    return DONE if done.result.success and done.result.accepted is not False else FOUND


def _tell(done: Dispatched, url: str, flow: Flow | None) -> None:
    result, state, task_id = done.result, done.story.state_name, done.story.task_id
    try:
        if flow is not None:
            flow.end(result)
        elif result.success:
            output.answer(result.response)
    finally:
        if not result.success:
            # Without a type of error it is no failure, and the text says how the task stands.
            output.complain(f"the task {outcome(state, result)}" if result.error_type else str(result.error))
        for line in _judged(done):
            output.complain(line)
        stays = ANEW if state == "failed" and _before(done) else ""
        for advice in (next_step(task_id, state, result.error_type), stays, stopped_short(result)):
            if advice:
                output.note(advice)
        output.note(" · ".join(_figures(done, url)))


def _judged(done: Dispatched) -> list[str]:
    """Say why an answer was not accepted; nothing where it was, or where nobody judged."""
    if done.result.accepted is not False:
        return []
    verdict, judgement = done.result.verdict, done.story.judgement
    if verdict is None:
        why = judgement.error_type if isinstance(judgement, ValidationErrored) else "no attempt was left to ask with"
        return [f"the answer was not accepted: no verdict could be had: {why}"]
    asks = f"; the judge asks for a higher tier, but {_stopped(done)}" if verdict["escalate"] else ""
    head = f"the answer was not accepted (confidence {verdict['confidence']:g}){asks}"
    return [head, *(f"- {output.visible(issue)}" for issue in verdict["issues"])]


def _stopped(done: Dispatched) -> str:
    """Say why nothing went up any more."""
    state = done.story.state
    if not isinstance(state, Ended) or not isinstance(state.end, TaskSucceeded) or state.end.rule == "ladder_ended":
        return "no tier is above"
    if state.end.rule == "attempts_spent":
        return "the task's attempts are spent"
    return f"the call there failed: {state.end.reason}"


def _figures(done: Dispatched, url: str) -> list[str]:
    """Say in a line who answered, and what it took."""
    result, money = done.result, done.story.money()
    served = "" if result.served_model in (None, result.model) else f", served by {result.served_model}"
    return [
        f"{result.tier} {result.model}{served}",
        plural(result.attempts or 0, "attempt"),
        *_tokens(result, billed=bool(money.known_nano_usd or money.unknown_attempts)),
        f"{result.latency_ms:,} ms",
        output.money(money.known_nano_usd, money.unknown_attempts),
        *(["accepted"] if result.accepted else []),
        *(["recorded before, nobody was called"] if _before(done) else []),
        f"task {done.story.task_id}",
        url,
    ]


def _before(done: Dispatched) -> bool:
    """Say whether the task had its end before, so that nobody was called."""
    return done.result.attempts == done.attempts_before > 0


def _tokens(result: ExecutionResult, *, billed: bool) -> list[str]:
    """Say how many tokens there were; nothing where no call can have taken any."""
    counts = (result.tokens_input, result.tokens_output)
    if counts == (None, None):
        return ["tokens unknown"] if billed else []
    into, out = ("unknown" if count is None else f"{count:,}" for count in counts)
    return [f"{into} tokens in, {out} out"]
