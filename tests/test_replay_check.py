"""``replay --check``: a history derived again from its outcomes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson
import pytest
from hypothesis import given, settings

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Recorded
from ledger.parts import BudgetSeen
from ledger.replay.derivation import Difference, difference
from tests.histories import History, policy, request, step, validation
from tests.walks import Walk, histories, recorded

LAW = settings(max_examples=40, deadline=None, derandomize=True, database=None)


@LAW
@given(histories())
def test_every_history_is_derived_again_to_the_byte(walk: Walk) -> None:
    """What ``decide`` made once it makes again from the outcomes, the draws and what was seen."""
    assert difference(recorded(walk.events)) is None


@pytest.mark.slow
@settings(parent=LAW, max_examples=3000)
@given(histories(max_moves=40))
def test_long_histories_are_derived_again_to_the_byte(walk: Walk) -> None:
    """The same for long ones, and for many."""
    assert difference(recorded(walk.events)) is None


def judged() -> History:
    """Return a task that climbed once and was accepted."""
    asked = request(judge=(step("sonnet"),), ladder=(step("sonnet", 1), step("opus", 1)))
    history = History(asked).start().fail(jitter_ppm=7).start().succeed()
    return history.start().judge(passed=False, escalate=True).start().succeed().start().judge(passed=True)


def edited(stream: Sequence[Recorded], event_type: str, **fields: object) -> tuple[Recorded, ...]:
    """Change fields of the first event of a type."""
    place = next(at for at, each in enumerate(stream) if each.type == event_type)
    data = orjson.dumps(orjson.loads(stream[place].data) | fields, option=orjson.OPT_SORT_KEYS).decode()
    return (*stream[:place], stream[place]._replace(data=data), *stream[place + 1 :])


def without(stream: Sequence[Recorded], event_type: str) -> tuple[Recorded, ...]:
    """Drop every event of a type."""
    return tuple(each for each in stream if each.type != event_type)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        pytest.param(
            lambda s: edited(s, "retry.scheduled", wait_ms=1),
            Difference(4, "retry.scheduled", "retry.scheduled", (("wait_ms", 1, 1000),)),
            id="another wait",
        ),
        pytest.param(
            lambda s: without(s, "retry.scheduled"),
            Difference(5, "attempt.started", "retry.scheduled"),
            id="a decision is missing",
        ),
        pytest.param(
            lambda s: edited(s, "task.succeeded", accepted=False),
            Difference(16, "task.succeeded", "task.succeeded", (("accepted", False, True),)),
            id="another end",
        ),
        pytest.param(
            lambda s: s[:-1],
            Difference(16, None, "task.succeeded", why="the record ends where the rules go on"),
            id="no end",
        ),
        pytest.param(
            lambda s: edited(s, "attempt.started", tier="opus"),
            Difference(
                2,
                "attempt.started",
                None,
                why="the state calls for attempt (1, 'generate', 1, 'flash', 'simulated', 'flash'), the command has "
                "(1, 'generate', 1, 'opus', 'simulated', 'flash')",
            ),
            id="a start off the route",
        ),
    ],
)
def test_the_first_difference_is_named(
    damage: Callable[[Sequence[Recorded]], tuple[Recorded, ...]], expected: Difference
) -> None:
    """Its version, both types, and each field as it was and as it would be."""
    assert expected == difference(damage(recorded(judged().events)))


def test_what_cannot_be_read_is_a_difference() -> None:
    """An event of a newer program is no history that this one can derive."""
    stream = recorded(judged().events)
    found = difference((*stream[:3], stream[3]._replace(schema_version=99), *stream[4:]))
    assert found is not None
    assert (4, "retry.scheduled", None) == (found.version, found.recorded, found.derived)
    assert "upgrade" in found.why


def test_bytes_that_are_not_canonical_are_a_difference() -> None:
    """The same fields with a blank between them are other bytes."""
    stream = recorded(judged().events)
    found = difference((stream[0]._replace(data=stream[0].data.replace(":", ": ", 1)), *stream[1:]))
    assert found == Difference(1, "task.submitted", "task.submitted", why="not in canonical form")


def refused() -> History:
    """Return a task that did not fit under a cap."""
    history = History()
    cap = BudgetSeen(cap="day", limit=10, settled=8, unknown=0, reserved=0, asked=5, position=1)
    history.do(c.Budget(c.Seen(history.now_ms, budgets=(cap,))))
    return history


@pytest.mark.parametrize(
    "history",
    [
        pytest.param(History(request(policy=policy(on_unknown="hold"))).start().orphan(), id="held"),
        pytest.param(History().start().orphan().start().settle(1).fail(), id="a late answer is used"),
        pytest.param(History().brake().brake().start().succeed(), id="braked"),
        pytest.param(History(validation()).start().judge(passed=True), id="a validation"),
        pytest.param(History().start(), id="running"),
        pytest.param(refused(), id="refused by a cap"),
    ],
)
def test_every_kind_of_task_holds(history: History) -> None:
    """Finished or not."""
    assert difference(recorded(history.events)) is None


def test_an_erased_text_changes_nothing() -> None:
    """``payload.erased`` is a fact by itself."""
    history = judged().add(e.PayloadErased(slot="prompt", digest="d" * 64, reason="asked for"))
    assert difference(recorded(history.events)) is None
