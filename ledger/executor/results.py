"""A task's result, read from its events and texts alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import orjson

from clients.base import ExecutionResult, Usage
from ledger import events as e
from ledger.envelope import Stream, issues_slot
from ledger.executor.budgets import refusal
from ledger.executor.transact import state_of
from ledger.parts import Judgement, Outcome
from ledger.state import Absent, Ended, Held, Ready, Running, State, Task, Undecided, Waiting
from ledger.store.protocol import Store

__all__ = ["Money", "Story", "result_of", "tell", "verdict_of"]


ERASED: Final = "the answer was erased"
PERSON: Final = "person"
"""What stands for a model where a person judged."""


@dataclass(frozen=True, slots=True)
class Money:
    """What attempts cost: the known part, and how many are unknown."""

    known_nano_usd: int
    unknown_attempts: int

    @property
    def cost_nano_usd(self) -> int | None:
        """The sum; None if any part is unknown."""
        return None if self.unknown_attempts else self.known_nano_usd


@dataclass(frozen=True, slots=True)
class Story:
    """A stream taken apart: its state, its attempts and how they ended."""

    task_id: str
    state: State
    task: Task
    started: dict[int, e.AttemptStarted]
    outcomes: dict[int, Outcome]
    judgements: tuple[Judgement, ...] = ()
    """Verdicts, and errors in the place of verdicts, in their order."""
    refused: e.BudgetRefused | None = None
    """The newest refusal by a cap."""

    @property
    def answering(self) -> int | None:
        """The attempt whose answer is the task's."""
        end = self.state.end if isinstance(self.state, Ended) else None
        return end.attempt if isinstance(end, e.TaskSucceeded) else None

    @property
    def accepted(self) -> bool | None:
        """What the judge said in the end; None where nobody judged."""
        end = self.state.end if isinstance(self.state, Ended) else None
        return end.accepted if isinstance(end, e.TaskSucceeded) else None

    @property
    def judgement(self) -> Judgement | None:
        """The newest judgement on the task's answer; of a validation, the newest there is."""
        judging = self.task.submitted.kind == "validation"
        mine = [each for each in self.judgements if judging or each.judged_attempt == self.answering]
        return mine[-1] if mine else None

    @property
    def state_name(self) -> str:
        """The task's state in the words of the ``tasks`` table."""
        match self.state:
            case Ended(end=e.TaskSucceeded()):
                return "succeeded"
            case Ended(end=e.TaskFailed()):
                return "failed"
            case Ended():
                return "cancelled"
            case Waiting() | Held():
                return "waiting"
            case Running() | Undecided():
                return "running"
            case Ready() | Absent():
                return "pending"

    def money(self, after_attempt: int = 0) -> Money:
        """Sum the attempts numbered above ``after_attempt``."""
        mine = [self.outcomes.get(number) for number in self.started if number > after_attempt]
        costs = [None if outcome is None else outcome.cost_nano_usd for outcome in mine]
        return Money(sum(cost for cost in costs if cost is not None), costs.count(None))


def tell(task_id: str, stream: Stream) -> Story | None:
    """Take a stream apart; None where it holds no task."""
    started: dict[int, e.AttemptStarted] = {}
    outcomes: dict[int, Outcome] = {}
    judgements: tuple[Judgement, ...] = ()
    refused = None
    for recorded in stream:
        event = recorded.event()
        if isinstance(event, e.AttemptStarted):
            started[event.attempt] = event
        elif isinstance(event, Outcome):
            outcomes[event.attempt] = event
        elif isinstance(event, Judgement):
            judgements += (event,)
        elif isinstance(event, e.BudgetRefused):
            refused = event
    state = state_of(stream)
    if isinstance(state, Absent):
        return None
    return Story(task_id, state, state.task, started, outcomes, judgements, refused)


async def result_of(store: Store, story: Story, texts: Mapping[str, bytes] = MappingProxyType({})) -> ExecutionResult:
    """Put together what ``execute`` gives; ``texts`` are payloads at hand, by slot.

    Tier and model are the last attempt's, and where an answer was judged the answering one's; figures are the answering
    (else last) one's, attempts and cost the whole task's.
    """
    last = (story.answering if story.judgements else None) or max(story.started, default=None)
    shown = story.answering or last
    outcome = story.outcomes.get(shown) if shown else None
    begun = story.started.get(last) if last else None
    success = story.state_name == "succeeded"
    text = texts.get(f"response/{shown}") if success else None
    model, tier = (begun.request_model, begun.tier) if begun else _expected(story.task)
    response = text.decode() if text is not None else await _response(store, story)
    return ExecutionResult(
        model=model,
        response=response or "",
        latency_ms=(outcome and outcome.latency_ms) or 0,
        success=success,
        error=(ERASED if response is None else None) if success else await _error(store, story),
        error_type=None if success else _error_type(story),
        task_id=story.task_id,
        tier=tier,
        attempts=len(story.started),
        cost_nano_usd=story.money().cost_nano_usd,
        accepted=story.accepted,
        verdict=await verdict_of(store, story),
        **_figures(outcome),
    )


def _expected(task: Task) -> tuple[str, str]:
    """Return model and tier of a task without an attempt; a person's verdict has no step at all."""
    return (task.at.model, task.at.tier) if task.steps else (PERSON, task.submitted.tier)


async def _response(store: Store, story: Story) -> str | None:
    return None if story.answering is None else await _text(store, story.task_id, f"response/{story.answering}")


def _figures(outcome: Outcome | None) -> dict[str, object]:
    if outcome is None:
        return {}
    usage = tuple(Usage.model_validate(vars(row)) for row in outcome.usage)
    inputs = [row.tokens_input for row in usage]
    outputs = [row.output_tokens for row in usage]
    return {
        "usage": usage,
        "tokens_input": None if not usage or None in inputs else sum(count or 0 for count in inputs),
        "tokens_output": None if not usage or None in outputs else sum(count or 0 for count in outputs),
        "usage_source": outcome.usage_source,
        "finish_reason": outcome.finish_reason,
        "request_id": outcome.request_id,
        "served_model": outcome.served_model,
        "ttft_ms": outcome.ttft_ms,
        "raw_usage": outcome.raw_usage,
        "provider_requests": outcome.provider_requests,
        "status_code": getattr(outcome, "status_code", None),
    }


def _error_type(story: Story) -> str | None:
    if isinstance(story.state, Ended):
        end = story.state.end
        return end.error_type if isinstance(end, e.TaskFailed) else "cancelled"
    last = story.outcomes.get(max(story.started, default=0))
    return getattr(last, "error_type", None)


async def _error(store: Store, story: Story) -> str:
    """Say what happened, in the words of the last attempt, and why the steps before it were left."""
    if isinstance(story.state, Held):
        return f"task {story.task_id} waits for a person: what its last attempt did is unknown"
    if story.refused is not None and _error_type(story) == "budget_refused":
        return refusal(story.refused)
    last_of_step = {(started.purpose, started.step): number for number, started in sorted(story.started.items())}
    last = max(story.started, default=0)
    message = await _text(store, story.task_id, f"message/{last}")
    if message:
        before = [
            f"; before it, {story.started[number].tier}: {earlier}"
            for number in last_of_step.values()
            if number != last and (earlier := await _text(store, story.task_id, f"message/{number}"))
        ]
        return message + "".join(before)
    if not isinstance(story.state, Ended):
        return f"task {story.task_id} has not ended: it is {story.state_name}"
    return f"the task ended without an answer: {_error_type(story) or 'other'}"


async def verdict_of(store: Store, story: Story) -> dict[str, Any] | None:
    """Return the verdict on the task's answer as users see it; None where there is none."""
    judgement = story.judgement
    if not isinstance(judgement, e.ValidationPassed | e.ValidationFailed):
        return None
    issues = (
        None
        if judgement.issues_digest is None
        else await _text(store, story.task_id, issues_slot(judgement.judge_attempt))
    )
    return {
        "pass": isinstance(judgement, e.ValidationPassed),
        "issues": orjson.loads(issues) if issues else [],
        "confidence": judgement.confidence_thousandths / 1000,
        "escalate": judgement.escalate,
    }


async def _text(store: Store, task_id: str, slot: str) -> str | None:
    payload = await store.payload(task_id, slot)
    return None if payload is None else payload.content.decode()
