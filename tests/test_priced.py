"""What a dispatch costs, from a real call to the ledger: to the nano-dollar what the source of prices makes of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from genai_prices import Usage as GenaiUsage
from genai_prices import calc_price

from clients.anthropic import AnthropicClient
from clients.base import ExecutionResult, Usage
from ledger import Config, Executor, Ledger
from ledger.executor.books import STREAM, in_force
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.prices.source import build_book, source_version
from ledger.store.memory import MemoryStore
from ledger.system_events import PriceBookPublished
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.world import World, answer, fail, rows

HAIKU: Final = "claude-haiku-5-5"
OWN: Final = {"anthropic/own": {"input_usd_per_mtok": Decimal("1.5"), "output_usd_per_mtok": Decimal("7.5")}}


@pytest.fixture
def server() -> Iterator[api.Anthropic]:
    with Emulator() as running:
        yield api.Anthropic(running)


@asynccontextmanager
async def dispatching(server: api.Anthropic, path: Path, config: Config | None = None) -> AsyncIterator[Executor]:
    """Open an executor whose calls go to the emulator."""

    def build(_provider: str, model: str, _settings: Mapping[str, Any]) -> AnthropicClient:
        return AnthropicClient(model, api_key="sk-canary-0123456789", base_url=server.url)

    async with Ledger.open(path) as ledger, Executor(ledger, config or Config(), build=build) as executor:
        yield executor


def theirs(counts: Mapping[str, Any], at_ms: int, model: str = HAIKU) -> int:
    """Ask the source of prices what a call cost, in nano-USD."""
    written = counts["cache_creation"]
    usage = GenaiUsage(
        input_tokens=counts["input_tokens"] + counts["cache_read_input_tokens"] + counts["cache_creation_input_tokens"],
        cache_read_tokens=counts["cache_read_input_tokens"],
        cache_write_tokens=counts["cache_creation_input_tokens"],
        cache_write_5m_tokens=written["ephemeral_5m_input_tokens"],
        cache_write_1h_tokens=written["ephemeral_1h_input_tokens"],
        output_tokens=counts["output_tokens"],
    )
    price = calc_price(
        usage,
        model,
        provider_id="anthropic",
        genai_request_timestamp=datetime.fromtimestamp(at_ms / 1000, UTC),
    )
    return int((price.total_price * 10**9).to_integral_value(ROUND_HALF_EVEN))


def counts(**given: int) -> dict[str, Any]:
    """Return a usage as the provider sends it: cached, written for an hour, and with thinking in its output."""
    short, long = given.get("short", 70), given.get("long", 30)
    return {
        "input_tokens": given.get("plain", 11),
        "cache_read_input_tokens": given.get("read", 207),
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "output_tokens": given.get("output", 503),
        "output_tokens_details": {"thinking_tokens": given.get("thinking", 400)},
    }


async def test_a_cost_is_that_of_the_source_to_the_nano_dollar(server: api.Anthropic, tmp_path: Path) -> None:
    """With caching and thinking, summed over a task's attempts; a start carries its bound, and all name one book."""
    told = counts()
    server.script(
        api.error(529, "overloaded_error"), api.answer("hi", usage=told), api.answer("yo", usage=counts(plain=1))
    )
    config = Config.from_mapping({"retry": {"backoff_initial_s": 0}})
    async with dispatching(server, tmp_path / "l.db", config) as executor:
        first = await executor.execute("haiku", "Grüße", max_tokens=100, system="short")
        second = await executor.execute("haiku", "again")
    attempts = rows(tmp_path / "l.db", "SELECT * FROM attempts ORDER BY started_at_ms, attempt")
    expected = [theirs(told, attempts[1]["started_at_ms"]), theirs(counts(plain=1), attempts[2]["started_at_ms"])]
    assert [(first.cost_nano_usd, first.attempts), (second.cost_nano_usd, second.attempts)] == [
        (expected[0], 2),
        (expected[1], 1),
    ]
    assert [row["cost_nano_usd"] for row in attempts] == [0, *expected]
    (book,) = rows(
        tmp_path / "l.db", f"SELECT json_extract(data, '$.price_book') AS b FROM events WHERE task_id = '{STREAM}'"
    )
    assert [row["price_book"] for row in attempts] == [None, book["b"], book["b"]]
    starts = rows(
        tmp_path / "l.db",
        "SELECT json_extract(data, '$.upper_bound_nano_usd') AS bound, json_extract(data, '$.price_book') AS b "
        "FROM events WHERE type = 'attempt.started' ORDER BY position",
    )
    assert starts[0] == {"bound": _bound(len("Grüße".encode()) + len("short"), 100), "b": book["b"]}


def _bound(size: int, max_tokens: int) -> int:
    """Work the contract's bound out from the book's own figures: a cache write for an hour is the dearest input."""
    model = build_book({}).model("anthropic", HAIKU)
    assert model is not None
    rates = model.prices[-1].rates
    dear_in = max(rate.dearest for part, rate in rates.items() if rate is not None and part != "output")
    dear_out = rates["output"]
    assert dear_out is not None
    return -int(-((size + 2048) * dear_in + max_tokens * dear_out.dearest) // 1_000_000)


USAGE: Final = Usage(
    model=HAIKU,
    input_uncached_tokens=1_000,
    cache_read_tokens=0,
    cache_write_5m_tokens=0,
    cache_write_1h_tokens=0,
    output_tokens=100,
)
PLAIN: Final = 1_000 * 100 + 100 * 500
"""What that usage costs at haiku's $0.10 and $0.50 a million, in nano-USD."""
SONNET: Final = 1_000 * 2_000 + 100 * 10_000


def billed(*usage: Usage, served: str = HAIKU, **known: Any) -> ExecutionResult:
    """Return an answer with these rows of usage."""
    return answer().model_copy(update={"usage": usage, "served_model": served, **known})


@pytest.mark.parametrize(
    ("play", "cost", "exposed"),
    [
        pytest.param(billed(USAGE), PLAIN, False, id="one row"),
        pytest.param(
            billed(USAGE, USAGE.model_copy(update={"model": "claude-sonnet-5-5"})),
            PLAIN + SONNET,
            False,
            id="two models",
        ),
        pytest.param(billed(USAGE.model_copy(update={"service_tier": "standard"})), PLAIN, False, id="standard tier"),
        pytest.param(billed(USAGE.model_copy(update={"service_tier": "priority"})), None, False, id="unpriced tier"),
        pytest.param(billed(USAGE.model_copy(update={"inference_geo": "us"})), None, False, id="unpriced place"),
        pytest.param(billed(USAGE.model_copy(update={"model": None})), PLAIN, False, id="the served model's row"),
        pytest.param(
            billed(USAGE.model_copy(update={"model": "new"}), served="new"), None, False, id="served unpriced"
        ),
        pytest.param(billed(USAGE.model_copy(update={"output_tokens": None})), None, True, id="a count unknown"),
        pytest.param(billed(USAGE, usage_source="stream_partial"), None, True, id="partial"),
        pytest.param(billed(USAGE, usage_source="estimated"), None, True, id="estimated"),
        pytest.param(fail("timeout"), None, True, id="timeout"),
        pytest.param(fail("rate_limited"), 0, False, id="not billed"),
    ],
)
async def test_what_an_outcome_is_charged(
    tmp_path: Path, play: ExecutionResult, cost: int | None, *, exposed: bool
) -> None:
    """Known from the provider's own counts alone; else the start's bound, where a price is known; never zero."""
    world = World(tmp_path, [play])
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Try", retry_count=0)
    (row,) = rows(world.path, "SELECT cost_nano_usd, exposure_nano_usd, price_book FROM attempts")
    (start,) = rows(
        world.path,
        "SELECT json_extract(data, '$.upper_bound_nano_usd') AS b FROM events WHERE type = 'attempt.started'",
    )
    assert (result.cost_nano_usd, row["cost_nano_usd"]) == (cost, cost)
    assert row["exposure_nano_usd"] == (start["b"] if exposed else None)
    assert (row["price_book"] is None) == (not cost and not exposed)


async def test_an_unpriced_model_has_no_cost_and_no_bound(tmp_path: Path) -> None:
    """Nobody knows its price, so both stay unknown; a simulated model is unpriced and needs no book at all."""
    config = Config.from_mapping({"tiers": {"haiku": {"model": "claude-99"}, "opus": {"provider": "simulated"}}})
    world = World(tmp_path, [billed(USAGE)], config=config)
    async with world.executor() as executor:
        await executor.execute("opus", "simulated")
        assert [] == rows(world.path, f"SELECT 1 FROM events WHERE task_id = '{STREAM}'")
        world.script = [billed(USAGE.model_copy(update={"model": "claude-99"}), served="claude-99")]
        await executor.execute("haiku", "unpriced")
    money = rows(world.path, "SELECT cost_nano_usd, exposure_nano_usd, price_book FROM attempts")
    assert [(None, None, None)] * 2 == [tuple(row.values()) for row in money]


async def test_own_prices_price_anything(tmp_path: Path) -> None:
    """Also what no source knows, as a simulated model."""
    config = Config.from_mapping(
        {
            "tiers": {"opus": {"provider": "simulated", "model": "own"}},
            "prices": {"simulated/own": {"input_usd_per_mtok": Decimal("1.5"), "output_usd_per_mtok": 7}},
        }
    )
    row = USAGE.model_copy(update={"model": "own"})
    world = World(tmp_path, [billed(row, served="own")], config=config)
    async with world.executor() as executor:
        result = await executor.execute("opus", "Try")
    assert result.cost_nano_usd == 1_000 * 1_500 + 100 * 7_000


async def test_the_price_is_that_of_the_start(tmp_path: Path) -> None:
    """A price that changes while the call runs is the next call's: this model's doubles on 1 January 2027."""
    model, step_ms = "gemini-3.8-flash", 1_798_761_600_000
    config = Config.from_mapping({"tiers": {"flash": {"model": model}}})
    world = World(tmp_path, config=config, now_ms=step_ms - 1)

    async def slowly() -> ExecutionResult:
        world.now_ms += 1_000
        return billed(USAGE.model_copy(update={"model": model}), served=model)

    world.script = [slowly]
    async with world.executor() as executor:
        costs = [(await executor.execute("flash", "Try")).cost_nano_usd for _ in range(2)]
    assert costs == [1_000 * 750 + 100 * 3_750, 1_000 * 1_500 + 100 * 7_500]


async def test_a_book_is_published_once_for_what_it_is_made_of() -> None:
    """Another start finds it; other prices are another book beside it; the first is found again after that."""
    store = MemoryStore(now_ms=lambda: 1_790_000_000_000)
    desk = Desk(store, Ports(), "worker:1")
    own = Config.from_mapping({"prices": OWN}).prices
    plain, ours, again = [await in_force(desk, prices) for prices in ({}, own, {})]
    published = [recorded.event() for recorded in await store.read(STREAM)]
    assert [
        (event.price_book, event.source_version) for event in published if isinstance(event, PriceBookPublished)
    ] == [
        (plain.digest, source_version({})),
        (ours.digest, source_version(own)),
    ]
    assert (again.digest, len(published)) == (plain.digest, 2)


START: Final = """
import asyncio, sys
from ledger import Config, Executor, Ledger

async def main():
    config = Config.from_mapping({"tiers": {"haiku": {"model": "claude-haiku-5-5"}}})
    async with Ledger.open(sys.argv[1]) as ledger, Executor(ledger, config) as executor:
        bench = await executor._bench()
        book = await bench.books.of("anthropic")
    print(book.digest[:8], "genai_prices" in sys.modules)

asyncio.run(main())
"""


async def test_a_ledger_that_has_its_book_starts_without_the_source(tmp_path: Path) -> None:
    """Making a book takes a quarter of a second; reading one a few milliseconds."""
    world = World(tmp_path)
    async with world.executor() as executor:
        await executor.execute("haiku", "Try")
    command = [sys.executable, "-c", START, str(world.path)]
    said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == f"{build_book({}).digest[:8]} False\n"
