"""What the stores' suites append, and the clock by which they do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ledger.envelope import Append, Limit, NewEvent
from ledger.system_events import BreakerClosed
from tests.histories import START_MS, History, request, started, step

if TYPE_CHECKING:  # processes of their own start quicker without what draws the walks
    from tests.walks import Walk

__all__ = ["Clock", "start", "submission", "task", "tick", "ticks", "transactions", "whole"]


class Clock:
    """A wall clock that stands still, or is set."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


def tick(stream: str, number: int, *, mark: str = "") -> NewEvent:
    """Make a small event of a stream that is no task; its id is the stream's and the number."""
    return NewEvent(f"{stream}/{number}", BreakerClosed(provider="p", model="m", trial_event_id=mark), "system")


def ticks(stream: str, expected_version: int, count: int = 1, *, mark: str = "") -> Append:
    """Make an append of small events."""
    numbers = range(expected_version + 1, expected_version + 1 + count)
    return Append(stream, expected_version, tuple(tick(stream, number, mark=mark) for number in numbers))


def whole(task_id: str, history: History, *, after: int = 0) -> Append:
    """Make an append of a history's events, from the one after a version on."""
    events = tuple(
        NewEvent(f"{task_id}/{version}", event, "system")
        for version, event in enumerate(history.events, 1)
        if version > after
    )
    return Append(task_id, after, events)


def submission(task_id: str, **changes: Any) -> Append:
    """Make a task's first append."""
    return whole(task_id, History(request(**changes)))


def task(task_id: str) -> Append:
    """Make the append of a whole task that fell back, was judged, and has labels."""
    history = History(
        request(
            route=(step("flash", 1), step("haiku", 1)),
            judge=(step("sonnet", 1),),
            labels={"team": "a", "app": task_id},
        )
    )
    history.start().fail().start().succeed(cost_nano_usd=5).start().judge(passed=True)
    return whole(task_id, history)


def start(task_id: str, *limits: Limit, provider: str = "simulated", model: str = "flash", **changes: Any) -> Append:
    """Make the append of a task that is submitted and started at once."""
    at = step("flash", provider=provider, model=model)
    history = History(request(route=(at,))).add(started(at=at, **changes))
    return replace(whole(task_id, history), limits=limits)


def transactions(task_id: str, walk: Walk) -> Iterator[Append]:
    """Yield a history's appends, as it was decided."""
    version = 0
    for group in walk.groups:
        news = tuple(NewEvent(f"{task_id}/{version + n}", event, "system") for n, event in enumerate(group, 1))
        yield Append(task_id, version, news)
        version += len(group)
