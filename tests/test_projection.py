"""From events to rows: what each row says, and that growing step by step gives what folding everything gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from ledger import commands as c
from ledger import events as e
from ledger.canonical import INT64_MAX
from ledger.evolve import fold
from ledger.parts import UsageRow
from ledger.state import Absent, Ended, Held, Ready, Running, State, Undecided, Waiting
from ledger.store.projection import Changes, Known, project, project_stream
from ledger.store.protocol import Projected
from ledger.store.rows import OUTCOME, SUBMITTED
from ledger.store.tables import PROJECTIONS
from ledger.system_events import BreakerClosed
from tests.histories import (
    START_MS,
    WORKER,
    History,
    failed,
    orphaned,
    policy,
    request,
    settled,
    started,
    step,
    succeeded,
    validation,
)
from tests.walks import Walk, histories, recorded

JUDGED: dict[str, Any] = {
    "route": (step("haiku", 2),),
    "judge": (step("sonnet", 2),),
    "ladder": (step("sonnet", 1), step("opus", 1)),
}


def usage(**counts: int | None) -> UsageRow:
    """Make a row in which every count that is not named is zero."""
    counted: dict[str, Any] = {name: 0 for name in UsageRow.model_fields if name.endswith("_tokens")}
    return UsageRow(**{"model": "m", "service_tier": None, "inference_geo": None, **counted, **counts})


def projected(history: History) -> Projected:
    """Project a whole history."""
    return project_stream(recorded(history.events))


def task_row(history: History) -> dict[str, Any]:
    """Return the one row of ``tasks``."""
    (row,) = projected(history).tasks
    return dict(row)


def released() -> History:
    """Make a task that a person has let go on."""
    history = History(request(policy=policy(on_unknown="hold"), owner="owner")).start().orphan()
    history.do(c.Release(history.seen()))
    return history


STATES: list[tuple[str, Callable[[], History], dict[str, Any]]] = [
    ("submitted", History, {"state": "pending", "tier_requested": "flash", "attempts": 0, "worker": None}),
    ("started", lambda: History().start(), {"state": "running", "attempts": 1, "cost_unknown_attempts": 1}),
    (
        "waits for its backoff",
        lambda: History().start().fail(),
        {
            "state": "waiting",
            "waiting_for": "backoff",
            "not_before_ms": START_MS + 1000,
            "waiting_since_ms": START_MS,
            "worker": WORKER,
        },
    ),
    (
        "waits for a breaker",
        lambda: History(request(route=(step(),), owner="owner")).brake(for_ms=7),
        {
            "state": "waiting",
            "waiting_for": "breaker",
            "not_before_ms": START_MS + 7,
            "waiting_since_ms": START_MS,
            "worker": "owner",
        },
    ),
    ("taken over", lambda: History(request(owner="owner")).start("another").orphan(), {"worker": "another"}),
    ("released", released, {"state": "pending", "waiting_for": None, "worker": None}),
    ("released and started", lambda: released().start("next"), {"state": "running", "worker": "next"}),
    (
        "retried",
        lambda: History().start().fail().start(),
        {"state": "running", "waiting_for": None, "waiting_since_ms": None, "attempts": 2},
    ),
    (
        "fell back",
        lambda: History().start().fail("authentication"),
        {"state": "pending", "waiting_for": None, "not_before_ms": None, "tier_final": None},
    ),
    (
        "waits for a person",
        lambda: History(request(policy=policy(on_unknown="hold"))).start().orphan(),
        {"state": "waiting", "waiting_for": "person", "not_before_ms": None, "ended_at_ms": None},
    ),
    (
        "answered",
        lambda: History().start().succeed(cost_nano_usd=7, served_model="flash-002"),
        {
            "state": "succeeded",
            "tier_final": "flash",
            "model_final": "flash-002",
            "attempt_final": 1,
            "accepted": None,
            "ended_at_ms": START_MS + 4,
            "cost_nano_usd": 7,
            "cost_unknown_attempts": 0,
        },
    ),
    (
        "answered on the fallback, one cost unknown",
        lambda: History().start().fail("billing").start().succeed(cost_nano_usd=5),
        {
            "state": "succeeded",
            "tier_requested": "flash",
            "tier_final": "haiku",
            "model_final": "haiku",
            "cost_nano_usd": None,
            "cost_known_nano_usd": 5,
            "cost_unknown_attempts": 1,
        },
    ),
    (
        "failed",
        lambda: History().start().fail("invalid_request", cost_nano_usd=0),
        {"state": "failed", "error_type": "invalid_request", "tier_final": "flash", "cost_nano_usd": 0},
    ),
    (
        "waits for its judge",
        lambda: History(request(**JUDGED)).start().succeed(),
        {"state": "pending", "attempts": 1, "attempt_final": None},
    ),
    (
        "accepted: the answer's attempt is final, not the judge's",
        lambda: History(request(**JUDGED)).start().succeed().start().judge(passed=True),
        {"state": "succeeded", "accepted": 1, "tier_final": "haiku", "attempt_final": 1, "attempts": 2},
    ),
    (
        "judged and not accepted",
        lambda: History(request(**JUDGED)).start().succeed().start().judge(passed=False),
        {"state": "succeeded", "accepted": 0},
    ),
    (
        "a late answer ends the wait for a person, and goes to the judge",
        lambda: History(request(**JUDGED, policy=policy(on_unknown="hold"))).start().orphan().settle(1),
        {"state": "pending", "waiting_for": None, "attempts": 1},
    ),
    (
        "a late answer ends the task",
        lambda: History().start().orphan().settle(1, served_model="late", cost_nano_usd=3),
        {"state": "succeeded", "model_final": "late", "attempt_final": 1, "cost_nano_usd": 3},
    ),
]


@pytest.mark.parametrize(("build", "expected"), [pytest.param(b, x, id=name) for name, b, x in STATES])
def test_a_task_says_where_it_stands(build: Callable[[], History], expected: dict[str, Any]) -> None:
    """State, what it waits for, tiers, figures."""
    row = task_row(build())
    assert expected == {name: row[name] for name in expected}


def test_a_cancelled_task_keeps_its_account() -> None:
    """The attempt in flight is orphaned by the cancellation; what it costs stays unknown until it is settled."""
    history = History().start()
    history.do(c.Cancel(history.seen()))
    (attempt,) = projected(history).attempts
    assert ("orphaned", "cancelled", None) == (attempt["state"], attempt["error_type"], attempt["cost_nano_usd"])
    row = task_row(history)
    assert ("cancelled", "cancelled", 1) == (row["state"], row["error_type"], row["cost_unknown_attempts"])
    row = task_row(history.settle(1, cost_nano_usd=9, served_model="served late"))
    assert ("cancelled", 9, "served late") == (row["state"], row["cost_nano_usd"], row["model_final"])


def test_a_running_attempt_shows_its_bound() -> None:
    """From the start on: exposure is the upper bound, cost and usage are unknown."""
    (row,) = project_stream(recorded([*History().events, started(upper_bound_nano_usd=70, deadline_ms=5)])).attempts
    expected = {
        "task_id": "task",
        "attempt": 1,
        "purpose": "generate",
        "step": 1,
        "tier": "flash",
        "provider": "simulated",
        "request_model": "flash",
        "state": "running",
        "started_at_ms": START_MS + 2,
        "usage_source": "unknown",
        "exposure_nano_usd": 70,
        "worker": WORKER,
        "deadline_ms": 5,
    }
    assert expected == {name: value for name, value in row.items() if value is not None}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param((), (None, None, None, None), id="nothing said"),
        pytest.param((usage(input_uncached_tokens=3, output_tokens=2),), (3, 2, 0, 0), id="one model"),
        pytest.param(
            (
                usage(input_uncached_tokens=3, cache_read_tokens=4, cache_write_5m_tokens=5, cache_write_1h_tokens=6),
                usage(input_uncached_tokens=1, output_tokens=8, reasoning_tokens=7),
            ),
            (19, 8, 4, 7),
            id="all input counts, over two models",
        ),
        pytest.param(
            (usage(input_uncached_tokens=3, cache_read_tokens=None),),
            (3, 0, None, 0),
            id="cache not told: adds nothing",
        ),
        pytest.param(
            (usage(input_uncached_tokens=3), usage(input_uncached_tokens=None, output_tokens=None)),
            (None, None, 0, 0),
            id="one row unknown: the total is",
        ),
        pytest.param(
            (usage(input_uncached_tokens=INT64_MAX), usage(input_uncached_tokens=1)),
            (INT64_MAX, 0, 0, 0),
            id="never beyond the column",
        ),
    ],
)
def test_tokens_are_totals(rows: tuple[UsageRow, ...], expected: tuple[int | None, ...]) -> None:
    """Totals are sums over the usage's rows; unknown parts make unknown totals, never small ones."""
    (row,) = projected(History().start().succeed(usage=rows)).attempts
    actual = (row["tokens_input"], row["tokens_output"], row["cache_read_tokens"], row["reasoning_tokens"])
    assert expected == actual


def test_a_settled_attempt_keeps_what_was_known() -> None:
    """The account adds what it knows and takes nothing away; a known cost needs no bound."""
    history = History().start().fail("timeout", status_code=504, request_id="r-1", exposure_nano_usd=50)
    history.settle(1, via="reconciled", outcome="failed", response_digest=None, latency_ms=None, cost_nano_usd=20)
    (row,) = projected(history).attempts
    expected = {
        "state": "settled",
        "error_type": "timeout",
        "status_code": 504,
        "request_id": "r-1",
        "latency_ms": 7,
        "ended_at_ms": START_MS + 3,
        "cost_nano_usd": 20,
        "exposure_nano_usd": None,
    }
    assert expected == {name: row[name] for name in expected}


def test_an_outcome_counts_once() -> None:
    """What comes for an attempt that has ended, or never began, leaves the rows as they are."""
    history = History().start().succeed(served_model="first")
    before = projected(history)
    history.events += [succeeded(1, served_model="second"), failed(1), orphaned(1), failed(9), settled(9)]
    assert before == projected(history)


def test_every_decision_has_its_row() -> None:
    """From the route at submission to the end, with the tiers between which it chose."""
    history = History().start().fail().start().fail("billing").start().succeed()
    assert [
        ("route", None, "flash", "caller", None),
        ("retry", "flash", "flash", "overloaded", START_MS + 1000),
        ("fallback", "flash", "haiku", "billing", None),
        ("succeed", "haiku", None, "answered", None),
    ] == [
        (row["decision"], row["tier_from"], row["tier_to"], row["reason"], row["not_before_ms"])
        for row in projected(history).decisions
    ]


def test_a_verdict_inside_a_task_is_about_itself() -> None:
    """The judged and the judging attempt are both the task's; confidence is a fraction again."""
    history = History(request(**JUDGED)).start().succeed().start().judge(passed=False, escalate=True)
    (row,) = projected(history).validations
    assert {
        "task_id": "task",
        "judge_task_id": "task",
        "version": 6,
        "judged_attempt": 1,
        "judge_attempt": 2,
        "pass": 0,
        "confidence": 0.9,
        "escalate": 1,
        "error_type": None,
        "recorded_at_ms": START_MS + 6,
    } == row


@pytest.mark.parametrize("judged", [None, "another-task"])
def test_a_verdict_of_its_own_names_the_judged(judged: str | None) -> None:
    """A validation's verdict belongs to the task it judged, or to none when it judged a free text."""
    history = History(validation(judged_task_id=judged)).start().judge(passed=True)
    (row,) = projected(history).validations
    assert (judged, "task", 1) == (row["task_id"], row["judge_task_id"], row["pass"])


def test_no_verdict_is_no_pass() -> None:
    """An errored validation did not pass, escalates, and has no confidence."""
    history = History(validation(judge=(step("sonnet", 1),))).start().fail("invalid_request")
    (row,) = projected(history).validations
    assert (0, None, 1, "invalid_request") == (row["pass"], row["confidence"], row["escalate"], row["error_type"])


def test_labels_are_rows() -> None:
    """One row a label, by key."""
    history = History(request(labels={"team": "a", "app": "b"}))
    assert [("app", "b"), ("team", "a")] == [(row["key"], row["value"]) for row in projected(history).task_labels]


def test_other_streams_have_no_rows() -> None:
    """Breakers, price books and anchors are no tasks; neither is a stream that does not begin as one."""
    closed = BreakerClosed(provider="p", model="m", trial_event_id="x")
    assert Projected() == project_stream(recorded([closed]))
    assert Projected() == project_stream(recorded([started(), closed]))


def test_columns_are_the_tables() -> None:
    """Every row has exactly the columns of its table."""
    history = History(request(**JUDGED, labels={"k": "v"})).start().succeed().start().judge(passed=True)
    rows = projected(history)
    for table in PROJECTIONS:
        for row in getattr(rows, table.name):
            assert {column.name for column in table.c} == row.keys()


def stands(state: State) -> tuple[str, str | None]:
    """Name a folded state as ``tasks`` does."""
    match state:
        case Absent():
            raise AssertionError("a history begins with its submission")
        case Ready() | Undecided():
            return "pending", None
        case Running():
            return "running", None
        case Waiting():
            return "waiting", "backoff" if state.task.made else "breaker"
        case Held():
            return "waiting", "person"
        case Ended():
            return state.end.TYPE.removeprefix("task."), None


def grown(walk: Walk) -> Changes:
    """Project group by group, keeping what a store would keep."""
    stream = recorded(walk.events)
    whole, done = Changes(), 0
    for group in walk.groups:
        known = Known(whole.task, whole.attempts)
        new = tuple(zip(stream[done:], group, strict=False))
        past = walk.events[:done]
        changes = project(known, new, lambda past=past: past)  # type: ignore[misc]  # bound now, asked at once
        for number, row in changes.attempts.items():
            before = whole.attempts.get(number)
            changed = set() if before is None else {name for name in row if row[name] != before[name]}
            assert (number in changes.attempts_started) == (before is None)
            assert not changed or (number in changes.attempts_ended and changed <= set(OUTCOME))
        if whole.task is not None and changes.task is not None:
            assert [whole.task[name] for name in SUBMITTED] == [changes.task[name] for name in SUBMITTED]
        changes.decisions[:0] = whole.decisions
        changes.validations[:0] = whole.validations
        changes.task_labels[:0] = whole.task_labels
        whole, done = changes, done + len(group)
    return whole


@given(histories())
def test_growing_gives_what_folding_gives(walk: Walk) -> None:
    """For every history: step by step or in one go, the rows are the same, and the state is the fold's."""
    step_by_step, at_once = grown(walk), project_stream(recorded(walk.events))
    assert at_once.tasks == (step_by_step.task,)
    assert list(at_once.attempts) == [row for _, row in sorted(step_by_step.attempts.items())]
    assert list(at_once.decisions) == step_by_step.decisions
    assert list(at_once.validations) == step_by_step.validations
    assert step_by_step.task is not None
    assert stands(fold(walk.events)) == (step_by_step.task["state"], step_by_step.task["waiting_for"])


@given(histories())
def test_figures_add_up(walk: Walk) -> None:
    """A task's cost is the sum of its attempts', unknown when any is; every start has one row."""
    rows = project_stream(recorded(walk.events))
    (task,) = rows.tasks
    costs = [row["cost_nano_usd"] for row in rows.attempts]
    known = sum(cost for cost in costs if cost is not None)
    assert (len(costs), known) == (task["attempts"], task["cost_known_nano_usd"])
    assert task["cost_nano_usd"] == (None if None in costs else known)
    assert task["cost_unknown_attempts"] == costs.count(None)
    assert len(costs) == sum(isinstance(event, e.AttemptStarted) for event in walk.events)
