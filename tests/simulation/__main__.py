"""``python -m tests.simulation``: live worlds by seed; one that breaks a rule is shrunk, told and can be replayed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.hunt import Found, hunt, live, smaller
from tests.simulation.loop import Choices
from tests.simulation.plants import PLANTS, Plant, planted

CHUNK = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every rule held, 1 if one was broken."""
    asked = _parser().parse_args(arguments)
    plant = next((plant for plant in PLANTS if plant.name == asked.plant), None)
    if asked.choices is not None:
        return _tell([int(choice) for choice in asked.choices.split(",") if choice], plant)
    if asked.seed is not None:
        found = hunt([asked.seed], plant)
        if found is None:
            _write(f"seed {asked.seed}: every rule holds")
            return 0
        return _report(found, plant, shrink=not asked.replay)
    first, _, last = asked.seeds.partition("-")
    return _all(range(int(first), int(last or first) + 1), plant, asked.jobs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", metavar="A-B", help="live these worlds, up to the first that breaks a rule")
    which.add_argument("--seed", type=int, metavar="N", help="live one world; if it breaks a rule, shrink and tell it")
    which.add_argument("--choices", metavar="C,C,…", help="live the world of these choices and tell it")
    parser.add_argument("--replay", action="store_true", help="tell the world of --seed as it was, without shrinking")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--plant", choices=[plant.name for plant in PLANTS], help="with one of the ten bugs")
    return parser


def _all(seeds: range, plant: Plant | None, jobs: int) -> int:
    began = time.monotonic()
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    if jobs > 1 and plant is None:
        with ProcessPoolExecutor(jobs) as pool:
            found = next((each for each in pool.map(hunt, chunks) if each is not None), None)
    else:
        found = next((each for each in (hunt(chunk, plant) for chunk in chunks) if each is not None), None)
    if found is not None:
        return _report(found, plant, shrink=True)
    took_s = time.monotonic() - began
    _write(f"{len(seeds)} worlds, every rule holds, {len(seeds) / took_s:.0f} worlds a second")
    return 0


def _report(found: Found, plant: Plant | None, *, shrink: bool) -> int:
    _write(str(found))
    recorded = found.recorded
    if shrink:
        recorded = smaller(found, plant)
        tame = sum(choice == 0 for choice in recorded)
        _write(f"shrunk from {len(found.recorded)} choices to {len(recorded)}, {tame} of them 0")
    return _tell(recorded, plant)


def _tell(recorded: Sequence[int], plant: Plant | None) -> int:
    story: list[str] = []
    with planted(plant):
        world = live(Choices(recorded=recorded), plant, story)
    violation = world.checker.violation
    _write("\n".join([f"a world of the style {world.style.name}", *story, str(violation or "every rule holds")]))
    _write(f"--choices {','.join(map(str, recorded))}")
    return 0 if violation is None else 1


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
