"""A day's bill: a thousand tasks with everything that makes a bill hard, recomputed from the providers' own log."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import pytest

from ledger import Executor, Ledger, ModelTier
from tests.emulator import Emulator, Reply, Request
from tests.emulator import anthropic as anthropic_api
from tests.emulator import gemini as google_api
from tests.money_witness import figures
from tests.test_end_to_end import TIERS, User
from tests.world import rows

LINES = 1000
VALIDATED = 40
KILLS = 5
CONFIG = """
[retry]
retry_count = 6
backoff_initial_s = 0.02
backoff_max_s = 0.1
max_orphans = 20

[breakers]
failures = 0

[tiers.opus]
model = "mystery-model-1"

[providers.gemini]
concurrency = 8

[prices."gemini/gemini-2.5-flash"]
input_usd_per_mtok = 0.3
cache_read_usd_per_mtok = 0.03
output_usd_per_mtok = 2.5

[prices."gemini/gemini-2.5-pro"]
input_usd_per_mtok = 1.25
cache_read_usd_per_mtok = 0.125
output_usd_per_mtok = 10
above = [{ input_tokens = 200_000, input_usd_per_mtok = 2.5, cache_read_usd_per_mtok = 0.25, output_usd_per_mtok = 15 }]

[prices."anthropic/claude-haiku-5-5"]
input_usd_per_mtok = 0.1
cache_read_usd_per_mtok = 0.01
cache_write_5m_usd_per_mtok = 0.125
cache_write_1h_usd_per_mtok = 0.2
output_usd_per_mtok = 0.5

[[prices."anthropic/claude-haiku-5-5".above]]
input_tokens = 100_000
input_usd_per_mtok = 0.5
cache_read_usd_per_mtok = 0.05
cache_write_5m_usd_per_mtok = 0.625
cache_write_1h_usd_per_mtok = 1
output_usd_per_mtok = 2.5

[prices."anthropic/claude-sonnet-5-5"]
input_usd_per_mtok = 2
cache_read_usd_per_mtok = 0.1
cache_write_5m_usd_per_mtok = 2.5
cache_write_1h_usd_per_mtok = 4
output_usd_per_mtok = 10
"""


class Providers(Emulator):
    """Both providers, with caching, thinking, other models and faults by a draw; what was billed is logged."""

    def __init__(self, log: TextIO) -> None:
        super().__init__()
        anthropic_api.Anthropic(self)
        google_api.Google(self)
        self._file = log
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()

    def answer(self, request: Request) -> Reply:
        """Answer by the draw of this model, prompt and turn, and log what was billed."""
        anthropic = request.path.startswith("/v1/")
        body = request.json()
        prompt = (anthropic_api if anthropic else google_api).prompt_of(body)
        asked = body["model"] if anthropic else google_api.model_of(request)
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        with self._lock:
            self._seen[asked, digest] += 1
            draw = random.Random(f"{asked}|{digest}|{self._seen[asked, digest]}")  # noqa: S311 - a play, no secret
        reply, served, usage = (_anthropic if anthropic else _google)(draw, request, asked, body)
        told = {
            "id": f"req_{request.index:08d}",
            "time_ms": int(request.received_at * 1000),
            "provider": "anthropic" if anthropic else "gemini",
            "asked": asked,
            "served": served,
            "digest": digest,
            "status": reply.status,
            "answered": reply.drop_after is None,
            "usage": usage,
        }
        with self._lock:
            self._file.write(json.dumps(told) + "\n")
            self._file.flush()
        return reply


Drawn = tuple[Reply, str, dict[str, Any]]


def _anthropic(draw: random.Random, request: Request, asked: str, body: dict[str, Any]) -> Drawn:
    chance = draw.random()
    if chance < 0.1:
        return anthropic_api.error(529, "overloaded_error", "busy")(request), asked, {}
    if chance < 0.14:
        return anthropic_api.dropped()(request), asked, {}
    if chance < 0.16:
        return anthropic_api.error(400, "invalid_request_error", "no")(request), asked, {}
    served = "claude-sonnet-5-5" if asked == "claude-haiku-5-5" and draw.random() < 0.1 else asked
    writes = {f"ephemeral_{time}_input_tokens": _some(draw, 9_999) for time in ("5m", "1h")}
    usage = {
        "input_tokens": draw.choice((3, 40, 70_001, 99_000)),
        "cache_read_input_tokens": _some(draw, 60_000),
        "cache_creation_input_tokens": sum(writes.values()),
        "cache_creation": writes,
        "output_tokens": draw.randrange(1, 5000),
    }
    if "format" not in (body.get("output_config") or {}):
        return anthropic_api.answer(usage=usage, model=served)(request), served, usage
    passed = draw.random() < 0.5
    verdict = {"pass": passed, "issues": [] if passed else ["thin"], "confidence": 0.8, "escalate": not passed}
    text = json.dumps(verdict) if draw.random() < 0.9 else "It is fine, I think."
    return anthropic_api.answer(text, usage=usage, model=served)(request), served, usage


def _google(draw: random.Random, request: Request, asked: str, _body: dict[str, Any]) -> Drawn:
    chance = draw.random()
    if chance < 0.1:
        return google_api.error(503, "busy", reason="UNAVAILABLE")(request), asked, {}
    if chance < 0.14:
        return google_api.dropped()(request), asked, {}
    whole = draw.choice((7, 300, 200_000, 200_001))
    usage = {
        "promptTokenCount": whole,
        "cachedContentTokenCount": _some(draw, whole),
        "candidatesTokenCount": draw.randrange(1, 3000),
        "thoughtsTokenCount": _some(draw, 4000),
    }
    return google_api.answer(usage=usage)(request), asked, usage


def _some(draw: random.Random, most: int) -> int:
    return draw.randrange(most) if draw.random() < 0.5 else 0


@pytest.mark.slow
@pytest.mark.gemini_cli
async def test_a_thousand_tasks_to_the_nano_dollar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of the cost report is that of a page of decimal arithmetic over the providers' log."""
    tasks = [{"prompt": f"Bill {n}", "tier": TIERS[n % len(TIERS)]} for n in range(LINES)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    (tmp_path / "dispatch.toml").write_text(CONFIG)
    log = tmp_path / "requests.jsonl"
    with log.open("w") as file, Providers(file) as providers:
        user = User(tmp_path, providers.url)
        draw = random.Random(5)  # noqa: S311 - when to kill, no secret
        for _ in range(KILLS):
            _killed(user, log, draw.randrange(20, 120))
        user.types("batch", "tasks.jsonl")
        for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
            monkeypatch.setenv(name, user.environment[name])
        monkeypatch.setenv("DISPATCH_LEDGER_CONFIG", str(tmp_path / "dispatch.toml"))
        await _validated(user.ledger)
        reported = user.asks("report", "cost", "--by", "tier,model,purpose")
        assert user.asks("verify")["ok"]
    by_hand = figures(log, user.ledger)
    assert _costs(user.ledger) == {**dict.fromkeys(_costs(user.ledger)), **by_hand["costs"]}
    assert by_hand["totals"] == [
        {
            **{name: row[name] for name in ("tier", "model", "purpose", "attempts")},
            "unknown": row["cost_unknown_attempts"],
            "cost": row["cost_nano_usd"] or 0,
            "input": row["tokens_input"] or 0,
            "output": row["tokens_output"] or 0,
        }
        for row in sorted(reported, key=lambda row: (row["tier"], row["model"], row["purpose"]))
    ]


def _killed(user: User, log: Path, calls: int) -> None:
    command = [sys.executable, "-m", "ledger", "batch", "tasks.jsonl"]
    enough = log.read_bytes().count(b"\n") + calls
    with subprocess.Popen(
        command, cwd=user.folder, env=user.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as batch:
        while batch.poll() is None and log.read_bytes().count(b"\n") < enough:
            time.sleep(0.01)
        batch.kill()


async def _validated(path: Path) -> None:
    async with Ledger.open(path) as ledger, Executor(ledger) as executor:
        for number in range(VALIDATED):
            await executor.execute_validated(ModelTier.HAIKU, f"Judged {number}")


def _costs(ledger: Path) -> dict[str, int | None]:
    found = rows(ledger, "SELECT task_id, attempt, cost_nano_usd FROM attempts")
    return {f"{row['task_id']}/{row['attempt']}": row["cost_nano_usd"] for row in found}
