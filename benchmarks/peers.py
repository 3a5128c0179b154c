"""The same task through others' libraries, each in an environment of its own, taking turns."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.local_server import running
from benchmarks.measuring import Plan, Table, figure, folder_in, median

__all__ = ["SCRIPTS", "Unavailable", "environment", "measure"]

ROUNDS: Final = 5
CALLS: Final = 200
IN_FLIGHT: Final = 32
INSTALL_S: Final = 300
START_S: Final = 120
SCRIPTS: Final = Path(__file__).parent / "peer_calls"
BARE: Final = "bare SDK"
OURS: Final[Mapping[str, str]] = {BARE: "bare_sdk.py", "dispatch-ledger": "dispatch_ledger.py"}
PEERS: Final[Mapping[str, tuple[str, Sequence[str]]]] = {
    "LiteLLM Router, callback": ("litellm_router.py", ("litellm", "anthropic")),
    "pydantic-ai agent": ("pydantic_ai_agent.py", ("pydantic-ai-slim[anthropic]", "anthropic")),
    "DBOS workflow": ("dbos_workflow.py", ("dbos", "anthropic")),
}
COLUMNS: Final = ("of", "version", "calls/s", "x bare SDK", "us CPU/call")


class Unavailable(Exception):
    """A peer cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that makes calls when told."""

    process: subprocess.Popen[str]
    version: str

    def turn(self, calls: int) -> tuple[float, float]:
        """Let it make so many calls; return its seconds, wall and processor."""
        if self.process.stdin is None or self.process.stdout is None:
            raise Unavailable("its pipes are gone")
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        if len(words) != 2:  # noqa: PLR2004 - wall and processor
            raise Unavailable("it ended in the middle")
        return float(words[0]), float(words[1])


def measure(plan: Plan) -> str:
    """Return the table."""
    table = Table(f"peers, {IN_FLIGHT} in flight, against a local server that answers at once", COLUMNS)
    calls, rounds = plan.times(CALLS, IN_FLIGHT), plan.times(ROUNDS)
    with running() as url, folder_in(plan.folder) as folder, ExitStack() as stack:
        peers = {name: stack.enter_context(_started(Path(sys.executable), OURS[name], url, folder)) for name in OURS}
        for name, (script, wanted) in PEERS.items():
            try:
                python = environment(wanted)
                peers[name] = stack.enter_context(_started(python, script, url, folder))
            except Unavailable as why:
                table.notes.append(f"{name}: skipped, {why}")
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                runs[name].append(peer.turn(calls))
    for name, figures in runs.items():
        ratios = [bare / wall for (bare, _), (wall, _) in zip(runs[BARE], figures, strict=True)]
        speed, cpu_us = median([calls / wall for wall, _ in figures]), median([cpu / calls * 1e6 for _, cpu in figures])
        table.rows.append((name, peers[name].version, figure(speed), figure(median(ratios)), figure(cpu_us)))
    table.notes.append(f"{rounds} rounds of {calls} calls")
    return str(table)


def environment(wanted: Sequence[str]) -> Path:
    """Return the Python of a cached environment that has these packages; made when it is not there yet.

    Raises:
        Unavailable: they cannot be installed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dispatch-ledger-benchmarks"
    place = cache / wanted[0].partition("[")[0]
    python, done = place / "bin" / "python", place / "installed"
    if done.exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    here = [sys.executable, "-m"]
    for command in (
        [*here, "venv", "--without-pip", str(place)],
        [*here, "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet", *wanted],
    ):
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)  # noqa: S603 - venv and pip
        except subprocess.TimeoutExpired as late:
            raise Unavailable(f"not installed within {INSTALL_S} s") from late
        if ran.returncode:
            said = ran.stderr.strip().splitlines() or ["no reason given"]
            raise Unavailable(f"not installed: {said[-1]}")
    done.touch()
    return python


@contextlib.contextmanager
def _started(python: Path, script: str, url: str, folder: Path) -> Iterator[Peer]:
    """Start a peer and wait until it has made its first call.

    Raises:
        Unavailable: it did not get so far.
    """
    place, root = folder / script, str(SCRIPTS.parent.parent)
    place.mkdir()
    command = [str(python), str(SCRIPTS / script), url, str(place), str(IN_FLIGHT)]
    environment = {**os.environ, "PYTHONPATH": root} if script in OURS.values() else dict(os.environ)
    with (
        (place / "stderr").open("w+", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603 - our own script
            command, env=environment, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            version = process.stdout.readline().strip() if process.stdout else ""
            if not version:
                process.wait(timeout=START_S)
                errors.seek(0)
                raise Unavailable(f"it does not start: {(errors.read().strip().splitlines() or ['?'])[-1]}")
            yield Peer(process, version)
        finally:
            process.kill()
