"""The whole way: the command, the real clients, a real file, and the emulator's log as the witness."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.world import rows

ROOT = Path(__file__).resolve().parents[1]
TIERS = ("flash", "pro", "haiku", "sonnet", "opus")
HURRY = """
[retry]
backoff_initial_s = 0.05
"""


@contextmanager
def emulator(folder: Path, seed: str) -> Iterator[tuple[str, Path]]:
    """Serve both providers, a third of the requests failing; give the address and the log."""
    log = folder / "requests.jsonl"
    log.touch()
    command = [sys.executable, "-m", "tests.emulator", "--log", str(log), "--faults", seed]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), log
        finally:
            server.terminate()


class User:
    """Somebody with an empty folder, keys, and the command."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.ledger = folder / "dispatch.db"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ANTHROPIC_API_KEY": "canary-anthropic",
            "ANTHROPIC_BASE_URL": url,
            "GEMINI_API_KEY": "canary-gemini",
            "GOOGLE_GEMINI_BASE_URL": url,
        }

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder."""
        command = [sys.executable, "-m", "ledger", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900, check=False
        )

    def asks(self, *words: str) -> Any:
        """Run the command with ``--json`` and read its answer."""
        done = self.types(*words, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


def calls_seen(log: Path) -> dict[tuple[str, str], list[int | None]]:
    """Read the witness: for each model and prompt the statuses answered, in order; None for a dropped connection."""
    seen: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    for line in log.read_text().splitlines():
        request = json.loads(line)
        seen[request["model"], request["digest"]].append(request["status"])
    return seen


def calls_recorded(ledger: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Read the ledger: for each model and prompt its attempts, in order."""
    texts = rows(ledger, "SELECT task_id, bytes FROM payloads WHERE slot = 'prompt'")
    digests = {row["task_id"]: hashlib.sha256(row["bytes"]).hexdigest() for row in texts}
    recorded: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for attempt in rows(ledger, "SELECT * FROM attempts ORDER BY task_id, attempt"):
        recorded[attempt["request_model"], digests[attempt["task_id"]]].append(attempt)
    return recorded


def agrees(attempt: dict[str, Any], status: int | None) -> bool:
    """Say whether an attempt tells of the answer that the witness gave."""
    if attempt["state"] == "succeeded":
        return status == 200
    expected = {None: "connection", 200: "api_error", 429: "rate_limited", 503: "overloaded", 529: "overloaded"}
    return bool(attempt["error_type"] == expected[status])


@pytest.mark.slow
@pytest.mark.gemini_cli
@pytest.mark.parametrize("lines", [10, 200])
def test_batch_over_all_tiers_with_the_real_clients(tmp_path: Path, lines: int) -> None:
    """Ledger and witness agree call by call, the file again pays nothing, verify is clean until a byte is changed."""
    tasks = [{"prompt": f"Question {n}: /say @hello", "tier": TIERS[n % len(TIERS)]} for n in range(lines)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "dispatch.toml").write_text(HURRY)
    with emulator(tmp_path, seed="7") as (url, log):
        user = User(tmp_path, url)
        summary = user.asks("batch", "tasks.jsonl", "--out", "results.jsonl")
        seen, recorded = calls_seen(log), calls_recorded(user.ledger)
        assert Counter({call: len(statuses) for call, statuses in seen.items()}) == Counter(
            {call: len(attempts) for call, attempts in recorded.items()}
        )
        odd = [
            (call, attempt["attempt"], attempt["error_type"], status)
            for call, attempts in recorded.items()
            for attempt, status in zip(attempts, seen[call], strict=True)
            if not agrees(attempt, status)
        ]
        assert odd == []
        assert summary["attempts"] == sum(map(len, seen.values()))
        assert summary["succeeded"] + summary["failed"] == lines
        again = user.asks("batch", "tasks.jsonl")
        assert (again["reused"], again["attempts"]) == (summary["succeeded"], 0)
        assert calls_seen(log) == seen
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    # A breaker that opened meanwhile hands a task of flash over before its first attempt.
    asked = {
        (task["tier"], result["tier"]) for task, result in zip(tasks, results, strict=True) if result["attempts"] == 1
    }
    assert asked <= {(tier, tier) for tier in TIERS} | {("flash", "haiku")}
    assert user.asks("verify")["ok"]
    assert b"canary" not in b"".join(path.read_bytes() for path in tmp_path.glob("dispatch.db*"))
    change_a_byte(user.ledger)
    found = user.types("verify", "--json")
    assert found.returncode == 1
    assert {problem["kind"] for problem in json.loads(found.stdout)["problems"]} >= {"hash"}


def change_a_byte(ledger: Path) -> None:
    """Do what somebody with the file can do: take the guard away, change an answer's tokens, put the guard back."""
    connection = sqlite3.connect(ledger)
    (guard,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'events_no_update'").fetchone()
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute(
        "UPDATE events SET data = replace(data, '\"output_tokens\":', '\"output_tokens\":1') "
        "WHERE position = (SELECT max(position) FROM events WHERE type = 'attempt.succeeded')"
    )
    connection.execute(guard)
    connection.commit()
    connection.close()
