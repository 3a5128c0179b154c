"""The rules: given a history, when a command comes, then these events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import DECIDER, DECIDERS, decide
from ledger.errors import CommandRefused
from ledger.parts import Answered, BrakeSeen, BudgetSeen, ByRule, ByScore, Decision
from ledger.policy import PPM, ErrorType, Step, backoff_ms
from ledger.state import INITIAL, Ended, Held, Ready, Running, Undecided, Waiting
from tests.histories import (
    DIGEST,
    START_MS,
    WORKER,
    History,
    brake,
    failed,
    orphaned,
    policy,
    request,
    seen,
    seen_in,
    settled,
    started,
    step,
    succeeded,
    told,
    validation,
    verdict,
)

OTHER = WORKER[:-1] + "2"

RETRY = "worth_another_try"
ONCE = "worth_one_more_try"
FALLBACK = "straight_to_the_fallback"
END = "ends_the_task"

ERRORS: dict[ErrorType, str] = {
    "rate_limited": RETRY,
    "overloaded": RETRY,
    "timeout": RETRY,
    "connection": RETRY,
    "api_error": RETRY,
    "authentication": FALLBACK,
    "permission": FALLBACK,
    "billing": FALLBACK,
    "not_found": FALLBACK,
    "client_missing": FALLBACK,
    "invalid_request": END,
    "too_large": END,
    "context_window_exceeded": END,
    "content_refused": END,
    "budget_refused": END,
    "cancelled": END,
    "worker_died": END,
    "truncated": END,
    "output_invalid": ONCE,
    "other": ONCE,
}


def alone(**changes: Any) -> e.TaskRequest:
    """Ask for three tries of opus, which has no fallback."""
    return request(**{"route": (step("opus", 3),), **changes})


def judged(**changes: Any) -> e.TaskRequest:
    """Ask for haiku, judged by sonnet, with sonnet and opus to escalate to."""
    own: dict[str, Any] = {
        "route": (step("haiku", 2),),
        "judge": (step("sonnet", 2),),
        "ladder": (step("sonnet", 1), step("opus", 1)),
    }
    return request(**{**own, **changes})


def refused(history: History, command: c.Command) -> str:
    """Return why a command is refused."""
    with pytest.raises(CommandRefused) as caught:
        history.do(command)
    return caught.value.why


def test_the_table_of_errors_is_whole() -> None:
    """Every error type has its row; an interrupt is decided apart from it."""
    assert set(get_args(ErrorType)) == {*ERRORS, "interrupted"}


@pytest.mark.parametrize(("error", "worth"), ERRORS.items(), ids=ERRORS)
def test_what_an_error_is_worth_where_there_is_a_fallback(error: ErrorType, worth: str) -> None:
    """The first try on flash failed, haiku stands behind it."""
    then = {
        RETRY: f"retry 2 on flash in 1000: {error}, {RETRY}",
        ONCE: f"retry 2 on flash in 1000: {error}, {ONCE}",
        FALLBACK: f"fallback flash to haiku: {error}, {FALLBACK}",
        END: f"fail_fast after 1, {error}: {error}, {END}",
    }
    assert [f"1 failed: {error}", then[worth]] == told(History().start().fail(error).events[2:])


@pytest.mark.parametrize(("error", "worth"), ERRORS.items(), ids=ERRORS)
def test_what_an_error_is_worth_without_a_fallback(error: ErrorType, worth: str) -> None:
    """The first try on opus failed, nothing stands behind it."""
    then = {
        RETRY: f"retry 2 on opus in 1000: {error}, {RETRY}",
        ONCE: f"retry 2 on opus in 1000: {error}, {ONCE}",
        FALLBACK: f"fail_fast after 1, {error}: {error}, {FALLBACK}",
        END: f"fail_fast after 1, {error}: {error}, {END}",
    }
    assert [f"1 failed: {error}", then[worth]] == told(History(alone()).start().fail(error).events[2:])


@pytest.mark.parametrize(("error", "worth"), ERRORS.items(), ids=ERRORS)
def test_what_an_error_is_worth_to_a_judge(error: ErrorType, worth: str) -> None:
    """A judgement that cannot be had is errored, and fails its task; it never passes."""
    again = f"retry 2 on sonnet in 1000: {error}, {worth}"
    errored = ["validation.errored: " + error, f"fail_fast after 1, {error}: {error}, no_verdict"]
    then = [again] if worth in (RETRY, ONCE) else errored
    assert [f"1 failed: {error}", *then] == told(History(validation()).start().fail(error).events[2:])


@pytest.mark.parametrize(
    ("on_truncated", "then"),
    [
        pytest.param("accept", f"fail_fast after 1, truncated: truncated, {END}", id="accept, but there was no text"),
        pytest.param("fail", f"fail_fast after 1, truncated: truncated, {END}", id="fail"),
        pytest.param("retry", f"retry 2 on flash in 1000: truncated, {RETRY}", id="retry"),
    ],
)
def test_a_truncated_answer(on_truncated: str, then: str) -> None:
    """What stopping at max_tokens is worth stands in the policy."""
    asked = request(policy=policy(on_truncated=on_truncated))
    assert [then] == told(History(asked).start().fail("truncated").events[3:])


@pytest.mark.parametrize(
    ("tries", "wait_ms"),
    [(1, 1000), (2, 2000), (3, 4000), (4, 8000), (5, 16_000), (6, 32_000), (7, 60_000), (8, 60_000), (1000, 60_000)],
)
def test_the_wait_doubles_up_to_a_cap(tries: int, wait_ms: int) -> None:
    """1, 2, 4 … seconds, never more than a minute."""
    assert wait_ms == backoff_ms(policy(), tries, 0)


@pytest.mark.parametrize(
    ("rules", "tries", "jitter_ppm", "wait_ms"),
    [
        pytest.param({}, 1, 200_000, 1200, id="up"),
        pytest.param({}, 1, -200_000, 800, id="down"),
        pytest.param({}, 7, 200_000, 72_000, id="on top of the cap"),
        pytest.param({}, 7, -200_000, 48_000, id="below the cap"),
        pytest.param({}, 1, 1, 1000, id="a part of a millisecond up is dropped"),
        pytest.param({}, 1, -1, 999, id="a part of a millisecond down is dropped"),
        pytest.param({"backoff_multiplier_ppm": 1_500_000}, 3, 0, 2250, id="another multiplier"),
        pytest.param(
            {"backoff_multiplier_ppm": 1_333_333, "backoff_initial_ms": 10}, 3, 0, 17, id="rounded once, down"
        ),
        pytest.param({"backoff_multiplier_ppm": PPM}, 1000, 0, 1000, id="constant"),
        pytest.param({"backoff_initial_ms": 0}, 5, 200_000, 0, id="none"),
        pytest.param({"backoff_max_ms": 500}, 1, 0, 500, id="a cap below the first wait"),
        pytest.param({"jitter_ppm": PPM}, 2, -PPM, 0, id="full jitter down"),
    ],
)
def test_the_wait_is_integer_arithmetic(rules: dict[str, int], tries: int, jitter_ppm: int, wait_ms: int) -> None:
    """Grown, capped, then jittered; rounded down."""
    assert wait_ms == backoff_ms(policy(**rules), tries, jitter_ppm)


def test_a_retry_holds_its_deadline() -> None:
    """The instant has the wait and the jitter in it; the draw and the clock stand in the inputs."""
    retry = History().start().fail("timeout", jitter_ppm=150_000).events[-1]
    assert isinstance(retry, e.RetryScheduled)
    assert (2, "generate", 1, "flash", 1150, START_MS + 1150) == (
        retry.next_attempt,
        retry.purpose,
        retry.step,
        retry.tier,
        retry.wait_ms,
        retry.not_before_ms,
    )
    assert (START_MS, 150_000, 1, (), ()) == (
        retry.inputs.decided_at_ms,
        retry.inputs.jitter_ppm,
        retry.inputs.decider,
        retry.inputs.brakes,
        retry.inputs.budgets,
    )
    assert Answered(event="attempt.failed", attempt=1, error_type="timeout") == retry.inputs.outcome
    assert retry.policy_hash == retry.inputs.policy_hash


@pytest.mark.parametrize(
    ("retry_after_ms", "then"),
    [
        pytest.param(None, f"retry 2 on flash in 1000: rate_limited, {RETRY}", id="none"),
        pytest.param(0, f"retry 2 on flash in 1000: rate_limited, {RETRY}", id="now"),
        pytest.param(999, f"retry 2 on flash in 1000: rate_limited, {RETRY}", id="shorter"),
        pytest.param(7000, f"retry 2 on flash in 7000: rate_limited, {RETRY}", id="longer"),
        pytest.param(90_000, f"retry 2 on flash in 90000: rate_limited, {RETRY}", id="longer than the backoff's cap"),
        pytest.param(300_000, f"retry 2 on flash in 300000: rate_limited, {RETRY}", id="as long as allowed"),
        pytest.param(300_001, "fallback flash to haiku: rate_limited, retry_after_too_long", id="too long"),
    ],
)
def test_the_longer_of_backoff_and_retry_after_wins(retry_after_ms: int | None, then: str) -> None:
    """A retry-after that is longer than allowed ends the step."""
    assert then == told(History().start().fail("rate_limited", retry_after_ms=retry_after_ms).events)[-1]


def test_flash_falls_back_to_haiku_once() -> None:
    """Three tries on flash, one on haiku, and no retry there."""
    history = History()
    for _ in range(4):
        history.start().fail("overloaded")
    assert [
        "route: caller",
        "1 started: generate on flash",
        "1 failed: overloaded",
        f"retry 2 on flash in 1000: overloaded, {RETRY}",
        "2 started: generate on flash",
        "2 failed: overloaded",
        f"retry 3 on flash in 2000: overloaded, {RETRY}",
        "3 started: generate on flash",
        "3 failed: overloaded",
        "fallback flash to haiku: overloaded, tries_spent",
        "4 started: generate on haiku",
        "4 failed: overloaded",
        "exhausted after 4, overloaded: overloaded, tries_spent",
    ] == told(history.events)


def test_fails_twice_then_succeeds() -> None:
    """The answer is the third attempt's, and the task is the tier's that answered."""
    end = History().start().fail().start().fail().start().succeed().events[-1]
    assert isinstance(end, e.TaskSucceeded)
    assert ("flash", 3, None, "answered") == (end.tier, end.attempt, end.accepted, end.reason)


def test_the_fallback_answers() -> None:
    """The task is the tier's that answered."""
    end = History().start().fail("client_missing").start().succeed().events[-1]
    assert isinstance(end, e.TaskSucceeded)
    assert ("haiku", 2) == (end.tier, end.attempt)


@pytest.mark.parametrize(
    ("error", "known", "asked", "then"),
    [
        pytest.param(
            "overloaded",
            {"retryable": False},
            request(),
            "fallback flash to haiku: overloaded, provider_said_no",
            id="the provider said no, fallback",
        ),
        pytest.param(
            "overloaded",
            {"retryable": False},
            alone(),
            "fail_fast after 1, overloaded: overloaded, provider_said_no",
            id="the provider said no, end",
        ),
        pytest.param(
            "rate_limited",
            {"retry_after_ms": 900_000},
            alone(),
            "exhausted after 1, rate_limited: rate_limited, retry_after_too_long",
            id="too long a wait, end",
        ),
        pytest.param(
            "timeout",
            {},
            request(attempts=1),
            "exhausted after 1, timeout: timeout, attempts_spent",
            id="no attempt left for a retry",
        ),
        pytest.param(
            "billing",
            {},
            request(attempts=1),
            "exhausted after 1, billing: billing, attempts_spent",
            id="no attempt left for the fallback",
        ),
        pytest.param(
            "invalid_request",
            {"retryable": True},
            request(),
            f"fail_fast after 1, invalid_request: invalid_request, {END}",
            id="an error that ends is not retried whatever the provider says",
        ),
    ],
)
def test_a_failure_has_its_consequence(
    error: ErrorType, known: dict[str, Any], asked: e.TaskRequest, then: str
) -> None:
    """What the provider said, and what is left, decide together with the error."""
    assert then == told(History(asked).start().fail(error, **known).events)[-1]


@pytest.mark.parametrize(
    ("errors", "then"),
    [
        pytest.param(["other"], f"retry 2 on opus in 1000: other, {ONCE}", id="once"),
        pytest.param(["other", "other"], "exhausted after 2, other: other, second_chance_spent", id="twice"),
        pytest.param(
            ["other", "timeout", "other"],
            "exhausted after 3, other: other, second_chance_spent",
            id="twice with another error between",
        ),
        pytest.param(
            ["other", "timeout"], f"retry 3 on opus in 2000: timeout, {RETRY}", id="the other errors keep their tries"
        ),
        pytest.param(
            ["timeout", "other"],
            f"retry 3 on opus in 2000: other, {ONCE}",
            id="the second chance is not the second try",
        ),
        pytest.param(["timeout", "timeout", "other"], "exhausted after 3, other: other, tries_spent", id="no try left"),
        pytest.param(
            ["interrupted", "other"], f"retry 3 on opus in 1000: other, {ONCE}", id="an interrupt spends no chance"
        ),
    ],
)
def test_a_second_chance(errors: list[ErrorType], then: str) -> None:
    """An error worth one more try gets one on its step, within the step's tries."""
    history = History(alone())
    for error in errors:
        history.start().fail(error)
    assert then == told(history.events)[-1]


def test_a_fallback_has_its_own_second_chance() -> None:
    """What was spent on one step is not spent on the next."""
    history = History(request(route=(step("flash", 3), step("haiku", 2))))
    for _ in range(3):
        history.start().fail("other")
    assert [
        "fallback flash to haiku: other, second_chance_spent",
        "3 started: generate on haiku",
        "3 failed: other",
        f"retry 4 on haiku in 1000: other, {ONCE}",
    ] == told(history.events[-4:])


def test_an_orphan_spends_its_number_not_a_try() -> None:
    """A step of one try is still tried after a worker died."""
    history = History(request(route=(step("opus", 1),))).start().orphan().start(OTHER).fail()
    assert [
        "1 orphaned",
        "retry 2 on opus in 0: orphaned, on_unknown_retry",
        "2 started: generate on opus",
        "2 failed: overloaded",
        "exhausted after 2, overloaded: overloaded, tries_spent",
    ] == told(history.events[2:])


@pytest.mark.parametrize(
    ("on_unknown", "then"),
    [
        pytest.param("retry", "retry 2 on flash in 0: orphaned, on_unknown_retry", id="retry"),
        pytest.param("hold", "hold: orphaned, on_unknown_hold", id="hold"),
        pytest.param("fail", "fail_fast after 1, worker_died: worker_died, on_unknown_fail", id="fail"),
    ],
)
def test_what_follows_an_orphan_is_the_policys(on_unknown: str, then: str) -> None:
    """After a crash: retry, hold or fail."""
    assert then == told(History(request(policy=policy(on_unknown=on_unknown))).start().orphan().events)[-1]


@pytest.mark.parametrize("on_unknown", ["retry", "hold", "fail"])
def test_an_orphan_may_be_the_last_attempt(on_unknown: str) -> None:
    """Nothing is scheduled, and nothing held, that could never start."""
    history = History(request(attempts=1, policy=policy(on_unknown=on_unknown))).start().orphan()
    rule = "on_unknown_fail" if on_unknown == "fail" else "attempts_spent"
    end = history.events[-1]
    assert isinstance(end, e.TaskFailed)
    assert ("worker_died", rule) == (end.error_type, end.rule)


@pytest.mark.parametrize("on_unknown", ["retry", "hold"])
def test_orphans_in_a_row_have_a_limit(on_unknown: str) -> None:
    """One more than max_orphans, and the task fails; letting it go on by hand counts none anew."""
    history = History(request(policy=policy(max_orphans=2, on_unknown=on_unknown)))
    for _ in range(3):
        history.start().orphan()
        history.do(c.Release(history.seen()))
    assert "fail_fast after 3, worker_died: worker_died, orphans_in_a_row" == told(history.events)[-1]


@pytest.mark.parametrize(
    ("between", "orphans"),
    [
        pytest.param(lambda history: history.start().fail("timeout"), 1, id="a failure"),
        pytest.param(lambda history: history.start().fail("interrupted"), 3, id="an interrupt"),
        pytest.param(lambda history: history.settle(2, outcome="failed", response_digest=None), 1, id="a late outcome"),
        pytest.param(
            lambda history: history.settle(2, outcome="failed", response_digest=None, error_type="interrupted"),
            3,
            id="a late interrupt",
        ),
        pytest.param(
            lambda history: history.settle(2, outcome="failed", response_digest=None, via="reconciled"),
            3,
            id="a reconciled account",
        ),
    ],
)
def test_what_starts_the_count_of_orphans_anew(between: Callable[[History], History], orphans: int) -> None:
    """Only a recorded outcome does: a worker that told the end was not killed by the prompt."""
    history = History().start().orphan().start().orphan()
    assert orphans == between(history).start().orphan().task.orphans


def test_an_answer_starts_the_count_of_orphans_anew() -> None:
    """The judge's calls go on from there."""
    assert 1 == History(judged()).start().orphan().start().succeed().start().orphan().task.orphans


def test_an_interrupt_is_no_try() -> None:
    """It spends its number, leaves the task to be resumed at once, and counts neither as a try nor as an orphan."""
    history = History(request(route=(step("opus", 1),))).start().fail("interrupted", retryable=False)
    assert ["1 failed: interrupted", "retry 2 on opus in 0: interrupted, interrupted"] == told(history.events[2:])
    assert (1, 0, 0) == (history.task.attempts, history.task.tries, history.task.orphans)


def test_interrupts_have_a_limit() -> None:
    """They spend the task's attempts."""
    history = History(request(attempts=2)).start().fail("interrupted").start().fail("interrupted")
    assert "exhausted after 2, interrupted: interrupted, attempts_spent" == told(history.events)[-1]


@pytest.mark.parametrize(
    ("now_ms", "due"),
    [
        pytest.param(START_MS + 999, False, id="early"),
        pytest.param(START_MS + 1000, True, id="on time"),
        pytest.param(START_MS + 10_000, True, id="late"),
        pytest.param(START_MS - 60_000, False, id="a clock a minute back"),
        pytest.param(START_MS - 60_001, True, id="a clock set back further"),
    ],
)
def test_a_wait_is_kept(now_ms: int, due: bool) -> None:  # noqa: FBT001 - a column of the table
    """An attempt starts when it is due; a clock that was set back does not park its task."""
    history = History().start().fail()
    command = c.Start(started(2), now_ms)
    if due:
        assert (command.started,) == history.do(command)
    else:
        assert "not_due" == refused(history, command)


@pytest.mark.parametrize(
    ("given", "command", "why"),
    [
        pytest.param(History().start(), c.Start(started(2), START_MS), "running_elsewhere", id="one is in flight"),
        pytest.param(History(), c.Start(started(2), START_MS), "off_route", id="a number left out"),
        pytest.param(History(), c.Start(started(1, step("pro")), START_MS), "off_route", id="another tier"),
        pytest.param(
            History(), c.Start(started(1, step("flash", model="x")), START_MS), "off_route", id="another model"
        ),
        pytest.param(
            History(), c.Start(started(1, step("flash", provider="x")), START_MS), "off_route", id="another provider"
        ),
        pytest.param(History(), c.Start(started(1, step=2), START_MS), "off_route", id="another step"),
        pytest.param(History(), c.Start(started(1, purpose="validate"), START_MS), "off_route", id="another purpose"),
        pytest.param(
            History(request(policy=policy(on_unknown="hold"))).start().orphan(),
            c.Start(started(2), START_MS),
            "held",
            id="a held task",
        ),
        pytest.param(History().start().succeed(), c.Start(started(2), START_MS), "ended", id="a finished task"),
        pytest.param(
            History().start().fail(),
            c.Start(started(2, worker=OTHER), START_MS + 1000),
            "fence_lost",
            id="no new fence",
        ),
        pytest.param(
            History().start().fail().start(OTHER).fail(),
            c.Start(started(3, worker=OTHER, fence=1), START_MS + 9000),
            "fence_lost",
            id="an old fence",
        ),
        pytest.param(History().start(), c.Record(succeeded(1), 2, seen()), "fence_lost", id="a finish under no fence"),
        pytest.param(History().start(), c.Record(succeeded(2), 1, seen()), "off_route", id="an end without a start"),
        pytest.param(History(), c.Orphan(orphaned(1), seen()), "off_route", id="an orphan without a start"),
        pytest.param(History(), c.Submit(request(max_tokens=1), seen()), "exists", id="another task's stream"),
        pytest.param(
            History().start(),
            c.Record(failed(1), 1, c.Seen(START_MS, decider=2)),
            "bad_inputs",
            id="rules that are not known",
        ),
        pytest.param(
            History().start(), c.Record(failed(1), 1, seen(jitter_ppm=200_001)), "bad_inputs", id="too wide a draw"
        ),
    ],
)
def test_what_a_state_does_not_allow(given: History, command: c.Command, why: str) -> None:
    """A command that does not fit is refused and says why."""
    assert why == refused(given, command)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c.Start(started(), START_MS), id="start"),
        pytest.param(c.Record(succeeded(), 1, seen()), id="record"),
        pytest.param(c.Orphan(orphaned(), seen()), id="orphan"),
        pytest.param(c.Settle(settled(), seen()), id="settle"),
        pytest.param(c.Release(seen()), id="release"),
        pytest.param(c.Cancel(seen()), id="cancel"),
        pytest.param(c.Brake(seen()), id="brake"),
    ],
)
def test_a_task_begins_with_its_submission(command: c.Command) -> None:
    """Nothing else can be asked of an empty stream."""
    with pytest.raises(CommandRefused) as caught:
        decide(INITIAL, command)
    assert "unknown_task" == caught.value.why


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        pytest.param(request(tier="pro"), "off_route", id="a route that begins elsewhere"),
        pytest.param(request(route=(), tier="flash", judge=()), "off_route", id="no route"),
        pytest.param(validation(judge=(), tier="sonnet"), "off_route", id="no judge"),
        pytest.param(request(labels={"subject": "somebody"}), "bad_inputs", id="a label that must be erasable"),
    ],
)
def test_what_cannot_be_submitted(asked: e.TaskRequest, why: str) -> None:
    """A task needs a step of the tier that was asked for."""
    with pytest.raises(CommandRefused) as caught:
        decide(INITIAL, c.Submit(asked, seen()))
    assert why == caught.value.why


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        pytest.param(ByRule(kind="rule", rule="long prompts"), "rule", id="rule"),
        pytest.param(ByScore(kind="score", scorer="length", score_ppm=420_000), "score", id="score"),
    ],
)
def test_a_route_says_who_chose_it(why: ByRule | ByScore, reason: str) -> None:
    """The caller, a rule or a score, with what it was."""
    submitted = History(request(why=why)).events[0]
    assert isinstance(submitted, e.TaskSubmitted)
    assert ("route", reason, why) == (submitted.decision, submitted.reason, submitted.why)


def test_new_decisions_are_made_by_the_newest_rules() -> None:
    """Whoever looks at the clock decides by today's version."""
    assert DECIDER == max(DECIDERS) == seen().decider


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda: policy(backoff_max_ms=10**11 + 1), id="a wait beyond three years"),
        pytest.param(lambda: policy(retry_after_max_ms=10**11 + 1), id="a retry-after beyond three years"),
        pytest.param(lambda: policy(backoff_multiplier_ppm=PPM - 1), id="waits that shrink"),
        pytest.param(lambda: policy(backoff_multiplier_ppm=1001 * PPM), id="waits that explode"),
        pytest.param(lambda: policy(jitter_ppm=PPM + 1), id="a negative wait"),
        pytest.param(lambda: step(tries=0), id="a step without a try"),
        pytest.param(lambda: step(tries=1001), id="too many tries"),
        pytest.param(lambda: step(timeout_ms=0), id="no time"),
        pytest.param(lambda: request(attempts=0), id="no attempt"),
        pytest.param(lambda: request(attempts=100_001), id="too many attempts"),
        pytest.param(lambda: request(tier="mini"), id="no tier of ours"),
    ],
)
def test_rules_have_limits(wrong: Callable[[], object]) -> None:
    """What could never be decided by, or would take for ever, cannot be asked for."""
    with pytest.raises(ValueError, match="validation error"):
        wrong()


def test_the_longest_wait_can_be_decided() -> None:
    """At its limits a policy still gives an instant."""
    rules = policy(backoff_initial_ms=10**11, backoff_max_ms=10**11, backoff_multiplier_ppm=1000 * PPM, jitter_ppm=PPM)
    history = History(request(policy=rules, route=(step("flash", 1000),), attempts=1000)).start()
    history.fail(jitter_ppm=PPM)
    assert isinstance(history.state, Waiting)
    assert START_MS + 2 * 10**11 == history.state.not_before_ms
    assert 10**11 == backoff_ms(rules, 1000, 0)


def test_what_was_seen_is_recorded() -> None:
    """Brakes and budgets stand in the inputs as they were seen."""
    brakes = (BrakeSeen(provider="simulated", model="flash", until_ms=5, position=9),)
    budgets = (BudgetSeen(cap="day", limit=5, settled=1, unknown=None, reserved=0, asked=None, position=9),)
    history = History().start()
    events = history.do(c.Record(failed(), 1, c.Seen(START_MS, brakes=brakes, budgets=budgets)))
    assert isinstance(events[-1], e.RetryScheduled)
    assert (brakes, budgets) == (events[-1].inputs.brakes, events[-1].inputs.budgets)


def test_a_held_task_is_released() -> None:
    """A person lets it go, and the next attempt may start."""
    history = History(request(policy=policy(on_unknown="hold"))).start().orphan()
    assert isinstance(history.state, Held)
    assert ["release: person, released"] == told(history.do(c.Release(history.seen())))
    assert isinstance(history.state, Ready)
    assert isinstance(history.start(OTHER).state, Running)


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        pytest.param(History(), [], id="ready"),
        pytest.param(History().start(), ["1 orphaned"], id="in flight"),
        pytest.param(History().start().fail(), [], id="waiting"),
        pytest.param(History(request(policy=policy(on_unknown="hold"))).start().orphan(), [], id="held"),
        pytest.param(
            History(judged(route=(step("haiku", 2),))).start().orphan().start().settle(1),
            ["2 orphaned"],
            id="in flight with a late answer",
        ),
    ],
)
def test_a_task_is_called_off(given: History, facts: list[str]) -> None:
    """An attempt in flight is given up first, with its upper bound; then the task has ended."""
    assert [*facts, "cancel: requested, cancelled"] == told(given.do(c.Cancel(given.seen())))
    assert isinstance(given.state, Ended)
    assert () == given.do(c.Cancel(given.seen()))
    cancelled = given.events[-1]
    assert isinstance(cancelled, e.TaskCancelled)
    assert (cancelled,) == decide(History.of(given.events[:-1]).state, c.Cancel(seen_in(cancelled.inputs)))


def test_a_call_that_is_cancelled_in_flight_keeps_its_bound() -> None:
    """Its money is not forgotten, and its late end is still recorded."""
    history = History()
    history.do(c.Start(started(upper_bound_nano_usd=77), START_MS))
    given_up = history.do(c.Cancel(history.seen()))[0]
    assert orphaned(cause="cancelled", exposure_nano_usd=77) == given_up
    assert ["1 settled late: succeeded"] == told(history.do(c.Record(succeeded(), 1, history.seen())))
    assert isinstance(history.state, Ended)


@pytest.mark.parametrize(
    ("given", "then"),
    [
        pytest.param(
            History().start().orphan(), ["succeed with 1, accepted None: answered, answered"], id="used while waiting"
        ),
        pytest.param(
            History(request(policy=policy(on_unknown="hold"))).start().orphan(),
            ["succeed with 1, accepted None: answered, answered"],
            id="used while held",
        ),
        pytest.param(
            History().start().orphan().start().fail("client_missing"),
            ["succeed with 1, accepted None: answered, answered"],
            id="used after a fallback was chosen",
        ),
        pytest.param(History(judged()).start().orphan(), [], id="goes to the judge"),
        pytest.param(History().start().orphan().start(OTHER), [], id="waits for the attempt that runs"),
        pytest.param(History().start().orphan().start().succeed(), [], id="not after the end"),
        pytest.param(History(judged()).start().orphan().start().succeed(), [], id="not before the judge"),
    ],
)
def test_a_late_answer(given: History, then: list[str]) -> None:
    """A worker that was taken for dead comes back with its answer; used while the task still waits for one."""
    late = c.Record(succeeded(1), 1, given.seen())
    assert ["1 settled late: succeeded", *then] == told(given.do(late))
    assert () == given.do(late)


@pytest.mark.parametrize(
    ("given", "then"),
    [
        pytest.param(
            lambda history: history.fail("timeout"),
            ["2 failed: timeout", "succeed with 1, accepted None: answered, answered"],
            id="a failure",
        ),
        pytest.param(
            lambda history: history.fail("invalid_request"),
            ["2 failed: invalid_request", "succeed with 1, accepted None: answered, answered"],
            id="a failure that ends the task",
        ),
        pytest.param(
            lambda history: history.fail("interrupted"),
            ["2 failed: interrupted", "succeed with 1, accepted None: answered, answered"],
            id="an interrupt",
        ),
        pytest.param(
            lambda history: history.orphan(),
            ["2 orphaned", "succeed with 1, accepted None: answered, answered"],
            id="another orphan",
        ),
        pytest.param(
            lambda history: history.succeed(),
            ["2 succeeded", "succeed with 2, accepted None: answered, answered"],
            id="an answer of its own",
        ),
    ],
)
def test_a_late_answer_that_came_during_the_next_attempt(given: Callable[[History], History], then: list[str]) -> None:
    """It is used unless the attempt that runs answers too."""
    history = History().start().orphan().start(OTHER).settle(1)
    assert then == told(given(history).events[-2:])


def test_a_late_answer_does_not_bring_a_task_down_again() -> None:
    """A verdict sent the task up; what comes from below is money, not an answer."""
    history = History(judged()).start().orphan().start().succeed().start().judge(passed=False, escalate=True)
    assert ["1 settled late: succeeded"] == told(history.do(c.Record(succeeded(1), 1, history.seen())))
    assert isinstance(history.state, Ready)
    assert ("sonnet", 2) == (history.task.at.tier, history.task.step)


def test_what_was_recorded_as_failed_stays_failed() -> None:
    """A reconciled success of an attempt that timed out is money; only an orphan's end was open."""
    history = History().start().fail("timeout").settle(1, via="reconciled", cost_nano_usd=5)
    assert ["1 settled reconciled: succeeded"] == told(history.events[4:])
    assert isinstance(history.state, Waiting)


def test_a_late_failure_is_money_only() -> None:
    """The orphan's retry stays as it was scheduled."""
    history = History().start().orphan()
    late = c.Record(failed(1, "timeout"), 1, history.seen())
    assert ["1 settled late: failed"] == told(history.do(late))
    assert () == history.do(late)
    assert isinstance(history.state, Waiting)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(History().start().orphan(), id="an orphan"),
        pytest.param(History().start().orphan().settle(1), id="an orphan settled without a cost"),
        pytest.param(History().start().fail("timeout"), id="a failure of unknown cost"),
        pytest.param(History().start().succeed(), id="an answer of unknown cost"),
    ],
)
def test_an_account_is_reconciled_once(given: History) -> None:
    """A later invoice closes what was unknown; without a text it is no answer; said again it is nothing."""
    before = type(given.state)
    bill = c.Settle(settled(via="reconciled", response_digest=None, cost_nano_usd=5), given.seen())
    assert ["1 settled reconciled: succeeded"] == told(given.do(bill))
    assert () == given.do(bill)
    assert before is type(given.state)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(History().start(), id="running"),
        pytest.param(History().start().fail("timeout", cost_nano_usd=0), id="known to be free"),
        pytest.param(History().start().orphan().settle(1, cost_nano_usd=3), id="settled with its cost"),
    ],
)
def test_a_closed_account_takes_nothing_more(given: History) -> None:
    """What is known is not told twice."""
    assert () == given.do(c.Settle(settled(cost_nano_usd=5), given.seen()))
    assert () == given.do(c.Settle(settled(via="reconciled", cost_nano_usd=5), given.seen()))


@pytest.mark.parametrize(
    ("said", "then"),
    [
        pytest.param(
            {"passed": True}, ["validation.passed", "succeed with 1, accepted True: judged, judged"], id="passed"
        ),
        pytest.param(
            {"passed": False, "escalate": True},
            ["validation.failed", "succeed with 1, accepted False: judged, judged"],
            id="failed",
        ),
    ],
)
def test_a_validation_ends_with_its_verdict(said: dict[str, bool], then: list[str]) -> None:
    """A verdict either way is the task's success."""
    assert ["1 succeeded", *then] == told(History(validation()).start().judge(**said).events[2:])


def test_a_validation_of_another_task_names_it() -> None:
    """What is judged stands in the verdict, also in one that could not be had."""
    history = History(validation(judged_task_id="t", judged_attempt=4)).start().fail("billing")
    assert isinstance(history.events[3], e.ValidationErrored)
    assert ("t", 4, 1) == (
        history.events[3].judged_task_id,
        history.events[3].judged_attempt,
        history.events[3].judge_attempt,
    )


def test_a_judge_gets_one_more_try_at_a_verdict() -> None:
    """Two texts that are no verdict end the judgement."""
    history = History(validation()).start().fail("output_invalid").start().fail("output_invalid")
    assert [
        f"retry 2 on sonnet in 1000: output_invalid, {ONCE}",
        "2 started: validate on sonnet",
        "2 failed: output_invalid",
        "validation.errored: output_invalid",
        "exhausted after 2, output_invalid: output_invalid, no_verdict",
    ] == told(history.events[3:])


@pytest.mark.parametrize(
    ("given", "outcome", "said"),
    [
        pytest.param(History(judged()).start(), succeeded(1), verdict(passed=True, judge=1), id="nobody was asked"),
        pytest.param(History().start(), failed(1), verdict(passed=True, judge=1), id="a failure"),
        pytest.param(History(validation()).start(), succeeded(1), None, id="an answer of the judge's without one"),
        pytest.param(
            History(validation()).start(), failed(1), verdict(passed=True, judge=1), id="a failure of the judge's"
        ),
        pytest.param(
            History(judged()).start().succeed().start(),
            succeeded(2),
            verdict(passed=True, judged=2, judge=2),
            id="on another attempt",
        ),
        pytest.param(
            History(judged()).start().succeed().start(),
            succeeded(2),
            verdict(passed=True, judged=1, judge=1),
            id="of another attempt",
        ),
        pytest.param(
            History(validation()).start(),
            succeeded(1),
            verdict(passed=True, judge=1, judged_task_id="t"),
            id="on another task",
        ),
    ],
)
def test_a_verdict_belongs_to_a_judges_answer(
    given: History, outcome: e.AttemptSucceeded | e.AttemptFailed, said: e.ValidationPassed | None
) -> None:
    """No task is accepted by a verdict that no judge gave on it."""
    assert "bad_inputs" == refused(given, c.Record(outcome, 1, given.seen(), said))


def test_a_task_climbs_while_the_judge_says_so() -> None:
    """Each rung is made once and judged; a verdict that passes ends it."""
    history = History(judged()).start().succeed().start().judge(passed=False, escalate=True)
    history.start().succeed().start().judge(passed=False, escalate=True)
    history.start().succeed().start().judge(passed=True)
    assert [
        "1 started: generate on haiku",
        "1 succeeded",
        "2 started: validate on sonnet",
        "2 succeeded",
        "validation.failed",
        "escalate haiku to sonnet: validation.failed, next_rung",
        "3 started: generate on sonnet",
        "3 succeeded",
        "4 started: validate on sonnet",
        "4 succeeded",
        "validation.failed",
        "escalate sonnet to opus: validation.failed, next_rung",
        "5 started: generate on opus",
        "5 succeeded",
        "6 started: validate on sonnet",
        "6 succeeded",
        "validation.passed",
        "succeed with 5, accepted True: judged, passed",
    ] == told(history.events[1:])
    escalation = history.events[6]
    assert isinstance(escalation, e.EscalationSelected)
    assert (1, 2, 1, 2) == (
        escalation.from_step,
        escalation.to_step,
        escalation.judged_attempt,
        escalation.judge_attempt,
    )


@pytest.mark.parametrize(
    ("asked", "said", "then"),
    [
        pytest.param(
            judged(),
            {"passed": False},
            "succeed with 1, accepted False: judged, not_escalated",
            id="wanting, but not to be escalated",
        ),
        pytest.param(
            judged(ladder=()),
            {"passed": False, "escalate": True},
            "succeed with 1, accepted False: judged, ladder_ended",
            id="no ladder",
        ),
        pytest.param(
            judged(route=(step("opus"),)),
            {"passed": False, "escalate": True},
            "succeed with 1, accepted False: judged, ladder_ended",
            id="the dearest tier already",
        ),
        pytest.param(
            judged(route=(step("sonnet"),)),
            {"passed": False, "escalate": True},
            "escalate sonnet to opus: validation.failed, next_rung",
            id="past its own tier",
        ),
        pytest.param(
            judged(attempts=2),
            {"passed": False, "escalate": True},
            "succeed with 1, accepted False: judged, attempts_spent",
            id="no attempt left to climb with",
        ),
    ],
)
def test_where_a_verdict_leads(asked: e.TaskRequest, said: dict[str, bool], then: str) -> None:
    """Up where there is a rung and an attempt; an answer that is not accepted is an answer all the same."""
    assert then == told(History(asked).start().succeed().start().judge(**said).events)[-1]


def test_a_ladder_is_climbed_by_steps_not_by_names() -> None:
    """A tier that stands on it twice does not lead down."""
    history = History(judged(ladder=(step("opus", 1), step("opus", 1, model="larger"))))
    for _ in range(3):
        history.start().succeed().start().judge(passed=False, escalate=True)
    moves = [(event.from_step, event.to_step) for event in history.events if isinstance(event, e.EscalationSelected)]
    assert [(1, 2), (2, 3)] == moves
    assert "succeed with 5, accepted False: judged, ladder_ended" == told(history.events)[-1]


def test_an_errored_judgement_does_not_climb() -> None:
    """No verdict, no escalation: the answer stands, not accepted, and says why."""
    history = History(judged()).start().succeed().start().fail("authentication")
    assert [
        "2 failed: authentication",
        "validation.errored: authentication",
        "succeed with 1, accepted False: authentication, no_verdict",
    ] == told(history.events[-3:])


def test_a_rung_that_fails_leaves_the_earlier_answer() -> None:
    """The ladder has no fallback; what was there before is the task's answer, not accepted."""
    history = History(judged()).start().succeed().start().judge(passed=False, escalate=True).start().fail()
    assert "succeed with 1, accepted False: overloaded, tries_spent" == told(history.events)[-1]
    assert isinstance(history.events[-1], e.TaskSucceeded)
    assert "haiku" == history.events[-1].tier


def test_an_answer_that_no_attempt_is_left_to_judge() -> None:
    """It is not accepted, and the limit holds."""
    history = History(judged(attempts=1)).start().succeed()
    assert "succeed with 1, accepted False: answered, attempts_spent" == told(history.events)[-1]


def test_a_judge_may_have_a_fallback() -> None:
    """The judge's list is walked like a route, and from its beginning for every answer."""
    history = History(judged(judge=(step("sonnet", 1), step("opus", 1)))).start().succeed().start().fail("billing")
    assert f"fallback sonnet to opus: billing, {FALLBACK}" == told(history.events)[-1]
    history.start().judge(passed=False, escalate=True).start().succeed()
    assert ("validate", 1, "sonnet") == (history.task.purpose, history.task.step, history.task.at.tier)


def test_a_late_verdict_is_asked_for_again() -> None:
    """An orphaned judge's late call is money; its verdict is not used."""
    history = History(judged()).start().succeed().start().orphan()
    said = verdict(passed=True, judged=1, judge=2)
    assert ["2 settled late: succeeded"] == told(history.do(c.Record(succeeded(2), 1, history.seen(), said)))
    assert isinstance(history.state, Waiting)


def test_a_start_may_skip_fences() -> None:
    """A claim that led to no start has used one up."""
    history = History().start().fail()
    history.do(c.Start(started(2, worker=OTHER, fence=7), history.now_ms + 1000))
    assert 7 == history.task.fence
    assert "fence_lost" == refused(history, c.Record(succeeded(2), 1, history.seen()))


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"to_step": 9}, id="off the route"),
        pytest.param({"to_step": 2, "purpose": "validate"}, id="to a judge where there is none"),
    ],
)
def test_a_move_off_the_map_leads_nowhere(odd: dict[str, Any]) -> None:
    """A damaged history is folded and can be asked about; nothing breaks over it."""
    moved = History().start().fail("billing").events[-1]
    history = History().add(moved.model_copy(update=odd))
    assert isinstance(history.state, Ready)
    assert 1 == history.task.step
    assert isinstance(history.start().state, Running)


def test_a_task_without_steps_is_refused_not_broken() -> None:
    """A submission that could not have been made is history all the same."""
    history = History.of([History().events[0].model_copy(update={"route": (), "judge": ()})])
    assert "off_route" == refused(history, c.Cancel(history.seen()))


def test_no_start_passes_the_limit_whatever_stands_before_it() -> None:
    """Also where a damaged history says that the task may go on."""
    held = History(request(policy=policy(on_unknown="hold"))).start().orphan()
    released = held.do(c.Release(held.seen()))
    history = History(request(attempts=1)).add(started(), orphaned(), *released)
    assert isinstance(history.state, Ready)
    assert "off_route" == refused(history, c.Start(started(2), history.now_ms))


def test_an_answered_judge_without_a_verdict_stays_undecided() -> None:
    """Such a history was never written by us; asking it to choose gives nothing."""
    history = History(validation()).start().add(succeeded(1))
    assert isinstance(history.state, Undecided)
    assert () == history.do(c.Choose(history.seen()))
    assert DIGEST == history.task.submitted.output_digest


def test_a_refused_budget_ends_the_task() -> None:
    """What a cap refused is no provider's failure: the end names the budget, and no attempt."""
    history = History()
    route = {name: getattr(history.events[0], name) for name in Decision.model_fields} | {"decision": "refused"}
    history.add(e.BudgetRefused(**route, cap="max_usd_per_day", step=1, tier="flash"))
    (end,) = history.do(c.Choose(history.seen()))
    assert isinstance(end, e.TaskFailed)
    assert ("fail_fast", "budget_refused", None) == (end.decision, end.error_type, end.attempt)
    assert end.inputs.outcome is not None
    assert ("budget.refused", None) == (end.inputs.outcome.event, end.inputs.outcome.attempt)


KEPT_OFF = "breaker_open, breaker_open"


@pytest.mark.parametrize(
    ("given", "then"),
    [
        pytest.param(History(), f"fallback flash to haiku: {KEPT_OFF}", id="there is a fallback"),
        pytest.param(History(alone()), f"retry 1 on opus in 5000: {KEPT_OFF}", id="there is none"),
        pytest.param(
            History().start().fail("billing"), f"retry 2 on haiku in 5000: {KEPT_OFF}", id="the last step of a route"
        ),
        pytest.param(
            History(judged()).start().succeed(), f"retry 2 on sonnet in 5000: {KEPT_OFF}", id="a judge stands alone"
        ),
        pytest.param(
            History(judged(judge=(step("sonnet", 1), step("opus", 1)))).start().succeed(),
            f"fallback sonnet to opus: {KEPT_OFF}",
            id="a judge with a fallback",
        ),
        pytest.param(
            History(judged()).start().succeed().start().judge(passed=False, escalate=True),
            f"retry 3 on sonnet in 5000: {KEPT_OFF}",
            id="a rung has no fallback",
        ),
        pytest.param(
            History(judged()).start().succeed().start().judge(passed=False, escalate=True).start().succeed(),
            f"retry 4 on sonnet in 5000: {KEPT_OFF}",
            id="a judge who judged before, asked anew",
        ),
        pytest.param(History(validation()), f"retry 1 on sonnet in 5000: {KEPT_OFF}", id="a validation"),
    ],
)
def test_what_an_open_breaker_leads_to(given: History, then: str) -> None:
    """A task that has made no attempt on its step goes to the next one, else waits; the same sight changes no more."""
    seen_brakes = c.Seen(given.now_ms, brakes=(brake(given.task.at, given.now_ms + 5000),))
    attempts, before = given.task.attempts, given.state
    (decided,) = given.do(c.Brake(seen_brakes))
    assert [then] == told([decided])
    assert isinstance(decided, e.FallbackSelected | e.RetryScheduled)
    assert (None, seen_brakes.brakes) == (decided.inputs.outcome, decided.inputs.brakes)
    assert attempts == given.task.attempts
    assert () == given.do(c.Brake(seen_brakes))
    assert (decided,) == decide(before, c.Brake(seen_in(decided.inputs)))


def test_a_wait_for_a_breaker_ends_with_it() -> None:
    """The attempt may start at the instant that was seen, and then has all its tries."""
    history = History(alone()).brake()
    assert isinstance(history.state, Waiting)
    assert START_MS + 5000 == history.state.not_before_ms
    early = c.Start(started(1, step("opus", 3)), START_MS + 4999)
    assert "not_due" == refused(history, early)
    history.start().fail()
    assert f"retry 2 on opus in 1000: overloaded, {RETRY}" == told(history.events)[-1]


def test_a_breaker_that_opened_again_is_waited_for_again() -> None:
    """As long as nothing was tried; no number and no try is spent by it."""
    history = History(alone()).brake().brake(for_ms=10_000).brake(for_ms=20_000)
    waits = [event.wait_ms for event in history.events if isinstance(event, e.RetryScheduled)]
    assert ([5000, 10_000, 20_000], 0, 0) == (waits, history.task.attempts, history.task.tries)
    assert 1 == history.start().task.attempts


def test_a_wait_is_not_made_longer_before_it_is_over() -> None:
    """Who looks early changes nothing."""
    history = History(alone()).brake()
    assert () == history.do(c.Brake(c.Seen(START_MS + 4999, brakes=(brake(step("opus"), START_MS + 60_000),))))
    again = c.Seen(START_MS + 5000, brakes=(brake(step("opus"), START_MS + 60_000),))
    assert [f"retry 1 on opus in 55000: {KEPT_OFF}"] == told(history.do(c.Brake(again)))


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(History().start().fail(), id="it failed here once"),
        pytest.param(History().start().fail().start().fail(), id="it failed here twice"),
        pytest.param(History().start().orphan(), id="a worker died over it here"),
        pytest.param(History().start().fail("interrupted"), id="it was interrupted here"),
        pytest.param(History(judged()).start().succeed().start().fail(), id="the judge failed once"),
        pytest.param(History().start(), id="in flight"),
        pytest.param(History(request(policy=policy(on_unknown="hold"))).start().orphan(), id="held"),
        pytest.param(History().start().succeed(), id="finished"),
        pytest.param(History().start().fail("invalid_request"), id="failed"),
    ],
)
def test_a_task_that_has_begun_a_step_is_never_kept_off_it(given: History) -> None:
    """Its own retries wait for their backoff and their retry-after, and for nothing else."""
    now_ms = given.state.not_before_ms if isinstance(given.state, Waiting) else given.now_ms
    sight = brake(given.task.at, now_ms + 5000)
    assert () == given.do(c.Brake(c.Seen(now_ms, brakes=(sight,))))


def test_a_task_that_a_person_let_go_on_is_not_kept_off_its_step() -> None:
    """The orphan was an attempt on it."""
    history = History(request(policy=policy(on_unknown="hold"))).start().orphan()
    history.do(c.Release(history.seen()))
    assert (1, ()) == (history.task.made, history.do(c.Brake(c.Seen(START_MS, brakes=(brake(),)))))


@pytest.mark.parametrize(
    "sight",
    [
        pytest.param((), id="none"),
        pytest.param((brake(until_ms=START_MS),), id="one that is over"),
        pytest.param((brake(step("haiku")),), id="another model's"),
        pytest.param((brake(step("flash", provider="gemini")),), id="another provider's"),
    ],
)
def test_only_an_open_breaker_of_the_step_keeps_a_task_off_it(sight: tuple[BrakeSeen, ...]) -> None:
    """What was seen of others changes nothing."""
    assert () == History().do(c.Brake(c.Seen(START_MS, brakes=sight)))


@pytest.mark.parametrize(
    ("route", "brakes", "then"),
    [
        pytest.param(
            (step("flash"), step("haiku"), step("pro")),
            (brake(), brake(step("haiku"))),
            f"fallback flash to pro: {KEPT_OFF}",
            id="a fallback that is known to be braked too",
        ),
        pytest.param(
            (step("flash"), step("haiku", model="flash"), step("pro")),
            (brake(),),
            f"fallback flash to pro: {KEPT_OFF}",
            id="a fallback to the same model",
        ),
        pytest.param(
            (step("flash"), step("haiku", model="flash")),
            (brake(), brake(until_ms=START_MS + 9000)),
            f"retry 1 on flash in 9000: {KEPT_OFF}",
            id="all of them braked",
        ),
    ],
)
def test_a_fallback_leads_where_no_breaker_was_seen(
    route: tuple[Step, ...], brakes: tuple[BrakeSeen, ...], then: str
) -> None:
    """Else the same sight would move the task again."""
    history = History(request(route=route))
    command = c.Brake(c.Seen(START_MS, brakes=brakes))
    assert [then] == told(history.do(command))
    assert () == history.do(command)


def test_a_late_answer_ends_a_wait_for_a_breaker() -> None:
    """What was paid for is used."""
    history = History().start().orphan().start().fail("billing").brake()
    assert isinstance(history.state, Waiting)
    history.settle(1)
    assert "succeed with 1, accepted None: answered, answered" == told(history.events)[-1]


def test_a_task_that_waits_for_a_breaker_is_called_off() -> None:
    """As any other."""
    history = History(alone()).brake()
    assert ["cancel: requested, cancelled"] == told(history.do(c.Cancel(history.seen())))
    assert () == history.do(c.Brake(c.Seen(START_MS + 9000, brakes=(brake(step("opus"), START_MS + 10_000),))))


def test_a_clock_set_back_does_not_park_a_task_behind_a_breaker() -> None:
    """The wait counts as over, and what is seen then is decided by the clock of then."""
    history = History(alone()).brake()
    back_ms = START_MS - 60_001
    again = c.Brake(c.Seen(back_ms, brakes=(brake(step("opus"), back_ms + 100),)))
    assert [f"retry 1 on opus in 100: {KEPT_OFF}"] == told(history.do(again))
    assert () == history.do(again)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        pytest.param(History(), 0, id="new"),
        pytest.param(History().brake(), 0, id="kept off"),
        pytest.param(History().start(), 1, id="in flight"),
        pytest.param(History().start().orphan().start().fail("interrupted").start().fail(), 3, id="of every end"),
        pytest.param(History().start().fail("billing"), 0, id="moved on"),
        pytest.param(History().start().fail("billing").start(), 1, id="moved on, in flight"),
        pytest.param(History(judged()).start().succeed(), 0, id="on to the judge"),
        pytest.param(History(judged()).start().succeed().start().fail(), 1, id="the judge failed"),
        pytest.param(History(judged()).start().succeed().start().judge(passed=False, escalate=True), 0, id="climbed"),
    ],
)
def test_attempts_on_a_step_are_counted_from_its_beginning(given: History, made: int) -> None:
    """Whatever came of them."""
    assert made == given.task.made


@pytest.mark.parametrize(
    ("given", "owner"),
    [
        pytest.param(History(request(owner=WORKER)), WORKER, id="who submits and works on it"),
        pytest.param(History(), None, id="submitted for anybody"),
        pytest.param(History().start(), WORKER, id="who makes the attempt"),
        pytest.param(History(request(owner=WORKER)).start(OTHER).fail(), OTHER, id="who made the newest attempt"),
        pytest.param(History(request(owner=OTHER)).brake(), OTHER, id="a wait changes no owner"),
    ],
)
def test_whose_a_task_is(given: History, owner: str | None) -> None:
    """Its submitter's, if he works on it, then that of whoever tried it last."""
    assert owner == given.task.owner


def test_a_task_that_is_let_go_on_is_nobodys() -> None:
    """Any worker may take it."""
    history = History(request(owner=WORKER, policy=policy(on_unknown="hold"))).start().orphan()
    history.do(c.Release(history.seen()))
    assert [None, WORKER] == [history.task.owner, history.task.worker]
    assert OTHER == history.start(OTHER).task.owner
