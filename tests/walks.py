"""Arbitrary histories that ``decide`` allows, for properties that hold for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from hypothesis import strategies as st

from ledger import commands as c
from ledger import events as e
from ledger.envelope import FIRST_PREV_HASH, NewEvent, Recorded, seal
from ledger.errors import CommandRefused
from ledger.parts import UsageRow
from ledger.policy import ErrorType
from ledger.state import Ended, Running, Task
from tests.histories import DIGEST, START_MS, History, policy, request, settled, step, validation

__all__ = ["Walk", "histories", "recorded", "texts"]

counts = st.none() | st.integers(0, 10**6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

usage_rows = st.builds(
    UsageRow,
    model=st.none() | texts,
    input_uncached_tokens=counts,
    cache_read_tokens=counts,
    cache_write_5m_tokens=counts,
    cache_write_1h_tokens=counts,
    output_tokens=counts,
    reasoning_tokens=counts,
    service_tier=st.none() | texts,
    inference_geo=st.none(),
)

outcomes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "usage": st.lists(usage_rows, max_size=3).map(tuple),
        "usage_source": st.sampled_from(["provider", "stream_partial", "estimated", "not_billed", "unknown"]),
        "cost_nano_usd": counts,
        "exposure_nano_usd": counts,
        "served_model": st.none() | texts,
        "finish_reason": st.none() | texts,
        "ttft_ms": counts,
        "provider_requests": counts,
        "latency_ms": counts,
        "request_id": st.none() | texts,
        "price_book": st.none() | st.just(DIGEST),
    }
)

judged = {"judge": (step("sonnet", 2),), "ladder": (step("sonnet", 1), step("opus", 1))}
requests = st.one_of(
    st.builds(
        request,
        policy=st.builds(policy, on_unknown=st.sampled_from(["retry", "hold", "fail"])),
        labels=st.dictionaries(texts, texts, max_size=3),
        idempotency_key=st.none() | texts,
        attempts=st.integers(1, 8),
    ),
    st.builds(lambda attempts: request(attempts=attempts, **judged), st.integers(1, 12)),
    st.builds(validation, judged_task_id=st.none() | st.just("the-judged-task")),
)

moves = st.sampled_from(
    ["start", "start", "succeed", "succeed", "fail", "orphan", "settle", "judge", "release", "cancel", "brake"]
)


@dataclass(frozen=True)
class Walk:
    """A task's events, in the groups in which they were decided."""

    groups: tuple[tuple[e.Event, ...], ...]

    @property
    def events(self) -> tuple[e.Event, ...]:
        """All events in order."""
        return tuple(event for group in self.groups for event in group)


@st.composite
def histories(draw: st.DrawFn, max_moves: int = 14) -> Walk:
    """Draw a request and moves; a move that the state does not allow is left out."""
    history = History(draw(requests))
    groups = [tuple(history.events)]
    for move in draw(st.lists(moves, max_size=max_moves)):
        before = len(history.events)
        try:
            _move(history, move, draw)
        except CommandRefused:
            continue
        groups.append(tuple(history.events[before:]))
    return Walk(tuple(group for group in groups if group))


def _move(history: History, move: str, draw: st.DrawFn) -> None:
    running = isinstance(history.state, Running)
    judging = history.task.purpose == "validate"
    match move:
        case "start":
            history.start()
        case "succeed" if running and not judging:
            history.succeed(**draw(outcomes))
        case "judge" if running and judging:
            history.judge(passed=draw(st.booleans()), escalate=draw(st.booleans()))
        case "fail" if running:
            history.fail(draw(st.sampled_from(get_args(ErrorType))), **draw(outcomes))
        case "orphan" if running:
            history.orphan()
        case "brake" if not isinstance(history.state, Ended):
            history.brake(for_ms=draw(st.sampled_from([1, 5000, 600_000])))
        case "settle" if history.task.loose:
            history.do(c.Settle(_account(history.task, draw), history.seen()))
        case "release":
            history.do(c.Release(history.seen()))
        case "cancel" if draw(st.integers(0, 3)) == 0:
            history.do(c.Cancel(history.seen()))
        case _:
            return


def _account(task: Task, draw: st.DrawFn) -> e.AttemptSettled:
    own: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"via": "late", "outcome": "succeeded", "response_digest": DIGEST},
                {"via": "late", "outcome": "failed", "error_type": "timeout", "response_digest": None},
                {"via": "reconciled", "outcome": "succeeded", "response_digest": None},
            ]
        )
    )
    return settled(draw(st.sampled_from(task.loose)).attempt, **draw(outcomes), **own)


def recorded(events: Sequence[e.Event], task_id: str = "task") -> tuple[Recorded, ...]:
    """Seal events as a store would, a millisecond apart."""
    stream: list[Recorded] = []
    prev_hash = FIRST_PREV_HASH
    for version, event in enumerate(events, 1):
        new = NewEvent(f"{task_id}-{version}", event, "system")
        sealed = seal(new, task_id=task_id, version=version, recorded_at_ms=START_MS + version, prev_hash=prev_hash)
        stream.append(sealed)
        prev_hash = sealed.hash
    return tuple(stream)
