"""Workers that share a cap, and are killed at it: the provider's own count of what they spent never passes the cap."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import pytest

from clients.base import ExecutionResult, Usage
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from tests.ledgers import fresh_ledger
from tests.mortals import HERE, Caller, Mortal, Witness, mortals
from tests.postgres_server import own_database, sql
from tests.world import rows

PAYING: Final = f"{__name__}:payer"
MAX_TOKENS: Final = 100
INPUT, OUTPUT = 1_000, 20
PRICE: Final = 1_000
"""Of a token of either kind, in nano-USD."""
COST: Final = (INPUT + OUTPUT) * PRICE
BOUND: Final = (len("task 000") + 2_048 + MAX_TOKENS) * PRICE
SPENT: Final = "SELECT coalesce(sum(coalesce(cost_nano_usd, exposure_nano_usd)), 0) FROM attempts"
UNBOUNDED: Final = "SELECT count(*) FROM attempts WHERE coalesce(cost_nano_usd, exposure_nano_usd) IS NULL"
ENDS: Final = "SELECT state, coalesce(error_type, ''), count(*) FROM tasks GROUP BY 1, 2"
OPEN: Final = "SELECT count(*) FROM tasks WHERE ended_at_ms IS NULL"


class Payer(Caller):
    """A caller whose answers are billed, all the same."""

    async def execute(self, *args: Any, **options: Any) -> ExecutionResult:
        result = await super().execute(*args, **options)
        none = dict.fromkeys(("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"), 0)
        row = Usage(model=self.model, input_uncached_tokens=INPUT, output_tokens=OUTPUT, **none)
        return result.model_copy(update={"usage": (row,), "usage_source": "provider", "served_model": self.model})


def payer(model: str, **settings: Any) -> Payer:
    """Make the client that a configuration names."""
    return Payer(model, **settings)


def capped(url: str, cap: int) -> Config:
    """Configure a cap a day, in nano-USD, and a price for the payer's model."""
    return Config.model_validate(
        {
            "retry": {"max_tokens": MAX_TOKENS, "max_orphans": 1000},
            "tiers": {"haiku": {"provider": PAYING, "model": "plain"}},
            "providers": {PAYING: {"url": url, "concurrency": 64}},
            "breakers": {"failures": 0},
            "budget": {"per_label": {"team=a": cap / 10**9}, "max_usd_per_day": 1000},
            "prices": {f"{PAYING}/plain": {"input_usd_per_mtok": PRICE / 1000, "output_usd_per_mtok": PRICE / 1000}},
        }
    )


def working(pipe: Connection, place: str, home: Path, url: str, cap: int) -> None:
    """Work as ``worker --drain`` does."""
    os.environ["XDG_STATE_HOME"] = str(home)

    async def work() -> None:
        async with Ledger.open(place, create=False) as ledger, Executor(ledger, capped(url, cap)) as executor:
            HERE.worker = executor.worker
            await executor.work(drain=True, concurrency=8)

    asyncio.run(work())
    pipe.send("drained")


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


def watched(place: str, home: Path, url: str, cap: int, workers: int, kills: int) -> list[int]:
    """Keep workers at work and kill them; return what stood against the cap from look to look."""
    draw, looks, killed = random.Random(11), [], 0  # noqa: S311 - who dies when, not secrecy
    arguments = (working, place, home, url, cap)
    with mortals() as living:
        living += [Mortal(*arguments) for _ in range(workers)]
        while any(mortal.lives for mortal in living):
            looks.append(int(asyncio.run(asked(place, SPENT))[0][0]))
            time.sleep(draw.uniform(0.02, 0.1))
            if killed < kills and asyncio.run(asked(place, OPEN)) != [(0,)]:
                victim = draw.choice(living)
                killed += victim.lives
                victim.signal(signal.SIGKILL)
                victim.ended()
                living.remove(victim)
                living.append(Mortal(*arguments))
        assert {mortal.ended() for mortal in living} == {0}
        living.clear()
    return looks


@pytest.mark.parametrize(
    ("engine", "count", "workers", "kills"),
    [
        pytest.param("sqlite", 16, 2, 1, id="short"),
        pytest.param("sqlite", 200, 5, 25, id="long", marks=pytest.mark.slow),
        pytest.param("postgresql", 200, 5, 25, id="long, on PostgreSQL", marks=pytest.mark.slow),
    ],
)
async def test_nobody_overspends(tmp_path: Path, engine: str, count: int, workers: int, kills: int) -> None:
    """Neither many workers nor a kill at any instant: what was called and may be billed is always within the cap."""
    cap = BOUND * 4 + COST * (count // 4)
    async with a_ledger(engine, tmp_path) as place:
        with Witness() as witness:
            witness.latency_s = 0.05
            async with Ledger.open(place) as ledger, Executor(ledger, capped(witness.url, cap)) as executor:
                for number in range(count):
                    await executor.submit("haiku", f"task {number:03}", labels={"team": "a"})
            looks = await asyncio.to_thread(watched, place, tmp_path, witness.url, cap, workers, kills)
            calls = len(witness.calls())
        ((spent,),) = await asked(place, SPENT)
        assert max(*looks, int(spent)) <= cap
        assert calls * COST <= spent, "each call is in the ledger, with its cost or more"
        assert spent > cap - BOUND, "what was there to spend was spent"
        assert await asked(place, UNBOUNDED) == [(0,)]
        ends = {(state, error): tasks for state, error, tasks in await asked(place, ENDS)}
        assert set(ends) == {("succeeded", ""), ("failed", "budget_refused")}
        assert sum(ends.values()) == count
        async with Ledger.open(place) as ledger:
            assert (await verify(await ledger.store())).problems == ()
