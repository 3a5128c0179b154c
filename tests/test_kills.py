"""Workers that are killed again and again: ledger and witness agree call by call, and every task has its answer."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Executor, Ledger
from ledger.audit import verify
from tests.ledgers import fresh_ledger
from tests.mortals import Mortal, Witness, configured, mortals, working
from tests.postgres_server import own_database, sql
from tests.world import rows

EACH: Final = 3
"""Tasks that a worker has under way at once."""

OPEN: Final = "SELECT 1 FROM tasks WHERE ended_at_ms IS NULL LIMIT 1"
STATES: Final = "SELECT state FROM tasks"
PROMPTS: Final = "SELECT task_id, bytes FROM payloads WHERE slot = 'prompt'"
ATTEMPTS: Final = "SELECT task_id, attempt, worker, state FROM attempts"
ANSWERS: Final = "SELECT count(*) AS answers FROM events WHERE type = 'attempt.succeeded' GROUP BY task_id"
LEFT: Final = "SELECT worker FROM workers UNION ALL SELECT worker FROM claims"


@asynccontextmanager
async def a_ledger(engine: str, folder: Path) -> AsyncIterator[str]:
    """Give an empty ledger's address."""
    if engine == "postgresql":
        async with own_database() as url:
            yield url
    else:
        yield str(fresh_ledger(folder))


async def asked(place: str, query: str) -> list[tuple[Any, ...]]:
    """Ask a ledger from outside."""
    if place.startswith("postgresql:"):
        return await sql(place, query)
    return [tuple(row.values()) for row in rows(Path(place), query)]


async def queued(place: str, url: str, count: int) -> None:
    """Queue tasks for whoever works."""
    async with Ledger.open(place) as ledger, Executor(ledger, configured(url, max_orphans=1000)) as executor:
        await asyncio.gather(*(executor.submit("haiku", f"task {number}") for number in range(count)))


def beside(folder: Path) -> list[Path]:
    """Return the lock files and spilled answers that are left."""
    return [*folder.rglob("*.lock"), *folder.rglob("*.spill")]


def slaughter(place: str, home: Path, url: str, workers: int, kills: int) -> int:
    """Keep so many workers at work, kill one or hold one up every 50 to 250 ms, then let them drain the ledger."""
    draw = random.Random(7)  # noqa: S311 - who dies when, not secrecy
    killed = 0
    with mortals() as living:
        living += [Mortal(working, place, home, url, EACH) for _ in range(workers)]
        while killed < kills and asyncio.run(asked(place, OPEN)):
            time.sleep(draw.uniform(0.05, 0.25))
            victim = draw.choice(living)
            if draw.random() < 0.25:
                victim.signal(signal.SIGSTOP)
                time.sleep(draw.uniform(0.02, 0.1))
                victim.signal(signal.SIGCONT)
                continue
            killed += victim.lives
            victim.signal(signal.SIGKILL)
            assert victim.ended() in {0, -signal.SIGKILL}
            living.remove(victim)
            living.append(Mortal(working, place, home, url, EACH))
        assert [mortal.ended() for mortal in living] == [0] * workers
        living.clear()
    sweeper = Mortal(working, place, home, url, EACH)  # clears away what the last one left that was killed
    assert sweeper.ended() == 0
    return killed


@pytest.mark.parametrize(
    ("engine", "count", "workers", "kills"),
    [
        pytest.param("sqlite", 60, 3, 8, id="short"),
        pytest.param("sqlite", 300, 6, 50, id="long", marks=pytest.mark.slow),
        pytest.param("postgresql", 300, 6, 50, id="long, on PostgreSQL", marks=pytest.mark.slow),
    ],
)
async def test_nothing_is_lost_and_nothing_paid_unseen(
    tmp_path: Path, engine: str, count: int, workers: int, kills: int
) -> None:
    """Every task has one answer; each call has its attempt, and an attempt without a call, or answer, is an orphan."""
    async with a_ledger(engine, tmp_path) as place:
        with Witness() as witness:
            witness.latency_s = 0.2
            await queued(place, witness.url, count)
            killed = await asyncio.to_thread(slaughter, place, tmp_path, witness.url, workers, kills)
            calls = Counter(witness.calls())
        prompts = {task_id: bytes(text).decode() for task_id, text in await asked(place, PROMPTS)}
        attempts = await asked(place, ATTEMPTS)
        recorded = Counter((worker, prompts[task_id]) for task_id, _, worker, _ in attempts)
        answered = Counter((worker, prompts[task_id]) for task_id, _, worker, how in attempts if how == "succeeded")
        assert calls - recorded == Counter(), "no call without an attempt.started of this worker"
        assert answered - calls == Counter(), "no answer without a call"
        assert Counter(await asked(place, STATES)) == {("succeeded",): count}
        assert await asked(place, ANSWERS) == [(1,)] * count
        ends = Counter(how for *_, how in attempts)
        assert ends == {"succeeded": count, "orphaned": len(attempts) - count}
        assert kills / 2 < killed, "there was enough to do"
        assert calls.total() - count <= ends["orphaned"] <= killed * EACH, "only what the killed ones had in flight"
        assert len({(task_id, number) for task_id, number, *_ in attempts}) == len(attempts)
        if engine == "sqlite":  # a server may still commit what a process had sent that was killed and cleared away
            assert await asked(place, LEFT) == []
        assert beside(tmp_path) == []
        async with Ledger.open(place) as ledger:
            assert (await verify(await ledger.store())).problems == ()
