"""When a breaker opens and closes: the rules by themselves, and the laws that hold whatever calls come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import Config
from ledger.breakers import (
    CLOSED,
    HALF_OPEN,
    TASKS_MIN,
    UNTOUCHED,
    Breaker,
    BreakerSettings,
    BreakerState,
    Open,
    fold_breaker,
)
from ledger.calls import ANSWERS, FAILURES, Call, calls
from ledger.envelope import FIRST_PREV_HASH, NewEvent, Recorded, seal
from ledger.events import Event
from ledger.parts import BrakeSeen
from ledger.policy import ErrorClass, ErrorType, error_class
from ledger.registry import ModelRegistry
from ledger.system_events import BreakerClosed, BreakerOpened
from tests.histories import START_MS, History, policy, request, step
from tests.walks import recorded

LAW = settings(max_examples=200, deadline=None, derandomize=True, database=None)
DEFAULTS: Final = BreakerSettings(20, 5000, 60_000)
BREAKER: Final = Breaker("simulated", "flash", BreakerSettings(4, 5000, 60_000))
OPENED: Final = BreakerState(version=1, position=100, until_ms=START_MS + 5000, open_ms=5000)
SHUT: Final = BreakerState(version=2, position=100)
LATER_MS: Final = START_MS + 5000
"""An instant at which what was opened at the start is half-open."""


def call(ended: int, error: ErrorType | None = "overloaded", *, task: int = 1, **changes: Any) -> Call:
    """Make a call that began just before it ended; ``ended`` is the position of its end."""
    fields: dict[str, Any] = {"event_id": f"e{ended}", "task_id": f"t{task}", "attempt": 1, "started": ended - 1}
    return Call(**{**fields, "ended": ended, "error_type": error, "asked_ms": None, **changes})


def run(*tasks: int, start: int = 101) -> tuple[Call, ...]:
    """Make failures in a row of these tasks, newest first."""
    return tuple(reversed([call(start + 2 * at, task=task, attempt=at) for at, task in enumerate(tasks)]))


def placed(event: Event, version: int = 1, position: int = 9) -> Recorded:
    """Put an event into a breaker's stream."""
    new = NewEvent(f"id-{version}", event, "system")
    sealed = seal(new, task_id=BREAKER.stream, version=version, recorded_at_ms=START_MS, prev_hash=FIRST_PREV_HASH)
    return sealed._replace(position=position)


def test_failures_are_the_errors_worth_another_try() -> None:
    """A wrong key or a bad prompt says nothing about the provider; an answer not wanted so is an answer."""
    rules = policy()
    errors = set(get_args(ErrorType))
    assert {error for error in errors if error_class(error, rules) is ErrorClass.RETRY} == FAILURES
    assert ANSWERS - {None} < errors
    assert set() == ANSWERS & FAILURES


def test_the_settings_are_the_configurations() -> None:
    """In milliseconds."""
    assert ModelRegistry().breakers() == DEFAULTS
    config = Config.from_mapping({"breakers": {"failures": 0, "open_s": 0.5}})
    assert ModelRegistry(config).breakers() == BreakerSettings(0, 500, 60_000)


def test_a_breaker_has_a_stream_of_its_own() -> None:
    """Named by its provider and model."""
    assert BREAKER.stream == "breaker:simulated/flash"


@pytest.mark.parametrize(
    ("tasks", "opens"),
    [
        pytest.param((1, 2, 3, 4), True, id="enough"),
        pytest.param((1, 2, 3), False, id="too few"),
        pytest.param((1, 2, 1, 2, 1, 2, 1), False, id="of two tasks only"),
        pytest.param((1, 2, 1, 2, 1, 2, 3), True, id="the third task is the oldest"),
    ],
)
def test_failures_in_a_row_open(tasks: tuple[int, ...], opens: bool) -> None:  # noqa: FBT001 - a column of the table
    """As many as configured, from at least three tasks."""
    newest_first = run(*reversed(tasks))
    event = BREAKER.opened(UNTOUCHED, newest_first[0], newest_first, START_MS)
    assert opens == (event is not None)
    if event is not None:
        names = tuple(call.event_id for call in reversed(newest_first))
        assert ("failures", START_MS + 5000, 5000, names) == (
            event.cause,
            event.until_ms,
            event.open_ms,
            event.failures,
        )


def test_only_failures_after_the_last_change_count() -> None:
    """What opened it once does not open it again."""
    assert None is BREAKER.opened(SHUT, call(107, task=4), run(1, 2, 3, 4, start=99), START_MS)
    assert None is not BREAKER.opened(SHUT, call(107, task=4), run(1, 2, 3, 4, start=101), START_MS)
    assert None is BREAKER.opened(SHUT, call(99, task=4, asked_ms=1000), (), START_MS)


def row(at: int, error: ErrorType | None = "overloaded", **changes: Any) -> dict[str, Any]:
    """Make a row of ``attempts`` as far as breakers read it."""
    state = "succeeded" if error is None else "failed"
    return {"task_id": f"t{at}", "attempt": 1, "state": state, "error_type": error, **changes}


ORPHANED: Final[dict[str, Any]] = {"state": "orphaned", "error_type": "worker_died"}


@pytest.mark.parametrize(
    ("rows", "enough"),
    [
        pytest.param([row(1), row(2), row(3), row(4)], True, id="one after the other"),
        pytest.param([row(1), row(2), row(3), row(4), row(5, None)], True, id="since the last answer"),
        pytest.param([row(1), row(2), row(3), row(5, None), row(4)], False, id="an answer between"),
        pytest.param([row(1), row(2), row(3, **ORPHANED), row(4), row(5)], True, id="a dead worker between"),
        pytest.param([row(1), row(2), row(3, "interrupted"), row(4), row(5)], True, id="an interrupt between"),
        pytest.param([row(1), row(2), row(3, **ORPHANED), row(4)], False, id="a dead worker is none"),
        pytest.param([row(1), row(2), row(3, "interrupted"), row(4)], False, id="an interrupt is none"),
        pytest.param([row(1), row(2), row(3, "invalid_request"), row(4)], False, id="a bad request is none"),
        pytest.param([row(1), row(2), row(3, "invalid_request"), row(4), row(5)], True, id="a bad request between"),
        pytest.param([row(1), row(2), row(3, "output_invalid"), row(4), row(5)], False, id="a judge's prose between"),
        pytest.param([row(1), row(2), row(3, state="settled"), row(4)], False, id="a late failure is none"),
        pytest.param([row(1), row(2), row(3, None, state="settled"), row(4), row(5)], True, id="a late answer between"),
        pytest.param([], False, id="nothing"),
    ],
)
def test_what_is_in_a_row(rows: list[dict[str, Any]], enough: bool) -> None:  # noqa: FBT001 - likewise
    """Failures since the last answer; what says nothing about the provider is passed over."""
    found = BREAKER.run(rows)
    assert enough == bool(found)
    if found:
        ours = [(row["task_id"], 1) for row in rows if row["state"] == "failed" and row["error_type"] in FAILURES]
        assert tuple(ours[:4]) == found


@pytest.mark.parametrize(
    ("state", "ended", "now_ms", "then"),
    [
        pytest.param(UNTOUCHED, call(9, "rate_limited", asked_ms=700), START_MS, ("retry_after", 700), id="closed"),
        pytest.param(OPENED, call(109, "rate_limited", asked_ms=5999), START_MS, None, id="open, for hardly longer"),
        pytest.param(
            OPENED, call(109, "rate_limited", asked_ms=6000), START_MS, ("retry_after", 6000), id="open, for longer"
        ),
        pytest.param(
            OPENED,
            call(109, "rate_limited", asked_ms=50, started=1),
            LATER_MS,
            ("retry_after", 50),
            id="half-open, in flight since before",
        ),
        pytest.param(
            OPENED, call(109, "rate_limited", asked_ms=300_000), LATER_MS, ("retry_after", 300_000), id="a trial's"
        ),
        pytest.param(OPENED, call(99, "rate_limited", asked_ms=300_000), LATER_MS, None, id="from before it opened"),
        pytest.param(OPENED, call(109), START_MS + 4999, None, id="a failure while open"),
        pytest.param(OPENED, call(109), LATER_MS, ("trial_failed", 10_000), id="a trial failed"),
        pytest.param(OPENED, call(109, started=99), LATER_MS, None, id="no trial: in flight since before"),
        pytest.param(OPENED, call(109, "interrupted"), LATER_MS, None, id="a trial interrupted"),
        pytest.param(OPENED, call(109, "invalid_request"), LATER_MS, None, id="a trial with a bad request"),
        pytest.param(OPENED, call(109, None), LATER_MS, None, id="a trial that went through"),
        pytest.param(
            OPENED._replace(open_ms=40_000), call(109), LATER_MS, ("trial_failed", 60_000), id="at most open_max"
        ),
        pytest.param(
            OPENED._replace(open_ms=300_000),
            call(109),
            LATER_MS,
            ("trial_failed", 60_000),
            id="a trial failed after a long retry-after",
        ),
        pytest.param(
            OPENED._replace(open_ms=700), call(109), LATER_MS, ("trial_failed", 5000), id="and after a short one"
        ),
    ],
)
def test_what_else_opens(state: BreakerState, ended: Call, now_ms: int, then: tuple[str, int] | None) -> None:
    """A 429 that asks for it, and a failed trial, for longer each time."""
    event = BREAKER.opened(state, ended, (), now_ms)
    assert then == (None if event is None else (event.cause, event.open_ms))
    if event is not None:
        assert (now_ms + event.open_ms, (ended.event_id,)) == (event.until_ms, event.failures)


@pytest.mark.parametrize(
    ("state", "ended", "closes"),
    [
        pytest.param(OPENED, call(109, None), True, id="a success"),
        pytest.param(OPENED, call(109, "output_invalid"), True, id="a judge's prose"),
        pytest.param(OPENED, call(109, "truncated"), True, id="an answer cut off"),
        pytest.param(OPENED, call(99, None), False, id="ended before it opened"),
        pytest.param(OPENED, call(109, "timeout"), False, id="a failure"),
        pytest.param(OPENED, call(109, "interrupted"), False, id="an interrupt"),
        pytest.param(OPENED, call(109, "authentication"), False, id="a wrong key"),
        pytest.param(SHUT, call(109, None), False, id="closed already"),
        pytest.param(UNTOUCHED, call(109, None), False, id="never opened"),
    ],
)
def test_what_closes(state: BreakerState, ended: Call, closes: bool) -> None:  # noqa: FBT001 - likewise
    """A call that began since, and went through."""
    expected = BreakerClosed(provider="simulated", model="flash", trial_event_id="e109") if closes else None
    assert expected == BREAKER.closed(state, ended, LATER_MS)


@pytest.mark.parametrize(
    ("started", "now_ms", "closes"),
    [
        pytest.param(99, LATER_MS - 1, False, id="while it is open"),
        pytest.param(99, LATER_MS, True, id="when its time is over"),
        pytest.param(101, LATER_MS - 1, True, id="a task's own retry while it is open"),
    ],
)
def test_what_a_success_says_that_began_early(started: int, now_ms: int, closes: bool) -> None:  # noqa: FBT001 - likewise
    """What was in flight when a provider asked to be left alone does not take that back."""
    assert closes == (BREAKER.closed(OPENED, call(109, None, started=started), now_ms) is not None)


def test_no_length_is_nothing() -> None:
    """Also a breaker that is configured to open for no time has an end after its beginning."""
    event = Breaker("p", "m", BreakerSettings(1, 0, 0)).opened(UNTOUCHED, call(9), run(1, 2, 3), START_MS)
    assert event is not None
    assert (1, START_MS + 1) == (event.open_ms, event.until_ms)


@pytest.mark.parametrize(
    ("now_ms", "expected"),
    [
        pytest.param(START_MS, "open", id="at once"),
        pytest.param(START_MS + 4999, "open", id="until its end"),
        pytest.param(START_MS + 5000, "half-open", id="its end"),
        pytest.param(START_MS + 10**9, "half-open", id="long after"),
        pytest.param(START_MS - 60_000, "open", id="by a clock a minute behind"),
        pytest.param(START_MS - 60_001, "half-open", id="by a clock that was set back"),
        pytest.param(START_MS - 366 * 86_400_000, "half-open", id="by a clock set back by a year"),
    ],
)
def test_how_it_stands(now_ms: int, expected: str) -> None:
    """No clock, wherever it stood, closes a provider for ever."""
    seen = BrakeSeen(provider="simulated", model="flash", until_ms=START_MS + 5000, position=100)
    standing = BREAKER.standing(OPENED, now_ms)
    assert {"open": Open(START_MS + 5000, seen), "half-open": HALF_OPEN}[expected] == standing
    assert (CLOSED, CLOSED) == (BREAKER.standing(UNTOUCHED, now_ms), BREAKER.standing(SHUT, now_ms))


def test_a_stream_is_folded() -> None:
    """Its newest event says how it stands; read in parts, or some of it twice, it says the same."""
    opened = BREAKER.opened(UNTOUCHED, call(9, "rate_limited", asked_ms=5000), (), START_MS)
    assert opened is not None
    closed = BreakerClosed(provider="simulated", model="flash", trial_event_id="e")
    stream = [placed(opened, 1, 100), placed(closed, 2, 200), placed(opened, 3, 300)]
    states = [fold_breaker(stream[:upto]) for upto in range(4)]
    assert [
        UNTOUCHED,
        OPENED,
        BreakerState(version=2, position=200),
        BreakerState(version=3, position=300, until_ms=START_MS + 5000, open_ms=5000),
    ] == states
    assert states[3] == fold_breaker(stream, states[1])
    assert states[1] == fold_breaker(stream[:1], states[1])


def test_the_calls_of_a_task() -> None:
    """Only those to this provider's model that were seen to end, each with where it began and ended."""
    history = History(request(route=(step("flash", 5), step("haiku", 1)), policy=policy(retry_after_max_ms=2500)))
    history.start().fail("rate_limited", retry_after_ms=2000).start().orphan().start().fail("timeout")
    history.start().fail("billing").start().succeed()
    stream = tuple(one._replace(position=10 * one.version) for one in recorded(history.events))
    flash = [(1, 20, 30, "rate_limited", 2000), (3, 80, 90, "timeout", None), (4, 110, 120, "billing", None)]
    assert flash == [found[2:] for found in calls(stream, "simulated", "flash")]
    assert [(5, 140, 150, None, None)] == [found[2:] for found in calls(stream, "simulated", "haiku")]
    assert () == calls(stream, "gemini", "flash")
    assert ("task-3", "task") == calls(stream, "simulated", "flash")[0][:2]


def test_a_retry_after_is_bounded_by_the_tasks_policy() -> None:
    """A longer one ends the task's step, and holds others for no longer than it would have waited."""
    history = History(request(policy=policy(retry_after_max_ms=2500))).start().fail("rate_limited", retry_after_ms=9999)
    other = History().start().fail("overloaded", retry_after_ms=9999)
    (limited,), (busy,) = (calls(recorded(one.events), "simulated", "flash") for one in (history, other))
    assert (2500, None) == (limited.asked_ms, busy.asked_ms)


class Moved(NamedTuple):
    """How an outcome moved a breaker: when, which call, all that had ended by then, the state before, the event."""

    now_ms: int
    done: Call
    ended: tuple[Call, ...]
    state: BreakerState
    event: BreakerOpened | BreakerClosed


@dataclass
class Street:
    """A provider's model as it is called by many: what is in flight, what ended, and what its breaker came to."""

    breaker: Breaker
    now_ms: int = START_MS
    position: int = 0
    state: BreakerState = UNTOUCHED
    flying: list[tuple[str, int]] = field(default_factory=list)
    """Task and position of the start."""
    ended: list[Call] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)

    def start(self, task: int) -> None:
        self.position += 1
        self.flying.append((f"t{task}", self.position))

    def end(self, which: int, error: ErrorType | None, asked_ms: int | None) -> None:
        if not self.flying:
            return
        task, started = self.flying.pop(which % len(self.flying))
        self.position += 1
        asked_ms = asked_ms if error == "rate_limited" else None
        done = Call(f"e{self.position}", task, self.position, started, self.position, error, asked_ms)
        self.ended.append(done)
        state, before = self.state, tuple(self.ended)
        rows = [row(0, one.error_type, task_id=one.task_id, attempt=one.attempt) for one in reversed(self.ended)]
        named = set(self.breaker.run(rows[: self.breaker.rows_max])) if self.breaker.counts(state, done) else set()
        found = [one for one in self.ended if (one.task_id, one.attempt) in named]
        closed = self.breaker.closed(state, done, self.now_ms)
        event = closed or self.breaker.opened(state, done, found, self.now_ms)
        if event is not None:
            self.position += 1
            self.state = fold_breaker([placed(event, state.version + 1, self.position)], state)
            self.moves.append(Moved(self.now_ms, done, before, state, event))


KINDS: Final = (*("start",) * 4, *("end",) * 5, *("wait",) * 2)
ERRORS: Final[tuple[ErrorType | None, ...]] = (
    *("overloaded", "timeout", "connection", "rate_limited", "overloaded", "api_error", "overloaded", "timeout"),
    *("interrupted", "invalid_request", "output_invalid", None, None),
)
ASKED: Final = (None, None, None, 1, 3000, 300_000)
WAITS: Final = (1, 2500, 5000, 10_000, 60_000, -100_000)


def steps_in(drawn: bytes) -> list[tuple[str, int, ErrorType | None, int | None, int]]:
    """Read a step out of every four bytes."""
    steps = []
    for at in range(0, len(drawn) - 3, 4):
        first, second, third, fourth = drawn[at : at + 4]
        error = ERRORS[second % len(ERRORS)]
        steps.append((KINDS[first % len(KINDS)], third % 6, error, ASKED[fourth % 6], WAITS[fourth // 6 % 6]))
    return steps


STEPS: Final = st.binary(min_size=80, max_size=400).map(steps_in)


def walked(steps: list[tuple[str, int, ErrorType | None, int | None, int]], failures: int) -> Street:
    street = Street(Breaker("simulated", "flash", BreakerSettings(failures, 5000, 60_000)))
    for kind, number, error, asked_ms, wait_ms in steps:
        match kind:
            case "start":
                street.start(number)
            case "end":
                street.end(number, error, asked_ms)
            case _:
                street.now_ms += wait_ms
    return street


@LAW
@given(steps=STEPS, failures=st.integers(1, 5))
def test_a_run_that_opens_is_one(steps: list[Any], failures: int) -> None:
    """By hand: enough failures, of enough tasks, no answer among them, all since the breaker's last change."""
    for _, _, ended, state, event in walked(steps, failures).moves:
        if isinstance(event, BreakerOpened) and event.cause == "failures":
            named = [one for one in ended if one.event_id in event.failures]
            since = [one for one in ended if one.ended >= named[0].ended]
            assert len(named) >= max(failures, TASKS_MIN)
            assert len({one.task_id for one in named}) >= TASKS_MIN
            assert min(one.ended for one in named) > state.position
            assert not {one.error_type for one in since} & ANSWERS
            assert state.until_ms is None


@LAW
@given(steps=STEPS, failures=st.integers(1, 5))
def test_only_a_trial_closes_or_makes_it_longer(steps: list[Any], failures: int) -> None:
    """What was in flight when it opened says nothing new, but for an answer when the time is over."""
    for now_ms, done, _, state, event in walked(steps, failures).moves:
        if isinstance(event, BreakerClosed) or event.cause == "trial_failed":
            assert state.until_ms is not None
            over = isinstance(event, BreakerClosed) and not state.is_open(now_ms)
            assert done.started > state.position or over


@LAW
@given(steps=STEPS, failures=st.integers(1, 5), ahead_ms=st.integers(-(10**12), 10**12))
def test_no_brake_lasts(steps: list[Any], failures: int, ahead_ms: int) -> None:
    """From whatever clock it is looked at, it is over within its length and a minute."""
    street = walked(steps, failures)
    standing = street.breaker.standing(street.state, street.now_ms + ahead_ms)
    if isinstance(standing, Open):
        left_ms = standing.until_ms - street.now_ms - ahead_ms
        assert 0 < left_ms <= 300_000 + 60_000
        assert left_ms <= street.state.open_ms + 60_000
        assert standing.seen.position == street.state.position


@LAW
@given(steps=STEPS, failures=st.integers(1, 5))
def test_one_outcome_moves_a_breaker_once(steps: list[Any], failures: int) -> None:
    """Told again, it leads to nothing: whoever asks again after a conflict writes nothing twice."""
    street = walked(steps, failures)
    for now_ms, done, ended, state, event in street.moves:
        after = fold_breaker([placed(event, state.version + 1, done.ended + 1)], state)
        for at_ms in (now_ms, street.now_ms):
            assert None is street.breaker.closed(after, done, at_ms)
            assert None is street.breaker.opened(after, done, ended, at_ms)
