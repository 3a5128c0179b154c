"""What people are told of breakers: in a task's story, and as events go by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ledger import Ledger
from ledger.cli import main
from ledger.cli.work.story import event_lines
from ledger.envelope import Append, NewEvent
from ledger.events import Event
from ledger.system_events import BreakerClosed, BreakerOpened
from tests.histories import START_MS, History, brake, request, step

UNTIL: Final = "14:13:25.000"
"""Five seconds after the start, as a clock shows it."""
OPENED: Final = BreakerOpened(
    provider="simulated",
    model="flash",
    cause="failures",
    until_ms=START_MS + 5000,
    open_ms=5000,
    failures=("f1", "f2", "f3", "f4"),
)


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        pytest.param(
            OPENED,
            [
                f"simulated flash is left alone until {UNTIL}, for 5,000 ms: 4 failures in a row",
                "failed events f1, f2, f3 and 1 more",
            ],
            id="a run of failures",
        ),
        pytest.param(
            OPENED.model_copy(update={"cause": "retry_after", "failures": ("f1",)}),
            [
                f"simulated flash is left alone until {UNTIL}, for 5,000 ms: the provider asked for it (retry-after)",
                "failed event f1",
            ],
            id="a retry-after",
        ),
        pytest.param(
            OPENED.model_copy(update={"cause": "trial_failed", "failures": ("f1",)}),
            [f"simulated flash is left alone until {UNTIL}, for 5,000 ms: a trial call failed", "failed event f1"],
            id="a failed trial",
        ),
        pytest.param(
            BreakerClosed(provider="simulated", model="flash", trial_event_id="s1"),
            ["simulated flash is called again: event s1 went through"],
            id="closed",
        ),
    ],
)
def test_what_a_breaker_did(event: Event, lines: list[str]) -> None:
    """Why, and until when."""
    assert lines == event_lines(event, {})


def test_a_brake_whose_breaker_is_not_at_hand() -> None:
    """What was seen stands in the decision itself."""
    waits = History(request(route=(step("opus"),))).brake().events[-1]
    assert [
        "decided retry: attempt 1 on opus, because of breaker_open (rule breaker_open)",
        f"waits 5,000 ms, not before {UNTIL}",
        f"saw simulated opus left alone until {UNTIL}",
    ] == event_lines(waits, {}, {8: OPENED})


def written(path: Path, *streams: tuple[str, Sequence[Event]]) -> None:
    """Make a ledger of these streams."""

    async def write() -> None:
        async with Ledger.open(path) as ledger:
            store = await ledger.store()
            for name, events in streams:
                news = [NewEvent(f"{name}-{at}", event, "system") for at, event in enumerate(events)]
                await store.append(Append(name, 0, tuple(news)))

    asyncio.run(write())


def test_show_says_what_kept_a_task_off(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words where the decision stands, and as the breaker's own event in the document."""
    path = empty_folder / "dispatch.db"
    moved = History().brake(brake(step("flash"), position=1)).start().succeed()
    written(path, ("breaker:simulated/flash", [OPENED]), ("task-1", moved.events))
    assert 0 == main(["show", "task-1"])
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "decided fallback: from flash to haiku, because of breaker_open (rule breaker_open) "
        f"simulated flash is left alone until {UNTIL}, for 5,000 ms: 4 failures in a row "
        "failed events f1, f2, f3 and 1 more"
    ) in told
    assert 0 == main(["show", "task-1", "--json"])
    (shown,) = json.loads(capsys.readouterr().out)["brakes"]
    assert ("breaker:simulated/flash", 1, list(OPENED.failures)) == (
        shown["task_id"],
        shown["position"],
        shown["data"]["failures"],
    )
    assert 0 == main(["tail"])
    assert f"breaker:simulated/flash v1 simulated flash is left alone until {UNTIL}" in capsys.readouterr().out
