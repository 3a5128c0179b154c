"""Living worlds one after the other, and telling of one that broke a rule so that anybody can live it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.simulation.invariants import Violation
from tests.simulation.loop import Choices
from tests.simulation.plants import Plant, planted
from tests.simulation.shared import SimStore
from tests.simulation.shrink import RUNS_MAX, shrunk
from tests.simulation.world import World

__all__ = ["Found", "hunt", "live", "smaller"]


@dataclass(frozen=True, slots=True)
class Found:
    """A world that broke a rule."""

    seed: int
    style: str
    violation: Violation
    recorded: tuple[int, ...]
    worlds: int
    """Lived until it was found, itself included."""

    def __str__(self) -> str:
        return (
            f"seed {self.seed} ({self.style}) breaks a rule: {self.violation}\n"
            f"to live it again: python -m tests.simulation --seed {self.seed} --replay"
        )


def live(choices: Choices, plant: Plant | None = None, story: list[str] | None = None) -> World:
    """Live one world to its end."""
    world = World(choices, kept=SimStore if plant is None else plant.kept, story=story)
    world.run()
    return world


def hunt(seeds: Iterable[int], plant: Plant | None = None) -> Found | None:
    """Live worlds until one breaks a rule."""
    with planted(plant):
        for count, seed in enumerate(seeds, 1):
            world = live(Choices(seed), plant)
            if world.checker.violation is not None:
                return Found(seed, world.style.name, world.checker.violation, tuple(world.choices.made), count)
    return None


def smaller(found: Found, plant: Plant | None = None, runs_max: int = RUNS_MAX) -> tuple[int, ...]:
    """Return fewer and tamer choices that break the same rule."""

    def breaks(recorded: Sequence[int]) -> Sequence[int] | None:
        world = live(Choices(recorded=recorded), plant)
        violation = world.checker.violation
        return world.choices.made if violation is not None and violation.rule == found.violation.rule else None

    with planted(plant):
        return shrunk(found.recorded, breaks, runs_max)
