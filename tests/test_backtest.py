"""A backtest: recorded outcomes folded through another policy, and through the very one they were made under."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from ledger import commands as c
from ledger import events as e
from ledger.config import Config
from ledger.evolve import fold
from ledger.parts import BudgetSeen
from ledger.policy import Step, Tier
from ledger.questions import asked_for
from ledger.registry import ModelRegistry
from ledger.replay.account import Account
from ledger.replay.backtest import Backtested, CannotAnswer, backtested
from ledger.replay.overlay import Asked, Overlay
from ledger.replay.record import Record, read_record
from ledger.state import Ended, Held, Waiting
from tests.command_line import CONFIG, CommandLine
from tests.histories import DIGEST, History, policy, request, step, validation
from tests.walks import Walk, histories

LAW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
FACTS = (e.AttemptStarted, e.PayloadErased)

met: Counter[str] = Counter()


def same(walk: Walk) -> None:
    """Compare what happened with a backtest of what it happened under."""
    events = walk.events
    state = fold(events)
    if not isinstance(state, Ended | Held):
        return
    record = recorded(events)
    again = backtested(record, asked_for(record.submitted))
    assert record.end == again.end
    assert record.figures() == again.figures
    ours, theirs = ([x.data() for x in each if not isinstance(x, FACTS)] for each in (events, again.events))
    assert ours == theirs
    met.update({type(event).__name__ for event in events})


@LAW
@given(histories(max_moves=20))
def test_a_backtest_of_the_policy_it_ran_under_is_what_happened(walk: Walk) -> None:
    """The end, attempts, waits and spend; every outcome and decision, to the byte."""
    same(walk)


@settings(parent=LAW, max_examples=2000)
@given(histories(max_moves=40))
def tried_on_many(walk: Walk) -> None:
    """Try the law on many and long histories."""
    same(walk)


@pytest.mark.slow
def test_a_backtest_of_long_histories_is_what_happened() -> None:
    """The same, and enough of the histories had come to an end, by every way."""
    tried_on_many()
    ways = ("TaskSucceeded", "TaskFailed", "TaskHeld", "TaskCancelled", "AttemptSettled", "AttemptOrphaned")
    assert [] == [name for name in ways if not met[name]]


def recorded(events: Any) -> Record:
    """Read a record that is there."""
    record = read_record(events)
    assert record is not None
    return record


def under(history: History, **changes: Any) -> Backtested:
    """Backtest a history with parts of its request changed."""
    record = recorded(history.events)
    if "route" in changes:
        changes["tier"] = changes["route"][0].tier
    return backtested(record, asked_for(record.submitted).model_copy(update=changes))


def route(*tries: tuple[Tier, int], **changes: Any) -> dict[str, tuple[Step, ...]]:
    """Make a route."""
    return {"route": tuple(step(tier, most, **changes) for tier, most in tries)}


def won_in_two() -> History:
    """Return a task that failed once on flash and then succeeded there."""
    history = History().start().fail("overloaded", cost_nano_usd=5, latency_ms=100)
    return history.start().succeed(cost_nano_usd=7, latency_ms=200)


def fallen() -> History:
    """Return a task that failed three times on flash and succeeded on haiku."""
    history = History()
    for _ in range(3):
        history.start().fail("overloaded", cost_nano_usd=0, latency_ms=10)
    return history.start().succeed(cost_nano_usd=9, latency_ms=50)


CAP = BudgetSeen(cap="day", limit=10, settled=8, unknown=0, reserved=0, asked=5, position=1)
HOLDING = request(policy=policy(on_unknown="hold"))


def released() -> History:
    """Return a task that was held, let go, and ended."""
    history = History(HOLDING).start().orphan()
    history.do(c.Release(history.seen()))
    return history.start().succeed()


def capped(*caps: BudgetSeen) -> History:
    """Return a task that failed once and then met a cap, or what was reserved under it."""
    history = History().start().fail("overloaded", cost_nano_usd=8)
    for cap in caps:
        state = history.state
        history.now_ms = state.not_before_ms if isinstance(state, Waiting) else history.now_ms
        history.do(c.Budget(c.Seen(history.now_ms, budgets=(cap,))))
    return history


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(capped(CAP), id="refused by a cap"),
        pytest.param(capped(CAP.model_copy(update={"settled": 0, "reserved": 8}), CAP), id="waited, then refused"),
        pytest.param(History(HOLDING).start().orphan(), id="held"),
        pytest.param(released(), id="released"),
        pytest.param(History(HOLDING).start().orphan().settle(1), id="a late answer while it was held"),
        pytest.param(History().start().orphan().start().settle(1).fail("billing"), id="a late answer was used"),
        pytest.param(History().brake().brake().brake().start().succeed(), id="braked"),
    ],
)
def test_what_others_did_comes_at_its_time(history: History) -> None:
    """People, breakers and dead workers are part of what happened."""
    same(Walk((tuple(history.events),)))


def test_a_cap_says_nothing_about_another_history() -> None:
    """What it had seen is this one's spend: where that has changed, nobody knows."""
    asked = request(route=(step("flash", 1), step("haiku", 2)))
    history = History(asked).start().fail("overloaded").start().fail("overloaded")
    state = history.state
    assert isinstance(state, Waiting)
    history.now_ms = state.not_before_ms
    history.do(c.Budget(c.Seen(history.now_ms, budgets=(CAP,))))
    with pytest.raises(CannotAnswer) as without:
        under(history, route=(step("haiku", 2),))
    assert without.value.reason == "budget"


def told(done: Backtested) -> tuple[str, int, int, int]:
    """Return the end's type, attempts, waits and the known cost."""
    end = "held" if done.end is None else done.end.TYPE
    return (end, done.figures.attempts, done.figures.waits_ms, done.figures.cost_known_nano_usd)


@pytest.mark.parametrize(
    ("history", "changes", "expected"),
    [
        pytest.param(won_in_two(), {}, ("task.succeeded", 2, 1000, 12), id="as it was"),
        pytest.param(won_in_two(), route(("flash", 1)), ("task.failed", 1, 0, 5), id="lost without the retry"),
        pytest.param(
            won_in_two(),
            {"policy": policy(backoff_initial_ms=30)},
            ("task.succeeded", 2, 30, 12),
            id="another backoff",
        ),
        pytest.param(fallen(), route(("flash", 1), ("haiku", 1)), ("task.succeeded", 2, 0, 9), id="sooner over"),
        pytest.param(fallen(), route(("haiku", 1)), ("task.succeeded", 1, 0, 9), id="straight to it"),
        pytest.param(fallen(), route(("flash", 3)), ("task.failed", 3, 3000, 0), id="no fallback"),
        pytest.param(
            History(request(policy=policy(on_unknown="retry"))).start().orphan().start().succeed(cost_nano_usd=1),
            {"policy": policy(on_unknown="hold")},
            ("held", 1, 0, 0),
            id="held for a person",
        ),
        pytest.param(
            History().start().orphan().start().settle(1, cost_nano_usd=3).fail("billing"),
            {"policy": policy(on_unknown="hold")},
            ("task.succeeded", 1, 0, 3),
            id="a late answer comes while a person is waited for",
        ),
        pytest.param(
            History().start().succeed(finish_reason="max_tokens", cost_nano_usd=2),
            {"policy": policy(on_truncated="fail")},
            ("task.failed", 1, 0, 2),
            id="a cut answer is none",
        ),
        pytest.param(
            History(request(policy=policy(on_truncated="fail"))).start().fail("truncated", response_digest=DIGEST),
            {"policy": policy(on_truncated="accept")},
            ("task.succeeded", 1, 0, 0),
            id="a cut answer is one",
        ),
        pytest.param(
            History(request(route=(step("flash", 2), step("haiku", 1))))
            .start()
            .fail("billing")
            .brake()
            .start()
            .succeed(),
            route(("flash", 2), ("opus", 1), ("haiku", 1), provider="simulated"),
            None,
            id="a step that was never called",
        ),
    ],
)
def test_outcomes_are_folded_through_another_policy(
    history: History, changes: dict[str, Any], expected: tuple[str, int, int, int] | None
) -> None:
    """The n-th call takes the n-th recorded outcome of its model."""
    if expected is None:
        with pytest.raises(CannotAnswer) as without:
            under(history, **changes)
        assert without.value.reason == "no_outcome"
        return
    assert expected == told(under(history, **changes))


@pytest.mark.parametrize(
    ("history", "changes", "reason"),
    [
        pytest.param(History().start().fail("content_refused"), route(("opus", 1)), "no_outcome", id="another model"),
        pytest.param(
            History(request(route=(step("flash", 1),))).start().fail(),
            route(("flash", 2)),
            "no_outcome",
            id="one more try",
        ),
        pytest.param(
            History().start().fail("timeout").start().succeed(),
            route(("flash", 3), timeout_ms=60_000),
            "timeout",
            id="a longer timeout",
        ),
        pytest.param(
            History().start().succeed(latency_ms=5000), route(("flash", 3), timeout_ms=4999), "timeout", id="shorter"
        ),
        pytest.param(
            History(request(judge=(step("sonnet"),), ladder=(step("opus"),)))
            .start()
            .fail()
            .start()
            .succeed()
            .start()
            .judge(passed=True),
            {"route": (step("haiku", 1),)},
            "no_outcome",
            id="an answer that nobody gave",
        ),
    ],
)
def test_what_was_never_recorded_is_not_guessed(history: History, changes: dict[str, Any], reason: str) -> None:
    """It is told why there is no answer."""
    with pytest.raises(CannotAnswer) as without:
        under(history, **changes)
    assert reason == without.value.reason


def test_a_verdict_is_about_the_answer_that_was_judged() -> None:
    """Where another try answers, its verdict is not the other's."""
    asked = request(judge=(step("sonnet"),), ladder=(step("opus"),), route=(step("flash", 1), step("haiku", 1)))
    history = History(asked).start().fail().start().succeed().start().judge(passed=False, escalate=True)
    history.start().succeed().start().judge(passed=True)
    done = under(history, route=(step("haiku", 1),))
    assert ("task.succeeded", 4) == told(done)[:2]
    assert isinstance(done.end, e.TaskSucceeded)
    assert (3, True) == (done.end.attempt, done.end.accepted)


FILE = """
[retry]
retry_count = 4
jitter = 0.5
[tiers.flash]
model = "other"
fallback = "sonnet"
timeout_s = 7
[tiers.sonnet]
provider = "simulated"
"""


def test_what_a_file_does_not_write_stays_as_it_was_pinned() -> None:
    """Key by key; a tier that the task does not know is today's, and what the caller named is kept."""
    written = tomllib.loads(FILE)
    own, today = ModelRegistry(Config.from_mapping(written)), ModelRegistry(Config())
    overlay = Overlay(written, own, today)
    pinned = request(policy=policy(backoff_initial_ms=77))
    made = overlay.request(pinned, Asked())
    first, second = made.route
    assert ("other", 5, 7000, "simulated") == (first.model, first.tries, first.timeout_ms, first.provider)
    assert ("sonnet", 1, "simulated", today.entry("sonnet").model) == (
        second.tier,
        second.tries,
        second.provider,
        second.model,
    )
    assert policy(backoff_initial_ms=77, jitter_ppm=500_000) == made.policy
    assert 3 == overlay.request(pinned, Asked(retries=2)).route[0].tries
    assert pinned == Overlay({}, own, today).request(pinned, Asked())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(Asked(), (1, 1, 1, 1, 1), id="the file's"),
        pytest.param(Asked(retries=2), (3, 1, 3, 3, 1), id="the caller's, but for the judge"),
    ],
)
def test_retries_hold_for_each_rung_too(asked: Asked, expected: tuple[int, ...]) -> None:
    """As they do when such a task is submitted: the first step and each rung; a judge has the configuration's."""
    written: dict[str, Any] = {"retry": {"retry_count": 0}}
    own = ModelRegistry(Config.from_mapping(written))
    pinned = request(judge=(step("sonnet"),), ladder=(step("sonnet"), step("opus")))
    made = Overlay(written, own, ModelRegistry(Config())).request(pinned, asked)
    assert expected == tuple(each.tries for each in (*made.route, *made.ladder, *made.judge))


def test_an_acceptance_that_would_be_lost_is_counted() -> None:
    """The task succeeds either way: with what it had when the rung above gave no answer."""
    asked = request(judge=(step("sonnet"),), ladder=(step("haiku", 2),), route=(step("flash", 1),))
    history = History(asked).start().succeed().start().judge(passed=False, escalate=True)
    history.start().fail("overloaded").start().succeed().start().judge(passed=True)
    account = Account()
    account.add(recorded(history.events), under(history, ladder=(step("haiku", 1),)))
    (row,) = account.document()["tiers"]
    sides = [
        [row[side][word] for word in ("succeeded", "accepted", "not_accepted")] for side in ("happened", "backtest")
    ]
    assert ([[1, 1, 0], [1, 0, 1]], 0) == (sides, row["lost"])


def test_a_judge_has_a_limit_of_tokens_of_its_own() -> None:
    """So another one in the file says nothing about a validation whose texts were erased."""
    written: dict[str, Any] = {"retry": {"max_tokens": 7}}
    overlay = Overlay(written, ModelRegistry(Config.from_mapping(written)), ModelRegistry(Config()))
    assert [True, False] == [overlay.other_tokens(each, Asked()) for each in (request(), validation())]


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A folder with simulated models."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    return CommandLine(capsys)


def test_the_command_says_what_would_have_been(cli: CommandLine, empty_folder: Path) -> None:
    """Against what happened, by tier; unfinished tasks are left out; nothing is written."""
    cli("run", "one", "--tier", "flash")
    cli("run", "two", "--tier", "flash", "--retries", "2")
    cli("run", "three", "--tier", "opus", "--label", "team=a")
    cli("submit", "four", "--tier", "haiku")
    before = (empty_folder / "dispatch.db").read_bytes()
    Path("none.toml").write_text("")
    Path("less.toml").write_text('[retry]\nretry_count = 0\n[tiers.flash]\nfallback = "none"\n[budget]\n')

    unchanged = cli("backtest", "--policy", "none.toml", "--json").json
    assert [row["happened"] for row in unchanged["tiers"]] == [row["backtest"] for row in unchanged["tiers"]]
    assert (3, 0, 1, 0, 0) == tuple(unchanged[name] for name in ("tasks", "cannot_answer", "unfinished", "won", "lost"))
    ended = cli("backtest", "--policy", "less.toml", "--json")
    flash = next(row for row in ended.json["tiers"] if row["tier"] == "flash")
    assert (0, 0, 1) == (ended.code, flash["won"], flash["lost"])
    assert (4, 3) == (flash["happened"]["attempts"], flash["backtest"]["attempts"])
    assert "left aside: budget" in ended.err
    assert 1 == cli("backtest", "--policy", "none.toml", "--label", "team=a", "--json").json["tasks"]
    assert 0 == cli("backtest", "--policy", "none.toml", "--until", "2020-01-01", "--json").json["tasks"]
    Path("five.toml").write_text('[tiers.opus]\nmodel = "unseen"\n')
    said = cli("backtest", "--policy", "five.toml").out
    assert "1 need an outcome that was never recorded" in said
    assert before == (empty_folder / "dispatch.db").read_bytes()
    assert (2, True) == ((bad := cli("backtest", "--policy", "no.toml")).code, "no such configuration" in bad.err)
