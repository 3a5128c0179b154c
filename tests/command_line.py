"""The command line as tests use it: in this process where that is enough, else as a process of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.cli import main

__all__ = ["CONFIG", "CommandLine", "sql", "started", "until"]

ROOT: Final = Path(__file__).parent.parent
WAIT_S: Final = 20.0

CONFIG: Final = r"""
[retry]
backoff_initial_s = 0.001
[tiers.flash]
provider = "simulated"
model = "flaky"
[tiers.pro]
provider = "simulated"
model = "loud"
[tiers.haiku]
provider = "simulated"
model = "plain"
[tiers.sonnet]
provider = "simulated"
model = "judge"
[tiers.opus]
provider = "simulated"
model = "refuses"
[providers.simulated]
latency_ms = 0
[providers.simulated.models.flaky]
script = ["rate_limited"]
[providers.simulated.models.loud]
script = [{text = "red: \u001b[31m, bell: \u0007, C1: \u009b2J, umlaut: ä\n\tnext line"}]
[providers.simulated.models.judge]
script = [{verdict = {pass = false, issues = ["It says nothing."], confidence = 0.75, escalate = true}}]
[providers.simulated.models.refuses]
script = ["content_refused", "content_refused"]
"""
"""A retry on flash, control characters from pro, a verdict that does not pass from sonnet, a failure from opus."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class CommandLine:
    """Runs commands in this process, in the working folder."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *argv: str) -> Ended:
        code = main(argv)
        captured = self.capture.readouterr()
        return Ended(code, captured.out, captured.err)


def started(*argv: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``dispatch-ledger`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ledger", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def sql(path: str | Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask a ledger as the ``sqlite3`` shell does."""
    with closing(sqlite3.connect(path)) as database:
        found: list[tuple[Any, ...]] = database.execute(query, values).fetchall()
        database.commit()
        return found


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:g} s for {what}"
        time.sleep(0.02)
