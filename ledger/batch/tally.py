"""What a batch came to: how each line is counted, and what is written about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from ledger.batch.lines import Asked
from ledger.errors import IdempotencyConflict, PromptRefused, RequestRefused
from ledger.executor.intake import Dispatched
from ledger.state import Held

__all__ = ["Finished", "Tally", "count_of", "task_record"]

TASK_KEYS: Final = (
    "task_id",
    "state",
    "success",
    "tier",
    "model",
    "response",
    "error",
    "error_type",
    "accepted",
    "verdict",
    "tokens_input",
    "tokens_output",
    "latency_ms",
    "attempts",
    "cost_nano_usd",
    "served_model",
    "finish_reason",
    "request_id",
)

Refusal = PromptRefused | RequestRefused | IdempotencyConflict


@dataclass(frozen=True, slots=True)
class Finished:
    """A request brought to its end, or refused by its client before any event."""

    asked: Asked
    done: Dispatched | None
    refusal: Refusal | None
    worker: str
    """Whose attempts are this run's."""

    @property
    def count(self) -> str:
        """The word that its lines count under."""
        return "refused" if self.done is None else count_of(self.done)

    @property
    def new(self) -> bool:
        """Submitted by this run."""
        return self.done is not None and self.done.story.task.submitted.owner == self.worker

    @property
    def costs(self) -> list[int | None]:
        """What each attempt of this run cost, None where unknown."""
        return [] if self.done is None else costs_of(self.done, self.worker)

    def record(self, line: int) -> dict[str, Any]:
        """Return what is written about one of its lines."""
        request = self.asked.request
        named = {"line": line} if request.key is None else {"line": line, "key": request.key}
        if self.done is None:
            nothing = dict.fromkeys(TASK_KEYS)
            refused = {"state": "refused", "success": False, "tier": request.tier, "response": ""}
            why = {"error": str(self.refusal), "error_type": "invalid_request"}
            return {**named, **nothing, **refused, **why, "latency_ms": 0, "attempts": 0, "cost_nano_usd": 0}
        replay_of = self.done.story.task.submitted.replay_of
        return {**named, **task_record(self.done), **({} if replay_of is None else {"replay_of": replay_of})}


class Tally:
    """What a batch came to; each line counts once, attempts and cost are this run's."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self.submitted = 0
        self.attempts = 0
        self.cost_known_nano_usd = 0
        self.cost_unknown_attempts = 0

    def add(self, finished: Finished) -> None:
        """Count a request's lines."""
        self.lines[finished.count] += len(finished.asked.lines)
        self.submitted += finished.new
        self._spend(finished.costs)

    def count(self, done: Dispatched, worker: str) -> None:
        """Count a task that this worker drove to its end, or to where it waits for a person."""
        self.lines[count_of(done)] += 1
        self._spend(costs_of(done, worker))

    def count_again(self, done: Dispatched) -> None:
        """Count a task for one more that it answers for; what it took has been counted."""
        self.lines[count_of(done)] += 1

    def _spend(self, costs: list[int | None]) -> None:
        self.attempts += len(costs)
        self.cost_known_nano_usd += sum(cost for cost in costs if cost is not None)
        self.cost_unknown_attempts += costs.count(None)

    @property
    def all_well(self) -> bool:
        """Every line has its answer."""
        return not (self.lines["failed"] or self.lines["held"] or self.lines["refused"])

    def summary(self) -> dict[str, int | None]:
        """Return the sums; the cost is None if a part of it is unknown."""
        return {
            "lines": self.lines.total(),
            "submitted": self.submitted,
            "succeeded": self.lines["succeeded"],
            "failed": self.lines["failed"],
            "held": self.lines["held"],
            "reused": self.lines["reused"],
            "refused": self.lines["refused"],
            "attempts": self.attempts,
            "cost_nano_usd": None if self.cost_unknown_attempts else self.cost_known_nano_usd,
            "cost_known_nano_usd": self.cost_known_nano_usd,
            "cost_unknown_attempts": self.cost_unknown_attempts,
        }


def count_of(done: Dispatched) -> str:
    """Return the word that a task counts under."""
    if done.succeeded_before:
        return "reused"
    if isinstance(done.story.state, Held):
        return "held"
    return "succeeded" if done.result.success else "failed"


def costs_of(done: Dispatched, worker: str) -> list[int | None]:
    """Return what each attempt of this worker cost, None where unknown."""
    story = done.story
    mine = [story.outcomes.get(number) for number, start in story.started.items() if start.worker == worker]
    return [None if outcome is None else outcome.cost_nano_usd for outcome in mine]


def task_record(done: Dispatched) -> dict[str, Any]:
    """Return what is said of a task in JSON; tier and model are the last attempt's, attempts and cost the task's."""
    known = {
        **done.result.model_dump(include=set(TASK_KEYS)),
        "task_id": done.story.task_id,
        "state": done.story.state_name,
    }
    return {key: known[key] for key in TASK_KEYS}
