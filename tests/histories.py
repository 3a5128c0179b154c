"""Builders of requests, events and whole histories: everything has a default, a test names only what matters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.evolve import fold
from ledger.obstacles import BRAKED, BUDGET
from ledger.parts import BrakeSeen, ByCaller, Decision, Inputs, Outcome
from ledger.policy import PPM, ErrorType, Limits, Policy, Step, Tier
from ledger.state import INITIAL, Absent, Running, State, Task, Waiting

__all__ = [
    "DIGEST",
    "START_MS",
    "WORKER",
    "History",
    "brake",
    "failed",
    "orphaned",
    "policy",
    "question",
    "request",
    "seen",
    "seen_in",
    "settled",
    "started",
    "step",
    "succeeded",
    "told",
    "validation",
    "verdict",
]

START_MS: Final = 1_790_000_000_000
WORKER: Final = "worker:01990000-0000-7000-8000-000000000001"
DIGEST: Final = "d" * 64

UNKNOWN: Final[dict[str, Any]] = dict.fromkeys(Outcome.model_fields) | {
    "usage": (),
    "usage_source": "unknown",
    "provider_requests": 1,
    "latency_ms": 7,
}


def step(tier: Tier = "flash", tries: int = 3, **changes: Any) -> Step:
    """Make a step of the simulated provider, whose models are named as the tiers."""
    return Step(
        **{"tier": tier, "provider": "simulated", "model": tier, "tries": tries, "timeout_ms": 30_000, **changes}
    )


def policy(**changes: Any) -> Policy:
    """Make the built-in policy: 1 s doubled up to 60 s, 20 % jitter, five orphans in a row."""
    fields: dict[str, Any] = {
        "backoff_initial_ms": 1000,
        "backoff_multiplier_ppm": 2 * PPM,
        "backoff_max_ms": 60_000,
        "jitter_ppm": 200_000,
        "retry_after_max_ms": 300_000,
        "on_unknown": "retry",
        "max_orphans": 5,
        "on_truncated": "accept",
    }
    return Policy(**{**fields, **changes})


def request(*, attempts: int = 20, **changes: Any) -> e.TaskRequest:
    """Make a generation: three tries on flash, one on haiku, nobody judges; ``attempts`` is its limit."""
    fields: dict[str, Any] = dict.fromkeys(e.TaskRequest.model_fields) | {
        "kind": "generation",
        "route": (step("flash", 3), step("haiku", 1)),
        "judge": (),
        "ladder": (),
        "why": ByCaller(kind="caller"),
        "policy": policy(),
        "limits": Limits(attempts=attempts, cost_nano_usd=None),
        "max_tokens": 4096,
        "labels": {},
        "prompt_digest": DIGEST,
    }
    fields |= changes
    first = fields["route"] or fields["judge"]
    return e.TaskRequest(**{**fields, "tier": fields["tier"] or first[0].tier})


def validation(**changes: Any) -> e.TaskRequest:
    """Make a validation of a free text: three tries of sonnet's."""
    fields = {"kind": "validation", "route": (), "judge": (step("sonnet", 3),), "output_digest": DIGEST}
    return request(**{**fields, **changes})


def seen(at_ms: int = START_MS, jitter_ppm: int = 0) -> c.Seen:
    """Look at a clock and draw."""
    return c.Seen(at_ms=at_ms, jitter_ppm=jitter_ppm)


def brake(at: Step | None = None, until_ms: int = START_MS + 5000, position: int = 7) -> BrakeSeen:
    """See the breaker of a step's provider and model open, by default that of a generation's first step."""
    at = at or step()
    return BrakeSeen(provider=at.provider, model=at.model, until_ms=until_ms, position=position)


def started(attempt: int = 1, at: Step | None = None, **changes: Any) -> e.AttemptStarted:
    """Make the start of an attempt, by default the first of a generation's route."""
    at = at or step()
    fields: dict[str, Any] = {
        "attempt": attempt,
        "purpose": "generate",
        "step": 1,
        "tier": at.tier,
        "provider": at.provider,
        "request_model": at.model,
        "deadline_ms": START_MS + at.timeout_ms,
        "fence": 1,
        "worker": WORKER,
        "request_digest": DIGEST,
        "prompt_prefix": None,
        "upper_bound_nano_usd": None,
        "price_book": None,
    }
    return e.AttemptStarted(**{**fields, **changes})


def succeeded(attempt: int = 1, **changes: Any) -> e.AttemptSucceeded:
    """Make an answer whose cost is not known."""
    return e.AttemptSucceeded(**{**UNKNOWN, "attempt": attempt, "response_digest": DIGEST, **changes})


def failed(attempt: int = 1, error_type: ErrorType = "overloaded", **changes: Any) -> e.AttemptFailed:
    """Make a failure that the provider did not call final."""
    own = {"error_type": error_type, "retryable": True, "status_code": None, "retry_after_ms": None}
    return e.AttemptFailed(**{**UNKNOWN, **own, "message_digest": None, "attempt": attempt, **changes})


def orphaned(attempt: int = 1, **changes: Any) -> e.AttemptOrphaned:
    """Make the end of an attempt whose worker is gone."""
    return e.AttemptOrphaned(**{"attempt": attempt, "cause": "lease_expired", "exposure_nano_usd": None, **changes})


def settled(attempt: int = 1, **changes: Any) -> e.AttemptSettled:
    """Make a late answer."""
    own = {"via": "late", "outcome": "succeeded", "error_type": None, "status_code": None, "message_digest": None}
    return e.AttemptSettled(**{**UNKNOWN, **own, "response_digest": DIGEST, "attempt": attempt, **changes})


def verdict(
    *, passed: bool, escalate: bool = False, judged: int | None = None, judge: int | None = None, **changes: Any
) -> e.ValidationPassed | e.ValidationFailed:
    """Make a verdict of the ``judge``-th attempt on the ``judged``-th."""
    fields: dict[str, Any] = {
        "judged_task_id": None,
        "judged_attempt": judged,
        "judge_attempt": judge,
        "issues": 0,
        "issues_digest": None,
        "confidence_thousandths": 900,
        "escalate": escalate,
    }
    return (e.ValidationPassed if passed else e.ValidationFailed)(**{**fields, **changes})


class History:
    """A task's events, grown by one command after another; its clock moves on when a wait has to be waited for."""

    def __init__(self, asked: e.TaskRequest | None = None) -> None:
        self.now_ms = START_MS
        self.events: list[e.Event] = []
        self._state = INITIAL
        self.do(c.Submit(asked or request(), self.seen()))

    @classmethod
    def of(cls, events: Iterable[e.Event]) -> History:
        """Take any events for a history."""
        history = cls()
        history.events, history._state = [], INITIAL
        return history.add(*events)

    @property
    def state(self) -> State:
        """The fold of all events so far."""
        return self._state

    def add(self, *events: e.Event) -> History:
        """Append what nobody decided."""
        self.events += events
        self._state = fold(events, self._state)
        return self

    @property
    def task(self) -> Task:
        """What every state knows."""
        state = self.state
        assert not isinstance(state, Absent)
        return state.task

    def seen(self, jitter_ppm: int = 0) -> c.Seen:
        """Look at this history's clock."""
        return seen(self.now_ms, jitter_ppm)

    def do(self, command: c.Command) -> tuple[e.Event, ...]:
        """Append what a command leads to, and return it."""
        events = decide(self.state, command)
        self.add(*events)
        return events

    def start(self, worker: str = WORKER) -> History:
        """Start the attempt that the state calls for, as soon as it is due."""
        state, task = self.state, self.task
        if isinstance(state, Waiting):
            self.now_ms = max(self.now_ms, state.not_before_ms)
        fence = max(1, task.fence + (worker != task.worker))
        self.do(
            c.Start(
                started(task.attempts + 1, task.at, purpose=task.purpose, step=task.step, fence=fence, worker=worker),
                self.now_ms,
            )
        )
        return self

    def fail(self, error_type: ErrorType = "overloaded", *, jitter_ppm: int = 0, **changes: Any) -> History:
        """End the running attempt as failed."""
        outcome = failed(self.task.attempts, error_type, **changes)
        self.do(c.Record(outcome, self.task.fence, self.seen(jitter_ppm)))
        return self

    def succeed(self, **changes: Any) -> History:
        """End the running generating attempt with an answer."""
        self.do(c.Record(succeeded(self.task.attempts, **changes), self.task.fence, self.seen()))
        return self

    def judge(self, *, passed: bool, escalate: bool = False) -> History:
        """End the running judge's attempt with a verdict."""
        task = self.task
        said = verdict(
            passed=passed,
            escalate=escalate,
            judged=task.judged_attempt,
            judge=task.attempts,
            judged_task_id=task.submitted.judged_task_id,
        )
        self.do(c.Record(succeeded(task.attempts), task.fence, self.seen(), said))
        return self

    def orphan(self) -> History:
        """Find the running attempt's worker dead."""
        state = self.state
        assert isinstance(state, Running)
        self.do(c.Orphan(orphaned(state.started.attempt), self.seen()))
        return self

    def brake(self, *brakes: BrakeSeen, for_ms: int = 5000) -> History:
        """See breakers open, by default that of the task's step, as soon as the task is due."""
        state = self.state
        if isinstance(state, Waiting):
            self.now_ms = max(self.now_ms, state.not_before_ms)
        brakes = brakes or (brake(self.task.at, self.now_ms + for_ms),)
        self.do(c.Brake(c.Seen(self.now_ms, brakes=brakes)))
        return self

    def settle(self, attempt: int, **changes: Any) -> History:
        """Learn how an orphaned attempt had ended."""
        self.do(c.Settle(settled(attempt, **changes), self.seen()))
        return self


def seen_in(inputs: Inputs) -> c.Seen:
    """Return what a recorded decision had seen."""
    return c.Seen(inputs.decided_at_ms, inputs.jitter_ppm, inputs.decider, inputs.brakes, inputs.budgets)


def question(event: e.Event) -> c.Command | None:
    """Return the command that a decision answers, made from the recorded event alone; None for a fact."""
    match event:
        case e.FallbackSelected() | e.RetryScheduled() if event.rule == BRAKED:
            return c.Brake(seen_in(event.inputs))
        case e.BudgetRefused():
            return c.Budget(seen_in(event.inputs))
        case e.RetryScheduled() if event.rule == BUDGET:
            return c.Budget(seen_in(event.inputs))
        case e.TaskSubmitted():
            asked = e.TaskRequest(**{name: getattr(event, name) for name in e.TaskRequest.model_fields})
            return c.Submit(asked, seen_in(event.inputs))
        case e.TaskReleased():
            return c.Release(seen_in(event.inputs))
        case e.TaskCancelled():
            return c.Cancel(seen_in(event.inputs))
        case Decision():
            return c.Choose(seen_in(event.inputs))
        case _:
            return None


def told(events: tuple[e.Event, ...] | list[e.Event]) -> list[str]:
    """Tell events in a line each: what a table of expectations can hold."""
    return [_line(event) for event in events]


def _line(event: e.Event) -> str:
    match event:
        case e.TaskSubmitted():
            return f"route: {event.reason}"
        case e.AttemptStarted():
            return f"{event.attempt} started: {event.purpose} on {event.tier}"
        case e.AttemptFailed():
            return f"{event.attempt} failed: {event.error_type}"
        case e.AttemptSettled():
            return f"{event.attempt} settled {event.via}: {event.outcome}"
        case e.AttemptSucceeded() | e.AttemptOrphaned():
            return f"{event.attempt} {event.TYPE.removeprefix('attempt.')}"
        case e.RetryScheduled():
            return f"retry {event.next_attempt} on {event.tier} in {event.wait_ms}: {event.reason}, {event.rule}"
        case e.FallbackSelected() | e.EscalationSelected():
            return f"{event.decision} {event.from_tier} to {event.to_tier}: {event.reason}, {event.rule}"
        case e.ValidationErrored():
            return f"validation.errored: {event.error_type}"
        case e.TaskSucceeded():
            return f"succeed with {event.attempt}, accepted {event.accepted}: {event.reason}, {event.rule}"
        case e.TaskFailed():
            return f"{event.decision} after {event.attempt}, {event.error_type}: {event.reason}, {event.rule}"
        case Decision():
            return f"{event.decision}: {event.reason}, {event.rule}"
        case _:
            return event.TYPE
