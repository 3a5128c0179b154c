"""Folding a task's recorded outcomes through another policy: what it would have come to, with no call made. Pure.

The n-th call of a provider's model takes the n-th recorded outcome of that call; a judge's also has to be about the
same answer. Nothing is guessed: a history that needs an outcome that was never recorded cannot be answered for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.evolve import fold
from ledger.parts import Outcome, TaskRequest
from ledger.policy import Policy
from ledger.questions import seen_in
from ledger.replay.record import SUBMITTED, Call, Ending, Figures, Point, Record, call_of
from ledger.state import INITIAL, Absent, Ended, Held, Ready, Running, State, Task, Undecided, Waiting

__all__ = ["Backtested", "CannotAnswer", "Reason", "backtested"]

WORKER: Final = "worker:backtest"
Reason = Literal["no_outcome", "timeout", "truncated", "max_tokens", "budget", "unreadable"]
"""Why a task cannot be answered for: the record has no such outcome; it ended by a timeout that is now longer, or took
longer than is now allowed; its cut answer is a judge's; another limit of tokens; a cap stood in another history's way;
its events cannot be read."""


class CannotAnswer(Exception):
    """The record does not say what would have become of this task.

    Attributes:
        reason: what is missing.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Backtested:
    """What a task would have come to."""

    end: e.TaskSucceeded | e.TaskFailed | e.TaskCancelled | None
    """None: it would wait for a person."""
    figures: Figures
    events: tuple[e.Event, ...]


def backtested(record: Record, request: TaskRequest) -> Backtested:
    """Return what the record comes to under a request's route and policy.

    Raises:
        CannotAnswer: it does not say.
    """
    run = _Run(record, request.policy)
    run.do(c.Submit(request, run.seen(seen_in(record.submitted.inputs))))
    run.pass_by(SUBMITTED)
    while not isinstance(run.state, Ended):
        match run.state:
            case Ready() | Waiting():
                run.attempt(run.state)
            case Held():
                if not run.late():
                    break
            case Absent() | Running() | Undecided():
                raise CannotAnswer("no_outcome")
            case _:
                assert_never(run.state)
    end = run.state.end if isinstance(run.state, Ended) else None
    return Backtested(end, run.figures, tuple(run.events))


@dataclass(slots=True)
class _Run:
    """A history under way."""

    record: Record
    policy: Policy
    state: State = INITIAL
    events: list[e.Event] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    taken: Counter[Call] = field(default_factory=Counter)
    numbers: dict[int, int] = field(default_factory=dict)
    """From a recorded attempt to this history's."""
    settled: list[c.Settle] = field(default_factory=list)

    def do(self, command: c.Command) -> bool:
        """Append what a command leads to; say whether there was anything."""
        events = decide(self.state, command)
        self.events += events
        self.state = fold(events, self.state)
        self.figures.waits_ms += sum(event.wait_ms for event in events if isinstance(event, e.RetryScheduled))
        return bool(events)

    def seen(self, seen: c.Seen) -> c.Seen:
        """Return what was seen, with the draw in proportion to this policy's jitter."""
        drawn_from, jitter = self.record.submitted.policy.jitter_ppm, self.policy.jitter_ppm
        if drawn_from == jitter:
            return seen
        draw = abs(seen.jitter_ppm) * jitter // drawn_from if drawn_from else 0
        return replace(seen, jitter_ppm=draw if seen.jitter_ppm > 0 else -draw)

    def attempt(self, state: Ready | Waiting) -> None:
        """Make the next attempt: it ends as the record says."""
        task = state.task
        ending = self._ending(task)
        recorded, number = ending.started.attempt, task.attempts + 1
        self.numbers[recorded] = number
        cost, exposure, latency_ms = self.record.money[recorded]
        at_ms = state.not_before_ms if isinstance(state, Waiting) else 0
        self.do(c.Start(_started(ending.started, task), at_ms))
        self.figures.spend(cost, exposure, latency_ms)
        self.pass_by(Point(recorded, ended=False))
        if isinstance(self.state, Ended):
            return
        if ending.fact is None:
            raise CannotAnswer("no_outcome")
        self._end(ending, ending.fact, number)
        self.pass_by(Point(recorded, ended=True))

    def _ending(self, task: Task) -> Ending:
        judged = task.judged_attempt
        if task.submitted.kind == "generation" and judged is not None:
            judged = next((before for before, now in self.numbers.items() if now == judged), None)
        call = call_of(task, judged)
        endings, place = self.record.endings.get(call, []), self.taken[call]
        if place >= len(endings):
            raise CannotAnswer("no_outcome")
        self.taken[call] += 1
        ending = endings[place]
        _refuse_timed(ending, task.at.timeout_ms)
        return ending

    def _end(self, ending: Ending, fact: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned, number: int) -> None:
        seen, fence = self.seen(ending.seen), 0 if isinstance(self.state, Absent) else self.state.task.fence
        if isinstance(fact, e.AttemptOrphaned):
            self.do(c.Orphan(fact.model_copy(update={"attempt": number}), seen))
            return
        outcome = _truncated(fact, ending, self.record.submitted.policy, self.policy)
        verdict = ending.verdict if isinstance(outcome, e.AttemptSucceeded) else None
        if verdict is not None:
            judged = verdict.judged_attempt
            if self.record.submitted.kind == "generation" and judged is not None:
                judged = self.numbers.get(judged, judged)
            verdict = verdict.model_copy(update={"judge_attempt": number, "judged_attempt": judged})
        self.do(c.Record(outcome.model_copy(update={"attempt": number}), fence, seen, verdict))

    def pass_by(self, point: Point) -> None:
        """Let happen what others did at this point of the record."""
        for command in self.record.between.get(point, ()):
            if isinstance(command, c.Settle):
                self._settle(command)
            elif not isinstance(self.state, Ended):
                self._met(command)

    def _met(self, command: c.Command) -> None:
        # What a cap had seen holds for the history that it was seen in, and for no other.
        if isinstance(command, c.Budget) and any(before != now for before, now in self.numbers.items()):
            raise CannotAnswer("budget")
        if isinstance(command, c.Budget | c.Brake | c.Release | c.Cancel):
            self.do(replace(command, seen=self.seen(command.seen)))

    def _settle(self, command: c.Settle) -> None:
        attempt = command.settled.attempt
        number = self.numbers.get(attempt)
        if number is None or command in self.settled:
            return
        self.settled.append(command)
        settled = command.settled.model_copy(update={"attempt": number})
        self.do(c.Settle(settled, self.seen(command.seen)))

    def late(self) -> bool:
        """Let late answers come while a person is waited for; say whether one ended the wait."""
        for commands in self.record.between.values():
            for command in commands:
                if isinstance(command, c.Settle) and isinstance(self.state, Held):
                    self._settle(command)
        return not isinstance(self.state, Held)


def _started(recorded: e.AttemptStarted, task: Task) -> e.AttemptStarted:
    """Return the start that the task calls for."""
    step = task.at
    return recorded.model_copy(
        update={
            "attempt": task.attempts + 1,
            "purpose": task.purpose,
            "step": task.step,
            "tier": step.tier,
            "provider": step.provider,
            "request_model": step.model,
            "fence": max(1, task.fence),
            "worker": WORKER,
        }
    )


def _refuse_timed(ending: Ending, timeout_ms: int) -> None:
    """Refuse an outcome that another timeout would have changed.

    Raises:
        CannotAnswer: it would have had longer, or not so long.
    """
    fact = ending.fact
    if isinstance(fact, e.AttemptFailed) and fact.error_type == "timeout" and timeout_ms > ending.timeout_ms:
        raise CannotAnswer("timeout")
    took_ms = fact.latency_ms if isinstance(fact, Outcome) else None
    if timeout_ms < ending.timeout_ms and took_ms is not None and took_ms > timeout_ms:
        raise CannotAnswer("timeout")


def _truncated(
    fact: e.AttemptSucceeded | e.AttemptFailed, ending: Ending, before: Policy, now: Policy
) -> e.AttemptSucceeded | e.AttemptFailed:
    """Read an answer that stopped at its output limit as this policy does.

    Raises:
        CannotAnswer: it was a judge's, so whether it was a verdict is not known.
    """
    if before.on_truncated == now.on_truncated:
        return fact
    known = {name: getattr(fact, name) for name in Outcome.model_fields}
    cut = {"error_type": "truncated", "retryable": now.on_truncated == "retry"}
    if isinstance(fact, e.AttemptSucceeded):
        if fact.finish_reason != "max_tokens" or now.on_truncated == "accept":
            return fact
        nothing = {"status_code": None, "retry_after_ms": None, "message_digest": None}
        return e.AttemptFailed.model_validate(known | cut | nothing)
    if fact.error_type != "truncated" or (now.on_truncated == "accept" and fact.response_digest is None):
        return fact
    if now.on_truncated != "accept":
        return fact.model_copy(update=cut)
    if ending.started.purpose == "validate":
        raise CannotAnswer("truncated")
    return e.AttemptSucceeded.model_validate(known)
