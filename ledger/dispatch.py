"""``decide``: the rules. Pure and idempotent; the folded state and the command are all it reads.

The rules have a version, kept in every decision's ``inputs``. A change of what is decided is a new version beside the
old one, which stays, with golden histories, so that old decisions can be asked again.
"""

from __future__ import annotations

from typing import Final, assert_never

from ledger import commands as c
from ledger import events as e
from ledger.choices import choose
from ledger.decisions import made
from ledger.errors import CommandRefused
from ledger.evolve import fold
from ledger.obstacles import answer_brake, answer_budget
from ledger.parts import Outcome
from ledger.state import Absent, Ended, Held, Ready, Running, State, Task, Undecided, Waiting

__all__ = ["DECIDER", "DECIDERS", "decide"]

DECIDER: Final = 1
"""The version of the rules that new decisions are made by.

Still the first: a cap is answered by a command of its own, so no other command answers differently than it did.
"""
DECIDERS: Final = frozenset({1})
"""Every version that this program can ask again."""
REQUEST: Final = tuple(e.TaskRequest.model_fields)


def decide(state: State, command: c.Command) -> tuple[e.Event, ...]:
    """Return the events that a command leads to; () when it has been obeyed already.

    Raises:
        CommandRefused: the state does not allow the command, or no such rules are known.
    """
    if not isinstance(command, c.Start) and command.seen.decider not in DECIDERS:
        raise CommandRefused("bad_inputs", f"rules of version {command.seen.decider} are unknown to this program")
    if not isinstance(state, Absent) and not state.task.steps and not _judged_by_a_person(state):
        raise CommandRefused("off_route", "this task has no steps; nothing can be decided about it")
    match command:
        case c.Submit():
            return _submit(state, command)
        case c.Start():
            return _start(state, command)
        case c.Record():
            return _record(state, command)
        case c.Orphan():
            return _orphan(state, command)
        case c.Settle():
            return _settle(state, command)
        case c.Choose():
            return _then(state, (), command.seen)
        case c.Brake():
            return answer_brake(_about_to(state, command), command.seen)
        case c.Budget():
            return answer_budget(_about_to(state, command), command.seen)
        case c.Release():
            return _release(state, command)
        case c.Cancel():
            return _cancel(state, command)
        case _:
            assert_never(command)


def _judged_by_a_person(state: Ready | Running | Undecided | Waiting | Held | Ended) -> bool:
    """Say whether all that such a task needs is there: the verdict itself, or its end."""
    return isinstance(state, Ended) or (isinstance(state, Undecided) and state.passed is not None)


def _submit(state: State, command: c.Submit) -> tuple[e.Event, ...]:
    request, verdict = command.request, command.verdict
    steps = request.judge if request.kind == "validation" else request.route
    by_a_person = request.kind == "validation" and not steps and request.judged_attempt is not None
    if not by_a_person and (not steps or steps[0].tier != request.tier):
        raise CommandRefused("off_route", f"a task for {request.tier} needs a route that begins there")
    if "subject" in request.labels:
        raise CommandRefused("bad_inputs", "the label subject is kept as a payload, so that it can be erased")
    if not isinstance(state, Absent):
        submitted = state.task.submitted
        if request == e.TaskRequest(**{name: getattr(submitted, name) for name in e.TaskRequest.model_fields}):
            return ()
        raise CommandRefused("exists", "this stream already holds another task")
    decision = made("route", request.why.kind, "submitted", request.policy, None, command.seen)
    fields = vars(request)
    submitted = e.TaskSubmitted(**{name: fields[name] for name in REQUEST}, **decision)
    if verdict is None:
        return (submitted,)
    if not by_a_person or (verdict.judge_attempt, verdict.judged_task_id, verdict.judged_attempt) != (
        None,
        request.judged_task_id,
        request.judged_attempt,
    ):
        raise CommandRefused("bad_inputs", "a person's verdict is about the attempt that its task names")
    return (submitted, *_then(fold((submitted,)), (verdict,), command.seen))


def _start(state: State, command: c.Start) -> tuple[e.Event, ...]:
    started = command.started
    task = _task(state)
    if isinstance(state, Running) and state.started == started:
        return ()
    if isinstance(state, Running):
        raise CommandRefused("running_elsewhere", f"attempt {state.started.attempt} is in flight")
    if isinstance(state, Ended | Held):
        raise CommandRefused("ended" if isinstance(state, Ended) else "held", "no attempt may start now")
    if isinstance(state, Waiting) and not state.due(command.at_ms):
        raise CommandRefused("not_due", f"the next attempt starts at {state.not_before_ms}, now is {command.at_ms}")
    step = task.at
    expected = (task.attempts + 1, task.purpose, task.step, step.tier, step.provider, step.model)
    actual = (
        started.attempt,
        started.purpose,
        started.step,
        started.tier,
        started.provider,
        started.request_model,
    )
    if isinstance(state, Undecided) or expected != actual or task.spent:
        raise CommandRefused("off_route", f"the state calls for attempt {expected}, the command has {actual}")
    if started.fence < task.fence + (started.worker != task.worker):
        raise CommandRefused("fence_lost", f"fence {started.fence} does not follow {task.fence}")
    return (started,)


def _record(state: State, command: c.Record) -> tuple[e.Event, ...]:
    outcome = command.outcome
    task = _task(state)
    if not isinstance(state, Running) or state.started.attempt != outcome.attempt:
        loose = task.loose_end(outcome.attempt)
        if loose is not None and loose.orphaned:
            return _settle(state, c.Settle(_late(outcome), command.seen))
        if 1 <= outcome.attempt <= task.attempts:
            return ()
        raise CommandRefused("off_route", f"attempt {outcome.attempt} was never started")
    if command.fence != task.fence:
        raise CommandRefused("fence_lost", f"fence {command.fence} is over, {task.fence} holds")
    if not _fits(task, outcome, command.verdict):
        raise CommandRefused("bad_inputs", "a verdict belongs to a judge's answer about the attempt that it judged")
    facts = (outcome,) if command.verdict is None else (outcome, command.verdict)
    return _then(state, facts, command.seen)


def _fits(
    task: Task, outcome: e.AttemptSucceeded | e.AttemptFailed, verdict: e.ValidationPassed | e.ValidationFailed | None
) -> bool:
    """Say whether this outcome comes with a verdict exactly if it has to, and with one about the right attempt."""
    judging = task.purpose == "validate" and isinstance(outcome, e.AttemptSucceeded)
    if verdict is None or not judging:
        return verdict is None and not judging
    actual = (verdict.judge_attempt, verdict.judged_task_id, verdict.judged_attempt)
    return actual == (outcome.attempt, task.submitted.judged_task_id, task.judged_attempt)


def _orphan(state: State, command: c.Orphan) -> tuple[e.Event, ...]:
    task = _task(state)
    if isinstance(state, Running) and state.started.attempt == command.orphaned.attempt:
        return _then(state, (command.orphaned,), command.seen)
    if 1 <= command.orphaned.attempt <= task.attempts:
        return ()
    raise CommandRefused("off_route", f"attempt {command.orphaned.attempt} was never started")


def _settle(state: State, command: c.Settle) -> tuple[e.Event, ...]:
    """Append the account of a loose attempt; one that has been settled, or never was loose, needs none."""
    loose = _task(state).loose_end(command.settled.attempt)
    if loose is None or (command.settled.via == "late" and not loose.orphaned):
        return ()
    return _then(state, (command.settled,), command.seen)


def _about_to(state: State, command: c.Brake | c.Budget) -> Ready | Waiting | None:
    """Return the state if the next attempt could start in it now."""
    if _task(state).spent or not isinstance(state, Ready | Waiting):
        return None
    return state if isinstance(state, Ready) or state.due(command.seen.at_ms) else None


def _release(state: State, command: c.Release) -> tuple[e.Event, ...]:
    task = _task(state)
    if not isinstance(state, Held):
        return ()
    decision = made("release", "person", "released", task.submitted.policy, None, command.seen)
    return (e.TaskReleased(tier=task.at.tier, **decision),)


def _cancel(state: State, command: c.Cancel) -> tuple[e.Event, ...]:
    """End the task; an attempt in flight is orphaned first, so that its money is not forgotten."""
    task = _task(state)
    if isinstance(state, Ended):
        return ()
    facts: tuple[e.Event, ...] = ()
    if isinstance(state, Running):
        started = state.started
        facts = (
            e.AttemptOrphaned(
                attempt=started.attempt,
                cause="cancelled",
                exposure_nano_usd=started.upper_bound_nano_usd,
            ),
        )
    decision = made("cancel", "requested", "cancelled", task.submitted.policy, None, command.seen)
    return (*facts, e.TaskCancelled(tier=_task(fold(facts, state)).at.tier, **decision))


def _then(state: State, facts: tuple[e.Event, ...], seen: c.Seen) -> tuple[e.Event, ...]:
    """Return the facts and everything they lead to."""
    after = fold(facts, state)
    if not isinstance(after, Undecided):
        return facts
    return (*facts, *choose(after, seen))


def _task(state: State) -> Task:
    if isinstance(state, Absent):
        raise CommandRefused("unknown_task", "this stream holds no task")
    return state.task


def _late(outcome: e.AttemptSucceeded | e.AttemptFailed) -> e.AttemptSettled:
    """Say the same of an attempt that was given up in the meantime."""
    fields = {name: getattr(outcome, name) for name in Outcome.model_fields}
    match outcome:
        case e.AttemptSucceeded():
            end = {"outcome": "succeeded", "error_type": None, "status_code": None, "message_digest": None}
        case e.AttemptFailed():
            end = {"outcome": "failed"} | {
                name: getattr(outcome, name) for name in ("error_type", "status_code", "message_digest")
            }
    return e.AttemptSettled.model_validate({**fields, **end, "via": "late"})
