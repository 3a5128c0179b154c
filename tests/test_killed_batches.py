"""A day that goes wrong: a batch over the real clients, killed again and again, then run by three shells at once."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from tests.postgres_server import database
from tests.test_end_to_end import TIERS, User, emulator

LINES = 500
KILLS = 12
SHELLS = 3
CONFIG = """
[retry]
retry_count = 8
backoff_initial_s = 0.05
max_orphans = 20

[tiers.flash]
fallback = "none"

[providers.gemini]
concurrency = 8
"""


def killed(user: User, ledger: str, log: Path, calls: int) -> None:
    """Run the batch as in a shell of its own, and kill it after so many more calls."""
    command = [sys.executable, "-m", "ledger", "batch", "tasks.jsonl", "--ledger", ledger]
    enough = log.read_bytes().count(b"\n") + calls
    with subprocess.Popen(
        command, cwd=user.folder, env=user.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as batch:
        while batch.poll() is None and log.read_bytes().count(b"\n") < enough:
            time.sleep(0.01)
        batch.kill()


def side_by_side(user: User, ledger: str) -> list[dict[str, Any]]:
    """Run the batch in several shells at once, and return what each says of it."""
    command = [sys.executable, "-m", "ledger", "batch", "tasks.jsonl", "--json", "--ledger", ledger]
    shells = [
        subprocess.Popen(
            command, cwd=user.folder, env=user.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for _ in range(SHELLS)
    ]
    return [json.loads(shell.communicate(timeout=600)[0]) for shell in shells]


@pytest.mark.slow
@pytest.mark.gemini_cli
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_five_hundred_lines_killed_a_dozen_times(tmp_path: Path, engine: str) -> None:
    """Every line has its one answer, and ledger and witness agree call by call."""
    if engine == "sqlite":
        await a_bad_day(tmp_path, str(tmp_path / "dispatch.db"))
    else:
        async with database() as url:
            await a_bad_day(tmp_path, url)


async def a_bad_day(tmp_path: Path, ledger: str) -> None:
    """Kill, run side by side, run once more, compare."""
    tasks = [{"prompt": f"Question {number}", "tier": TIERS[number % len(TIERS)]} for number in range(LINES)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "dispatch.toml").write_text(CONFIG)
    draw = random.Random(7)  # noqa: S311 - when to kill, not a secret
    with emulator(tmp_path, seed="7") as (url, log):
        user = User(tmp_path, url)
        for _ in range(KILLS):
            killed(user, ledger, log, draw.randrange(1, 60))
        summaries = side_by_side(user, ledger)
        last = user.asks("batch", "tasks.jsonl", "--ledger", ledger, "--out", "results.jsonl")
        requests = [json.loads(line) for line in log.read_text().splitlines()]
    assert (LINES, 0) == (last["reused"], last["attempts"])
    assert {(LINES, 0, 0)} == {(each["lines"], each["failed"], each["held"]) for each in summaries}
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [True] * LINES == [result["success"] for result in results]
    assert LINES == len({result["task_id"] for result in results})
    assert user.asks("verify", "--ledger", ledger)["ok"]
    await agree(ledger, tasks, results, requests)


async def agree(ledger: str, tasks: list[Any], results: list[Any], requests: list[Any]) -> None:
    """Compare call by call: each request has its attempt, each attempt that tells of a call has its request."""
    seen = Counter((request["model"], request["digest"]) for request in requests)
    most: Counter[tuple[str, str]] = Counter()
    least: Counter[tuple[str, str]] = Counter()
    async with Ledger.open(ledger, create=False) as opened:
        store = await opened.store()
        for task, result in zip(tasks, results, strict=True):
            digest = hashlib.sha256(task["prompt"].encode()).hexdigest()
            for attempt in (await store.projected(result["task_id"])).attempts:
                if attempt["provider_requests"] != 0:
                    call = (attempt["request_model"], digest)
                    most[call] += 1
                    least[call] += attempt["state"] not in {"orphaned", "settled"}
    assert {} == {call: (seen[call], most[call]) for call in seen if seen[call] > most[call]}
    assert {} == {call: (seen[call], least[call]) for call in least if seen[call] < least[call]}
