"""The laws of ``decide``, ``evolve`` and ``fold``: what holds for every history, found by trying many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.errors import CommandRefused
from ledger.evolve import evolve, fold
from ledger.obstacles import BRAKED
from ledger.parts import Decision
from ledger.policy import ErrorType
from ledger.state import INITIAL, Absent, Ended, Ready, Running, State, Undecided, Waiting
from ledger.upcasting import EVENT_TYPES, decode
from tests.histories import (
    DIGEST,
    START_MS,
    WORKER,
    History,
    brake,
    failed,
    orphaned,
    policy,
    question,
    request,
    settled,
    started,
    step,
    succeeded,
    validation,
    verdict,
)

LAW = settings(max_examples=200, deadline=None, derandomize=True, database=None)
ENDS = (e.TaskSucceeded, e.TaskFailed, e.TaskCancelled)
OUTCOMES = (e.AttemptSucceeded, e.AttemptFailed, e.AttemptOrphaned)
MOVES_AFTER_END = 6
OTHER = WORKER[:-1] + "2"


@dataclass(frozen=True, slots=True)
class Move:
    """What somebody does next to a task, sensible or not."""

    kind: str
    attempt: int
    worker: str
    error: ErrorType
    flag: bool
    other_flag: bool
    wait_ms: int
    cost: int | None
    jitter_ppm: int


KINDS = (
    *("start", "start", "start", "start", "start", "start", "start", "start"),
    *("fail", "fail", "fail", "fail", "fail", "answer", "answer", "answer", "orphan", "orphan", "orphan"),
    *("late", "late", "settle", "settle", "release", "release", "misfit", "stray", "again", "cancel"),
    *("brake", "brake", "brake"),
)
ERRORS = (
    *get_args(ErrorType),
    *("overloaded", "timeout", "rate_limited", "other", "output_invalid", "interrupted") * 4,
)
COLUMNS: tuple[Sequence[Any], ...] = (
    KINDS,
    range(1, 7),
    (WORKER, OTHER),
    ERRORS,
    (True, False),
    (True, False),
    (0, 0, 0, 0, 500, 500, 5000, 300_001),
    (None, 0, 7),
    (0, 200_000, -199_999),
)


def fields(number: int, columns: Sequence[Sequence[Any]]) -> Iterator[Any]:
    """Read a choice from each column out of one number: a tenth of the time that drawing each takes."""
    for column in columns:
        number, index = divmod(number, len(column))
        yield column[index]


def moves_in(drawn: bytes) -> list[Move]:
    """Read a move out of every four bytes."""
    return [Move(*fields(int.from_bytes(drawn[at : at + 4]), COLUMNS)) for at in range(0, len(drawn) - 3, 4)]


CHOICES: Final[tuple[Sequence[Any], ...]] = (
    (1, 2, 3),
    (2, 0, 1),
    (3, 0, 1, 2),
    (2, 1, 3),
    (20, 20, 20, 20, 7, 3, 2, 1),
    ("retry", "retry", "retry", "hold", "hold", "fail"),
    (5, 5, 2, 0),
    ("accept", "retry"),
    (False, False, False, False, True),
)


def asked_in(number: int) -> e.TaskRequest:
    """Read a task out of a number: a generation, judged or not, with a ladder or not, or a validation."""
    routed, judges, rungs, tries, attempts, on_unknown, max_orphans, on_truncated, validates = fields(number, CHOICES)
    rules = policy(on_unknown=on_unknown, max_orphans=max_orphans, on_truncated=on_truncated)
    judge = (step("sonnet", tries), step("opus", 1))[:judges]
    if validates and judge:
        return validation(policy=rules, attempts=attempts, judge=judge, judged_task_id="t", judged_attempt=2)
    route = (step("flash", tries), step("haiku", 1), step("pro", 2))[:routed]
    ladder = (step("haiku", 2), step("sonnet", tries), step("opus", 1))[3 - rungs :]
    return request(policy=rules, attempts=attempts, route=route, judge=judge, ladder=ladder)


def command(history: History, move: Move) -> c.Command:
    """Make a command of a move, as it would come in this state."""
    task, running = history.task, max(1, history.task.attempts)
    other = max(1, running + 2 - move.attempt)
    seen = history.seen(move.jitter_ppm)
    match move.kind:
        case "start":
            state = history.state
            if isinstance(state, Waiting) and move.flag:
                history.now_ms = max(history.now_ms, state.not_before_ms)
            fence = max(1, task.fence + (move.worker != task.worker))
            begun = started(
                task.attempts + 1, task.at, purpose=task.purpose, step=task.step, fence=fence, worker=move.worker
            )
            return c.Start(begun, history.now_ms)
        case "fail":
            known = {
                "retryable": move.flag or move.other_flag or move.cost is None,
                "retry_after_ms": move.wait_ms or None,
            }
            return c.Record(failed(running, move.error, cost_nano_usd=move.cost, **known), task.fence, seen)
        case "answer" | "misfit":
            said = verdict(
                passed=move.flag,
                escalate=move.other_flag,
                judged=task.judged_attempt,
                judge=running,
                judged_task_id=task.submitted.judged_task_id,
            )
            judging = (task.purpose == "validate") == (move.kind == "answer")
            return c.Record(succeeded(running, cost_nano_usd=move.cost), task.fence, seen, said if judging else None)
        case "orphan":
            return c.Orphan(orphaned(running), seen)
        case "late":
            late = succeeded(other) if move.flag else failed(other, move.error)
            return c.Record(late, move.attempt, seen)
        case "settle":
            via = "late" if move.flag else "reconciled"
            text = DIGEST if move.other_flag else None
            return c.Settle(settled(other, via=via, response_digest=text, cost_nano_usd=move.cost), seen)
        case "release":
            return c.Release(seen)
        case "stray":
            return c.Orphan(orphaned(other), seen) if move.flag else c.Choose(seen)
        case "brake":
            if isinstance(history.state, Waiting) and move.other_flag:
                history.now_ms = max(history.now_ms, history.state.not_before_ms)
            sights = [brake(at, history.now_ms + move.wait_ms) for at in (task.at, *task.steps)]
            return c.Brake(c.Seen(history.now_ms, move.jitter_ppm, brakes=tuple(sights[: move.attempt])))
        case "again":
            return c.Submit(e.TaskRequest(**{n: getattr(task.submitted, n) for n in e.TaskRequest.model_fields}), seen)
        case _:
            return c.Cancel(seen) if move.attempt == 1 else c.Choose(seen)


def played(asked: e.TaskRequest, moves: list[Move]) -> Iterator[tuple[History, c.Command]]:
    """Yield the history after each command that it accepted; one that is refused leaves it as it was."""
    history, after_end = History(asked), 0
    for move in moves:
        after_end += isinstance(history.state, Ended)
        if after_end > MOVES_AFTER_END:
            return
        asked_for = command(history, move)
        before = list(history.events)
        try:
            history.do(asked_for)
        except CommandRefused:
            assert before == history.events
        else:
            yield history, asked_for


def history_of(asked: e.TaskRequest, moves: list[Move]) -> list[e.Event]:
    """Return all events of a play."""
    history = History(asked)
    for after, _ in played(asked, moves):
        history = after
    return history.events


REQUESTS = st.integers(0, prod(map(len, CHOICES)) - 1).map(asked_in)
MOVES = st.binary(min_size=40, max_size=200).map(moves_in)
PLAYS: Final = {"asked": REQUESTS, "moves": MOVES}


@LAW
@given(**PLAYS, cut=st.integers(0, 60))
def test_a_history_folds_the_same_in_one_go_or_two(asked: e.TaskRequest, moves: list[Move], cut: int) -> None:
    """``fold`` can be continued from any state."""
    events = history_of(asked, moves)
    assert fold(events) == fold(events[cut:], fold(events[:cut]))


@LAW
@given(**PLAYS)
def test_a_repeated_command_gives_nothing(asked: e.TaskRequest, moves: list[Move]) -> None:
    """Whoever asks again, after a lost acknowledgement, writes nothing twice."""
    for history, asked_for in played(asked, moves):
        assert () == decide(history.state, asked_for)


@LAW
@given(**PLAYS)
def test_a_transaction_leaves_nothing_undecided(asked: e.TaskRequest, moves: list[Move]) -> None:
    """Everything that an outcome leads to is given with it; what may start can start."""
    for history, _ in played(asked, moves):
        state = history.state
        assert not isinstance(state, Undecided)
        if isinstance(state, Ready | Waiting):
            ahead = History.of(history.events)
            ahead.now_ms = history.now_ms
            assert isinstance(ahead.start().state, Running)


@LAW
@given(**PLAYS)
def test_attempts_and_tries_keep_their_limits(asked: e.TaskRequest, moves: list[Move]) -> None:
    """Counted by hand: attempts over the task, tries over a step, and for a judge over each answer."""
    tries: Counter[tuple[str, int, int]] = Counter()
    running, answers, attempts = started(), 0, 0
    for event in history_of(asked, moves):
        match event:
            case e.AttemptStarted():
                running, attempts = event, attempts + 1
                assert attempts == event.attempt
            case e.AttemptFailed() | e.AttemptSucceeded():
                if not isinstance(event, e.AttemptFailed) or event.error_type != "interrupted":
                    tries[running.purpose, running.step, answers if running.purpose == "validate" else 0] += 1
                answers += isinstance(event, e.AttemptSucceeded) and running.purpose == "generate"
            case e.AttemptSettled():
                answers += 1
            case _:
                pass
    limits = {"generate": asked.route + asked.ladder, "validate": asked.judge}
    assert attempts <= asked.limits.attempts
    assert {} == {key: count for key, count in tries.items() if count > limits[key[0]][key[1] - 1].tries}


@LAW
@given(**PLAYS)
def test_only_a_task_that_has_not_begun_its_step_is_kept_off_it(asked: e.TaskRequest, moves: list[Move]) -> None:
    """Counted by hand: attempts since the task came to its step, anew for a judge of each answer."""
    here, judging = 0, asked.kind == "validation"
    history = History(asked)
    for event in history_of(asked, moves):
        before, attempts = history.state, history.task.attempts
        history.add(event)
        if isinstance(event, Decision) and event.rule == BRAKED:
            assert isinstance(before, Ready | Waiting)
            assert (0, attempts) == (here, history.task.attempts)
        moved = isinstance(event, e.FallbackSelected | e.EscalationSelected)
        answered = not judging and history.task.purpose == "validate"
        judging = history.task.purpose == "validate"
        here = 0 if moved or answered else here + isinstance(event, e.AttemptStarted)
        assert here == history.task.made


@LAW
@given(**PLAYS, sight=st.integers(0, 3))
def test_any_state_can_be_asked_about_breakers(asked: e.TaskRequest, moves: list[Move], sight: int) -> None:
    """Whoever saw one need not know what has become of the task: the answer is a move, a wait or nothing."""
    for history, _ in played(asked, moves):
        brakes = tuple(brake(at, history.now_ms + 1000) for at in history.task.steps[:sight])
        state, command = history.state, c.Brake(c.Seen(history.now_ms, brakes=brakes))
        decided = decide(state, command)
        assert len(decided) <= 1
        assert () == decide(fold(decided, state), command)


@LAW
@given(**PLAYS)
def test_a_task_is_whose_it_was_last(asked: e.TaskRequest, moves: list[Move]) -> None:
    """The newest attempt's worker's, until a person lets it go on."""
    events = history_of(asked.model_copy(update={"owner": OTHER}), moves)
    owners: list[str | None] = [OTHER]
    for event in events:
        owners += [event.worker] if isinstance(event, e.AttemptStarted) else []
        owners += [None] if isinstance(event, e.TaskReleased) else []
    assert owners[-1] == History.of(events).task.owner


@LAW
@given(**PLAYS)
def test_every_attempt_ends_once_and_alone(asked: e.TaskRequest, moves: list[Move]) -> None:
    """One call is in flight at a time, under a fence that never falls; each start has at most one end."""
    running, fence = None, 0
    for event in history_of(asked, moves):
        if isinstance(event, e.AttemptStarted):
            assert running is None
            assert event.fence >= fence
            running, fence = event.attempt, event.fence
        elif isinstance(event, OUTCOMES):
            assert running == event.attempt
            running = None


@LAW
@given(**PLAYS)
def test_a_finished_task_never_changes(asked: e.TaskRequest, moves: list[Move]) -> None:
    """After the one end only settled accounts follow, and they change nothing but the list of open ones."""
    events = history_of(asked, moves)
    ends = [index for index, event in enumerate(events) if isinstance(event, ENDS)]
    assert len(ends) <= 1
    for end in ends:
        assert {"attempt.settled"} >= {event.TYPE for event in events[end + 1 :]}
        assert told_of(fold(events[: end + 1])) == told_of(fold(events))


def told_of(state: State) -> dict[str, Any]:
    """Return everything of a finished state but its open accounts."""
    assert isinstance(state, Ended)
    known = {name: value for name, value in state.task._asdict().items() if name != "loose"}
    return {**known, "end": state.end}


@LAW
@given(**PLAYS)
def test_a_task_only_moves_forward(asked: e.TaskRequest, moves: list[Move]) -> None:
    """Fallbacks and escalations go up the steps, and so do the generating attempts."""
    events = history_of(asked, moves)
    moved = [event for event in events if isinstance(event, e.FallbackSelected | e.EscalationSelected)]
    assert [] == [event for event in moved if event.to_step <= event.from_step]
    walked = [event.step for event in events if isinstance(event, e.AttemptStarted) and event.purpose == "generate"]
    assert sorted(walked) == walked


@LAW
@given(**PLAYS)
def test_every_decision_can_be_asked_again(asked: e.TaskRequest, moves: list[Move]) -> None:
    """From the stored bytes alone: the events before it and its inputs give the same bytes."""
    stored = [(event.TYPE, event.SCHEMA_VERSION, event.data()) for event in history_of(asked, moves)]
    state = INITIAL
    for event_type, schema_version, data in stored:
        event = decode(event_type, schema_version, data)
        asked_again = question(event)
        if asked_again is not None:
            assert [data] == [made.data() for made in decide(state, asked_again)]
        state = evolve(state, event)


@LAW
@given(**PLAYS)
def test_no_answer_is_lost(asked: e.TaskRequest, moves: list[Move]) -> None:
    """A generation fails only if no attempt gave a text, in time or late; one that succeeds has a text."""
    purposes, orphans, texts = {}, set(), set()
    for event in history_of(asked, moves):
        match event:
            case e.AttemptStarted():
                purposes[event.attempt] = event.purpose
            case e.AttemptOrphaned():
                orphans.add(event.attempt)
            case e.AttemptSucceeded():
                texts.add(event.attempt)
            case e.AttemptSettled() if event.attempt in orphans:
                texts |= {event.attempt} if event.response_digest else set()
                orphans.discard(event.attempt)
            case e.TaskFailed():
                assert asked.kind == "validation" or not {number for number in texts if purposes[number] == "generate"}
                break
            case e.TaskSucceeded():
                assert event.attempt in texts
                break
            case _:
                pass


def pool() -> list[e.Event]:
    """Return events of every type that a task's stream can hold."""
    climbed = History(request(judge=(step("sonnet"),), ladder=(step("opus"),)))
    climbed.start().orphan().start().settle(1).fail().start().judge(passed=False, escalate=True)
    climbed.start().succeed().start().judge(passed=True)
    held = History(request(policy=policy(on_unknown="hold"))).start().orphan()
    held.do(c.Release(held.seen()))
    held.start().fail("billing").do(c.Cancel(held.seen()))
    errored = History(validation()).start().fail("interrupted").start().fail("billing")
    refused = {name: getattr(held.events[-1], name) for name in Decision.model_fields} | {"decision": "refused"}
    budget = e.BudgetRefused(**refused, cap="day", step=1, tier="flash")
    erased = e.PayloadErased(slot="prompt", digest=DIGEST, reason="asked for")
    return [*climbed.events, *held.events, *errored.events, *History().start().succeed().events, budget, erased]


POOL = pool()


def odd_events() -> st.SearchStrategy[e.Event]:
    """Draw events from the pool, with numbers in them that no history would have."""
    odd = st.fixed_dictionaries({}, optional=dict.fromkeys(("attempt", "step", "to_step"), st.integers(1, 9)))
    return st.tuples(st.sampled_from(POOL), odd).map(
        lambda drawn: drawn[0].model_copy(
            update={k: v for k, v in drawn[1].items() if k in type(drawn[0]).model_fields}
        )
    )


def test_the_pool_holds_every_type() -> None:
    """What the next law tries is the whole of a task's stream."""
    streams = ("breaker.", "price_book.", "anchor.")
    assert {name for name in EVENT_TYPES if not name.startswith(streams)} - {event.TYPE for event in POOL} == set()


@LAW
@given(
    events=st.lists(odd_events(), max_size=8),
    end=st.sampled_from([event for event in POOL if isinstance(event, ENDS)]),
    **PLAYS,
)
def test_an_end_is_the_end_in_the_fold(
    events: list[e.Event], end: e.Event, asked: e.TaskRequest, moves: list[Move]
) -> None:
    """Whatever a damaged ledger holds behind it, a finished task stays as it ended."""
    ended = fold([*history_of(asked, moves), end])
    assert told_of(ended) == told_of(fold(events, ended))


@LAW
@given(
    events=st.lists(odd_events(), max_size=15),
    asked=REQUESTS,
    moves=st.binary(max_size=16).map(moves_in),
    submitted=st.booleans(),
)
def test_no_history_breaks_the_fold(
    events: list[e.Event],
    asked: e.TaskRequest,
    moves: list[Move],
    submitted: bool,  # noqa: FBT001 - drawn
) -> None:
    """``evolve`` is total, and what comes of it can be asked: an answer, or a refusal."""
    history = History(asked).add(*events) if submitted else History.of(events)
    for move in moves:
        if isinstance(history.state, Absent):
            return
        try:
            history.do(command(history, move))
        except CommandRefused:
            continue
    assert history.now_ms >= START_MS
