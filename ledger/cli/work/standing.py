"""Where a task stood after some of its events: the state that they fold to, in words and as JSON has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from ledger import events as e
from ledger.cli.work.words import clock, plural
from ledger.envelope import Stream, issues_slot
from ledger.errors import RequestRefused
from ledger.parts import Outcome
from ledger.state import Absent, Ended, Held, Ready, Running, State, Task, Undecided, Waiting

__all__ = ["state_lines", "state_record", "texts_until", "until"]


def state_lines(state: State) -> list[str]:
    """Say what the executor knew and what it would do next."""
    if isinstance(state, Absent):
        return ["nothing: there was no task"]
    return [_next(state), *_known(state.task)]


def _next(state: Ready | Running | Undecided | Waiting | Held | Ended) -> str:
    task = state.task
    match state:
        case Ready() | Waiting() if not task.steps:
            return "ready: a person's verdict follows"
        case Ready():
            return f"ready: attempt {task.attempts + 1} may start at once, {_to(task)}"
        case Waiting():
            return f"waiting until {clock(state.not_before_ms)}: then attempt {task.attempts + 1}, {_to(task)}"
        case Running():
            return f"running: attempt {state.started.attempt}, until {clock(state.started.deadline_ms)} at most"
        case Undecided():
            return f"undecided: {state.outcome.event} is recorded, what follows from it is the next event"
        case Held():
            return "held: a person has to say how it goes on"
        case Ended():
            return f"ended: {state.end.TYPE}"
        case _:
            assert_never(state)


def _to(task: Task) -> str:
    return f"to {task.purpose} on {task.at.tier} ({task.at.provider} {task.at.model})"


def _known(task: Task) -> list[str]:
    if not task.steps:
        return []
    known = [
        f"step {task.step} to {task.purpose}: tries spent {task.tries} of {task.at.tries}",
        f"{plural(task.attempts, 'attempt')} of {task.submitted.limits.attempts:,}",
        f"{plural(task.orphans, 'orphan')} in a row",
    ]
    if task.errors:
        known.append(f"errors here: {', '.join(task.errors)}")
    if task.answer is not None:
        known.append(f"the newest answer is attempt {task.answer.attempt}'s")
    if task.loose:
        known.append(f"unknown still: attempt {', '.join(str(loose.attempt) for loose in task.loose)}")
    owner = f"owner {task.owner}, fence {task.fence}" if task.owner else f"nobody's, fence {task.fence}"
    return ["; ".join(known), owner]


def state_record(state: State) -> dict[str, Any]:
    """Return the state as JSON has it."""
    name = type(state).__name__.lower()
    if isinstance(state, Absent):
        return {"name": name}
    task = state.task
    return {
        "name": name,
        "purpose": task.purpose,
        "step": task.step,
        "tier": task.at.tier if task.steps else None,
        "attempts": task.attempts,
        "tries": task.tries,
        "errors": list(task.errors),
        "orphans": task.orphans,
        "fence": task.fence,
        "owner": task.owner,
        "answer": None if task.answer is None else task.answer.attempt,
        "not_before_ms": state.not_before_ms if isinstance(state, Waiting) else None,
    }


def until(task_id: str, stream: Stream, version: int) -> Stream:
    """Return the events up to a version.

    Raises:
        RequestRefused: the task has no such version.
    """
    if not 1 <= version <= len(stream):
        has = f"its versions are 1 to {len(stream):,}"
        raise RequestRefused(f"task {task_id} has no version {version}, {has}", field="at")
    return stream[:version]


def texts_until(stream: Stream, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that there were after these events."""
    slots = {slot for slot in texts if "/" not in slot}
    for recorded in stream:
        event = recorded.event()
        if isinstance(event, Outcome):
            slots |= {f"response/{event.attempt}", f"message/{event.attempt}"}
        elif isinstance(event, e.ValidationPassed | e.ValidationFailed):
            slots.add(issues_slot(event.judge_attempt))
    return {slot: text for slot, text in texts.items() if slot in slots}
