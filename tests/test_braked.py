"""Dispatches against breakers, from the caller's side: what is still called, and what the ledger tells of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Config
from ledger.errors import ClientUnready
from tests.world import START_MS, Play, World, answer, fail, rows

FLASH: Final = "gemini-2.5-flash"
HAIKU: Final = "claude-haiku-5-5"
ALONE: Final[dict[str, Any]] = {"tiers": {"flash": {"fallback": "none"}}, "breakers": {"failures": 4}}


def world(folder: Path, config: dict[str, Any], *flash: Play) -> World:
    """Make a world in which flash plays a script, the last entry for ever, and everybody else answers."""
    return World(folder, scripts={FLASH: list(flash)}, config=Config.from_mapping(config))


def decided(here: World) -> Counter[tuple[str, str]]:
    """Count the decisions after the route, by kind and reason."""
    found = rows(here.path, "SELECT decision, reason FROM decisions WHERE decision <> 'route'")
    return Counter((row["decision"], row["reason"]) for row in found)


def moved(here: World) -> list[str]:
    """Tell what flash's breaker did."""
    query = "SELECT coalesce(json_extract(data, '$.cause'), 'closed') AS did FROM events WHERE task_id LIKE 'breaker:%'"
    return [row["did"] for row in rows(here.path, f"{query} ORDER BY position")]


async def test_after_a_429_others_go_to_their_fallback(tmp_path: Path) -> None:
    """Whoever was refused waits as it was told; who comes meanwhile is not sent there, and pays no attempt for it."""
    busy = fail("rate_limited", retry_after_ms=60_000, status_code=429)
    here = world(tmp_path, {}, busy)
    async with here.executor() as executor:
        await executor.execute("flash", "first", retry_count=0)
        later = [await executor.execute("flash", f"later {number}") for number in range(5)]
    assert [(True, "haiku", 1)] * 5 == [(result.success, result.tier, result.attempts) for result in later]
    assert Counter({HAIKU: 6, FLASH: 1}) == Counter(model for model, _ in here.calls)
    assert 5 == decided(here)["fallback", "breaker_open"]
    assert ["retry_after"] == moved(here)


async def test_without_a_fallback_others_wait_for_a_trial(tmp_path: Path) -> None:
    """The wait spends no attempt; the first call afterwards tells whether there is more to wait for."""
    here = world(tmp_path, ALONE, *[fail("overloaded")] * 4, answer())
    async with here.executor() as executor:
        failed = [await executor.execute("flash", f"early {number}", retry_count=0) for number in range(4)]
        opened_ms = here.now_ms
        result = await executor.execute("flash", "later", retry_count=0)
        waited_ms = here.now_ms - opened_ms
        again = await executor.execute("flash", "at last")
    assert [False] * 4 == [each.success for each in failed]
    assert ((True, 1), (True, 1)) == ((result.success, result.attempts), (again.success, again.attempts))
    assert 5000 <= waited_ms < 5100
    assert {("exhausted", "overloaded"): 4, ("retry", "breaker_open"): 1, ("succeed", "answered"): 2} == decided(here)
    assert ["failures", "closed"] == moved(here)


async def test_a_tasks_own_retries_are_not_held_back(tmp_path: Path) -> None:
    """It waits for its backoff, while the breaker that it opened by its last failure is open for others."""
    here = world(tmp_path, ALONE, *[fail("overloaded")] * 5, answer())
    async with here.executor() as executor:
        for number in range(3):
            await executor.execute("flash", f"early {number}", retry_count=0)
        opened_ms = here.now_ms
        result = await executor.execute("flash", "later")
    assert (True, 3, 3000) == (result.success, result.attempts, here.now_ms - opened_ms)
    assert ["failures", "closed"] == moved(here)


async def test_another_executor_is_kept_off_too(tmp_path: Path) -> None:
    """What one has learned stands in the ledger."""
    here = world(tmp_path, {}, fail("rate_limited", retry_after_ms=60_000, status_code=429))
    async with here.executor() as executor:
        await executor.execute("flash", "first", retry_count=0)
    async with here.executor() as executor:
        assert "haiku" == (await executor.execute("flash", "later")).tier
    assert Counter({HAIKU: 2, FLASH: 1}) == Counter(model for model, _ in here.calls)


async def test_none_at_all(tmp_path: Path) -> None:
    """With ``failures = 0`` everybody finds out for himself."""
    here = world(tmp_path, {"breakers": {"failures": 0}}, fail("rate_limited", retry_after_ms=1000, status_code=429))
    async with here.executor() as executor:
        for number in range(3):
            await executor.execute("flash", f"{number}", retry_count=0)
    assert ([], 3) == (moved(here), Counter(model for model, _ in here.calls)[FLASH])
    assert here.now_ms >= START_MS


@pytest.mark.parametrize(
    ("says", "then"), [("timeout", ["retry_after", "trial_failed"]), (None, ["retry_after", "closed"])]
)
async def test_one_trial_decides(tmp_path: Path, says: Any, then: list[str]) -> None:
    """When the time is over one call is let through; the others learn from it."""
    trial = answer() if says is None else fail(says)
    here = world(tmp_path, {}, fail("rate_limited", retry_after_ms=60_000, status_code=429), trial)
    async with here.executor() as executor:
        await executor.execute("flash", "first", retry_count=0)
        here.now_ms += 60_000
        await executor.execute("flash", "trial", retry_count=0)
        assert then == moved(here)
        here.now_ms += 250
        assert ("flash" if says is None else "haiku") == (await executor.execute("flash", "after")).tier


async def test_who_queues_for_a_place_looks_again(tmp_path: Path) -> None:
    """A breaker that opened in the meantime holds for those too who came before it."""
    busy = fail("rate_limited", retry_after_ms=60_000, status_code=429)
    here = world(tmp_path, {"providers": {"gemini": {"concurrency": 2}}}, busy)
    async with here.executor() as executor:
        asked = [executor.execute("flash", f"{number}", retry_count=0) for number in range(30)]
        assert {True} == {result.success for result in await asyncio.gather(*asked)}
    calls = Counter(model for model, _ in here.calls)
    assert calls[FLASH] <= 6  # whoever gets a place between an answer and its record cannot know yet
    assert 30 == calls[HAIKU]


async def test_a_client_that_cannot_be_made_ready_opens_too(tmp_path: Path) -> None:
    """As a provider that cannot be reached does."""
    here = world(tmp_path, {"breakers": {"failures": 3}}, answer())
    here.unready = {"gemini": ClientUnready("no network", error_type="connection")}
    async with here.executor() as executor:
        for number in range(4):
            await executor.execute("flash", f"{number}", retry_count=0)
    assert (["failures"], 1) == (moved(here), decided(here)["fallback", "breaker_open"])
