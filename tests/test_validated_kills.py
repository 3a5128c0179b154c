"""A process that dies between an answer and its verdict, or in a judge's call: the next one goes on from the ledger."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import pytest

from clients.base import ExecutionResult
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.ports import Ports
from tests.emulator import Reply, Request
from tests.ledgers import fresh_ledger
from tests.mortals import HERE, Mortal, Witness
from tests.world import rows

PROVIDER: Final = "tests.mortals:caller"
POINTS: Final = (
    "before start",
    "after start",
    "before call",
    "after send",
    "after call",
    "before outcome",
    "after outcome",
)
CALLS: Final = {1: "haiku", 2: "its judge", 3: "sonnet", 4: "its judge again"}
LOST: Final = {"after send", "after call", "before outcome"}
"""Where a call was made whose answer nobody recorded."""
DONE: Final = ["task.submitted", "validation.failed", "escalation.selected", "validation.passed", "task.succeeded"]
USUAL: Final = {("after outcome", 1), ("after send", 2), ("before outcome", 2), ("after outcome", 2), ("after call", 3)}


def configured(url: str) -> Config:
    """Have the witness answer for every tier."""
    tiers = {tier: {"provider": PROVIDER, "model": tier} for tier in ("haiku", "sonnet")}
    providers = {PROVIDER: {"url": url, "concurrency": 8}}
    return Config.model_validate(
        {"tiers": tiers, "providers": providers, "escalation": {"ladder": ["haiku", "sonnet"]}}
    )


class Judging(Witness):
    """A witness who answers for each model, and finds good only what sonnet says."""

    def _answered(self, request: Request) -> Reply:
        prompt = request.body.decode()
        if not prompt.startswith("<task_to_validate>"):
            return Reply(body=f"{request.headers['x-model']} says".encode())
        good = "sonnet says" in prompt
        verdict = {"pass": good, "issues": [], "confidence": 1, "escalate": not good}
        return Reply(body=json.dumps(verdict).encode())


@pytest.fixture
def witness() -> Iterator[Judging]:
    with Judging() as witness:
        yield witness


def validating(pipe: Connection, path: Path, url: str, point: str, call: int) -> None:
    """Dispatch and have judged; die at the point's n-th passing."""
    passed: Counter[str] = Counter()

    def passing(here: str) -> None:
        passed[here] += 1
        if (here, passed[here]) == (point, call):
            os.kill(os.getpid(), signal.SIGKILL)

    async def dispatch() -> None:
        ports = Ports(passing=passing)
        async with Ledger.open(path, ports=ports) as ledger, Executor(ledger, configured(url), ports=ports) as executor:
            HERE.worker, HERE.passing = executor.worker, passing
            await executor.execute_validated("haiku", "hello", idempotency_key="k")

    asyncio.run(dispatch())
    pipe.send("went through")


def shorter(path: Path) -> list[str]:
    """Return what was done, in order, without what the death added."""
    types = [
        row["type"] for row in rows(path, "SELECT type FROM events WHERE type NOT LIKE 'attempt.%' ORDER BY position")
    ]
    return [one for one in types if one not in {"retry.scheduled", "price_book.published"}]


@pytest.mark.parametrize(
    ("point", "call"),
    [
        pytest.param(
            point, call, id=f"{point}, {CALLS[call]}", marks=[] if (point, call) in USUAL else [pytest.mark.slow]
        )
        for call in CALLS
        for point in POINTS
    ],
)
def test_a_process_is_killed_there(tmp_path: Path, witness: Judging, point: str, call: int) -> None:
    """With ``kill -9``: no answer is asked for again that is in the ledger, and nothing is judged twice."""
    path = fresh_ledger(tmp_path)
    killed = Mortal(validating, path, witness.url, point, call)
    assert killed.ended() == -9

    async def come() -> list[ExecutionResult]:
        async with Ledger.open(path) as ledger:
            async with Executor(ledger, configured(witness.url)) as executor:
                await executor.resume()
                found = [await executor.result(row["task_id"]) for row in rows(path, "SELECT task_id FROM tasks")]
            assert (await verify(await ledger.store())).problems == ()
        return found

    found = asyncio.run(come())
    if (point, call) == ("before start", 1):  # nothing was promised yet
        assert ([], 0) == (found, len(witness.log))
        return
    (result,) = found
    assert ("sonnet says", True, "sonnet") == (result.response, result.accepted, result.tier)
    assert DONE == shorter(path)
    assert len(CALLS) + (point in LOST) == len(witness.log)
