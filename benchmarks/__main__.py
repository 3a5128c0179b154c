"""``python -m benchmarks NAME …``: run benchmarks and print their tables."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from benchmarks.measuring import Plan, conditions

NAMES: Final = (
    "append",
    "postgres",
    "dispatch",
    "memory",
    "gemini",
    "start",
    "lists",
    "peers",
    "crash",
    "profiles",
    "verify",
    "report",
)


def main() -> None:
    """Run what is named, one after the other, and print each table as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=(*NAMES, "all"), metavar="NAME", help=", ".join((*NAMES, "all")))
    parser.add_argument("--scale", type=float, default=1.0, help="how much to do; 0.01 only shows that it runs")
    parser.add_argument("--folder", type=Path, default=Path(), help="on whose disk the ledgers lie (here)")
    options = parser.parse_args()
    plan = Plan(options.scale, options.folder.absolute())
    names = NAMES if "all" in options.names else options.names
    sys.stdout.write(f"{conditions(plan.folder)}\n")
    for name in names:
        sys.stdout.write(f"\n{importlib.import_module(f'benchmarks.{name}').measure(plan)}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
