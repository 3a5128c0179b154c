"""Thousands of worlds in which every rule holds, and ten bugs that the simulation finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context

import pytest

from tests.simulation.__main__ import main
from tests.simulation.hunt import hunt, live, smaller
from tests.simulation.loop import HOST, Choices, Host, SimLoop
from tests.simulation.plants import PLANTS, Plant, planted
from tests.simulation.shrink import shrunk

PART = 100
WORLDS_MAX = 400
RARE_WORLDS_MAX = 600
RARE = {
    "attempt.orphaned",
    "attempt.settled",
    "breaker.closed",
    "breaker.opened",
    "budget",
    "cancelled",
    "cap",
    "interrupted",
    "on_unknown_fail",
    "on_unknown_hold",
    "on_unknown_retry",
    "orphans_in_a_row",
    "retry_after_too_long",
    "straight_to_the_fallback",
    "tries_spent",
    "validation.errored",
    "validation.passed",
}
LATE = next(plant for plant in PLANTS if plant.name == "late answer dropped")


@pytest.mark.parametrize(
    "seeds",
    [
        *(pytest.param(range(start, start + PART), id=f"from {start}") for start in range(0, 4 * PART, PART)),
        pytest.param(range(20_000), marks=pytest.mark.slow, id="twenty thousand"),
        pytest.param(range(1_000_000), marks=pytest.mark.slow, id="a million"),
    ],
)
def test_every_rule_holds(seeds: range) -> None:
    """Whatever crashes, stands still or fills up: nothing is called unrecorded, spent twice or forgotten."""
    found = hunt(seeds)
    assert found is None, str(found)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    """Each of the ten is found within some hundred worlds, by a rule that is about it."""
    found = hunt(range(WORLDS_MAX), plant)
    assert found is not None
    assert found.violation.rule in plant.rules, str(found)


def test_the_worlds_reach_what_is_rare() -> None:
    """Rules that hold prove nothing about what never happened; each of these does, within some hundred worlds."""
    unseen = set(RARE)
    with planted(None):
        for seed in range(RARE_WORLDS_MAX):
            if unseen:
                unseen -= live(Choices(seed)).checker.seen
    assert unseen == set()


def test_a_world_is_lived_again_exactly() -> None:
    """The seed alone, and the choices alone, give the same story, line by line."""
    stories: list[list[str]] = [[], [], []]
    with planted(None):
        made = live(Choices(7), story=stories[0]).choices.made
        live(Choices(7), story=stories[1])
        live(Choices(recorded=made), story=stories[2])
    assert stories[0] != []
    assert stories[0] == stories[1] == stories[2]


@pytest.mark.slow
def test_what_is_found_becomes_smaller() -> None:
    """The shrunk choices break the same rule, and much of what happened is gone."""
    found = hunt(range(WORLDS_MAX), LATE)
    assert found is not None
    recorded = smaller(found, LATE, runs_max=80)
    with planted(LATE):
        violation = live(Choices(recorded=recorded), LATE).checker.violation
    assert violation is not None
    assert violation.rule == found.violation.rule
    assert sum(map(bool, recorded)) < sum(map(bool, found.recorded))


def test_a_failing_seed_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """It says its seed, its story, the broken rule and how to live it again; so does the replay."""
    found = hunt(range(WORLDS_MAX), LATE)
    assert found is not None
    assert main(["--seed", str(found.seed), "--replay", "--plant", LATE.name]) == 1
    told = capsys.readouterr().out
    assert f"python -m tests.simulation --seed {found.seed} --replay" in told
    choices = told.splitlines()[-1]
    assert main([*choices.split(), "--plant", LATE.name]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == told.splitlines()[-2:]


def test_a_range_of_seeds_is_lived(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0-4"]) == 0
    assert capsys.readouterr().out.startswith("5 worlds, every rule holds")


def test_shrinking_keeps_what_breaks() -> None:
    """Of many choices the two that matter are left."""

    def breaks(recorded: Sequence[int]) -> Sequence[int] | None:
        return recorded if 7 in recorded and 9 in recorded[recorded.index(7) :] else None

    assert shrunk([3, 0, 7, 5, 5, 1, 9, 2, 0, 8], breaks) == (7, 9)


def test_shrinking_ends() -> None:
    """A bound on the worlds lived holds also where everything breaks."""
    tried: list[Sequence[int]] = []

    def breaks(recorded: Sequence[int]) -> None:
        tried.append(recorded)

    assert shrunk(range(1, 1000), breaks, runs_max=50) == tuple(range(1, 1000))
    assert len(tried) == 50


class Raised(AssertionError):
    """What a loop was told of a callback."""


def loop_of(*choices: int) -> SimLoop:
    """Make a loop that plays these choices."""

    def fault(what: str) -> None:
        raise Raised(what)

    return SimLoop(Choices(recorded=choices), fault)


@pytest.mark.parametrize(
    ("choices", "order"), [pytest.param((), "abc", id="as they came"), pytest.param((2, 1), "cba", id="chosen")]
)
def test_who_runs_next_is_a_choice(choices: tuple[int, ...], order: str) -> None:
    """Choice 0 is first come first served."""
    loop = loop_of(*choices)
    ran: list[str] = []
    for name in "abc":
        loop.call_soon(ran.append, name)
    loop.run(100, 1.0)
    assert list(order) == ran


def test_time_passes_only_when_nothing_is_left_to_do() -> None:
    """A sleep of an hour takes no time, and ends at its instant."""
    loop = loop_of()
    woke: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woke.append(loop.time())

    for seconds in (3600.0, 0.5):
        loop.create_task(sleep(seconds))
    assert loop.run(100, 10_000.0) == "nothing will ever happen again"
    assert woke == [0.5, 3600.0]


@pytest.mark.parametrize(("fault", "ran"), [("crash", []), ("pause", [5.0])])
def test_a_host_that_is_gone_does_nothing_more(fault: str, ran: list[float]) -> None:
    """What belonged to a crashed host never runs; a paused one does it late."""
    loop, host = loop_of(), Host("host")
    done: list[float] = []
    context = copy_context()
    context.run(HOST.set, host)
    loop.call_later(1.0, lambda: done.append(loop.time()), context=context)
    if fault == "crash":
        host.alive = False
    else:
        host.paused = True
    loop.call_later(5.0, loop.resume, host)
    loop.run(100, 10.0)
    assert done == ran
