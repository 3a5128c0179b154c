"""How long a command takes to start, and how much memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.measuring import Plan, Table, folder_in, median

__all__ = ["measure"]

ROUNDS: Final = 7
ANTHROPIC: Final = 'python -c "import anthropic"'


def measure(plan: Plan) -> str:
    """Return the table."""
    table = Table("start, of a process of its own", ("command", "ms", "x import anthropic", "MiB"))
    with folder_in(plan.folder) as folder:
        commands = _commands(folder)
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        _once([sys.executable, "-m", "ledger", "demo", "--ledger", str(folder / "demo.db")], folder)
        for _ in range(plan.times(ROUNDS)):
            for name, command in commands.items():
                runs[name].append(_once(command, folder))
    base = [took for took, _ in runs[ANTHROPIC]]
    for name, figures in runs.items():
        took = [each for each, _ in figures]
        ratio = median([mine / theirs for mine, theirs in zip(took, base, strict=True)])
        memory = median([mib for _, mib in figures])
        table.rows.append((name, f"{median(took) * 1000:.0f}", f"{ratio:.2f}", f"{memory:.0f}"))
    return str(table)


def _commands(folder: Path) -> Mapping[str, Sequence[str]]:
    python, ours = [sys.executable, "-c"], [sys.executable, "-m", "ledger"]
    there = ["--ledger", str(folder / "demo.db")]
    return {
        'python -c "pass"': [*python, "pass"],
        'python -c "import ledger"': [*python, "import ledger"],
        'python -c "import clients"': [*python, "import clients"],
        ANTHROPIC: [*python, "import anthropic"],
        "dispatch-ledger --help": [*ours, "--help"],
        "dispatch-ledger run --help": [*ours, "run", "--help"],
        "dispatch-ledger tasks": [*ours, "tasks", *there],
        "dispatch-ledger verify": [*ours, "verify", *there],
    }


def _once(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command to its end; return seconds and the most memory it had, in MiB."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own commands
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        said = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        took_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}: {said.decode(errors='replace')}")
    return took_s, usage.ru_maxrss / 1024
