"""``prices`` and ``reconcile`` as people and programs use them: what they write, and their exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from ledger.envelope import Append, NewEvent
from ledger.prices.listing import models_of
from ledger.prices.source import build_book, source_version
from ledger.store.opening import open_store
from ledger.store.protocol import Store
from ledger.system_events import PriceBookPublished
from tests.accounts import HAIKU, Account, book, publish, usage
from tests.command_line import CommandLine, sql
from tests.contracts.appends import Clock
from tests.histories import START_MS
from tests.ledgers import fresh_ledger

LEDGER: Final = "dispatch.db"
OWN: Final = """
[tiers.opus]
provider = "simulated"
model = "nobody-prices-it"
[prices."anthropic/claude-haiku-5-5"]
input_usd_per_mtok = 7
output_usd_per_mtok = 9
above = [{ input_tokens = 1000, input_usd_per_mtok = 8 }]
[prices."anthropic/claude-sonnet-5-5"]
inference_geo = { us = 1.1 }
"""


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """An empty folder."""
    assert not list(empty_folder.iterdir())
    return CommandLine(capsys)


def filled(write: Callable[[Store], Awaitable[object]]) -> None:
    """Make a ledger in the working folder."""
    fresh_ledger(Path()).rename(LEDGER)

    async def work() -> None:
        store = await open_store(LEDGER, create=False, now_ms=Clock())
        await write(store)
        await store.aclose()

    asyncio.run(work())


async def accounts(store: Store) -> None:
    """Have an answer that is known and a timeout that is not."""
    clock = Clock()
    await publish(store, book())
    await (await Account(store, clock, "a", 1).start()).succeed(usage(100, 10), request_id="req_a")
    await (await Account(store, clock, "b", 1).start()).fail(request_id="req_b")


def test_the_tiers_prices_without_a_ledger(cli: CommandLine) -> None:
    """Steps by size and service tiers have rows of their own, and no ledger is made."""
    told = cli("prices")
    assert 0 == told.code
    assert ["haiku", "anthropic/claude-haiku-5-5", "0.1", "0.01", "0.125", "0.2", "0.5", "genai-prices"] in [
        line.split() for line in told.out.splitlines()
    ]
    assert "above 100,000 in" in told.out
    assert "there is no ledger" in told.err
    assert not Path(LEDGER).exists()


def test_where_prices_come_from(cli: CommandLine) -> None:
    """A price of the configuration, a factor by place, and a model that nobody prices; as one document."""
    Path("dispatch.toml").write_text(OWN)
    told = cli("prices", "--json")
    models = {one["model"]: one for one in told.json["models"]}
    assert ["haiku"] == models[HAIKU]["tiers"]
    steps = [{"input_tokens": 1000, "usd_per_mtok": "8"}]
    assert {"usd_per_mtok": "7", "above": steps} == models[HAIKU]["rates"]["input"]
    assert models[HAIKU]["rates"]["cache_read"] is None
    assert "configuration" == models[HAIKU]["from"]
    assert ("genai-prices, configuration", {"us": "1.1"}) == (
        models["claude-sonnet-5-5"]["from"],
        models["claude-sonnet-5-5"]["inference_geo"],
    )
    assert not models["nobody-prices-it"]["priced"]
    assert "unpriced" in cli("prices").out
    checked = cli("prices", "check")
    assert (1, True) == (checked.code, "opus: no price is known for simulated/nobody-prices-it" in checked.out)


def test_a_model_and_a_date(cli: CommandLine) -> None:
    """A model is found at whoever has it; a date shows that day's prices and when they change."""
    told = cli("prices", "--model", "anthropic/claude-haiku-5-5", "--as-of", "2026-11-01", "--json").json
    assert 1_793_491_200_000 == told["as_of_ms"]
    assert [True] == [one["priced"] for one in told["models"]]
    assert "unpriced" in cli("prices", "--model", "no-such-model").out
    assert len(cli("prices", "--all", "--json").json["models"]) > 50


def test_books_of_a_ledger(cli: CommandLine) -> None:
    """Each is listed, found by the beginning of its digest, compared with the others, and checked."""
    now = build_book({})

    async def write(store: Store) -> None:
        await publish(store, book())
        event = PriceBookPublished(
            price_book=now.digest,
            source="genai-prices",
            source_version=source_version({}),
            as_of_ms=START_MS,
            content=now.text,
        )
        await store.append(Append("ledger:prices", 1, (NewEvent("now", event, "system"),)))

    filled(write)
    listed = cli("prices", "books", "--json").json
    priced = sum(1 for _, model in models_of(now) if model.prices)
    assert [(book().digest, START_MS, 2, False), (now.digest, START_MS, priced, True)] == [
        (one["price_book"], one["published_at_ms"], one["models"], one["current"]) for one in listed
    ]
    assert now.digest[:12] in cli("prices", "books").out
    assert "in the ledger since 2026-09-21" in cli("prices").err
    (old,) = cli("prices", "--book", book().digest[:6], "--model", f"anthropic/{HAIKU}", "--json").json["models"]
    assert "2" == old["rates"]["input"]["usd_per_mtok"]
    differ = cli("prices", "diff", book().digest[:8], "--json")
    changed = {(one["provider"], one["model"]): one for one in differ.json["changes"]}
    assert 1 == differ.code
    assert {"usd_per_mtok": "8", "above": []} == changed["anthropic", HAIKU]["rates"]["output"]["before"]
    assert "added" == changed["anthropic", "claude-opus-5-5"]["change"]
    assert "output: 8 → 0.5, 2.5 above 100,000" in cli("prices", "diff", book().digest[:8]).out
    assert 0 == cli("prices", "diff", now.digest, "current").code
    assert 0 == cli("prices", "check").code


def test_a_book_that_was_changed_and_one_that_lags(cli: CommandLine) -> None:
    """`prices check` finds both; the others still list what can be read."""

    async def write(store: Store) -> None:
        await publish(store, book())
        event = PriceBookPublished(
            price_book="0" * 64, source="genai-prices", source_version="x", as_of_ms=0, content=book().text
        )
        await store.append(Append("ledger:prices", 1, (NewEvent("x", event, "system"),)))

    filled(write)
    told = cli("prices", "check", "--json")
    assert (1, ["content"]) == (told.code, [one["kind"] for one in told.json["findings"]])
    assert "unreadable" in cli("prices", "books").out
    assert 3 == cli("prices", "--book", "0000").code


def test_prices_that_lag(cli: CommandLine) -> None:
    """A ledger whose newest book is not what this installation would make is told of."""

    async def write(store: Store) -> None:
        await publish(store, book())

    filled(write)
    told = cli("prices", "check")
    assert (1, True) == (told.code, told.out.startswith("lags: the newest book"))


@pytest.mark.parametrize(
    "argv",
    [
        ("prices", "--book", "abc"),
        ("prices", "diff", "abc"),
        ("prices", "--json", "books"),
        ("prices", "--as-of", "soon"),
        ("reconcile", "no-such-file.csv"),
    ],
)
def test_a_wrong_word(cli: CommandLine, argv: tuple[str, ...]) -> None:
    """It is a mistake of usage."""
    assert 2 == cli(*argv).code


def test_reconcile(cli: CommandLine) -> None:
    """Exit code 1 while anything differs, 0 when all agrees; again it settles nothing."""
    filled(accounts)
    day = datetime.fromtimestamp(START_MS // 1000, UTC).strftime("%Y-%m-%d")
    header = "time,provider,model,request_id,input_uncached_tokens,cache_read_tokens,cache_write_5m_tokens"
    counts = {"req_a": "100,0,0,0,10", "req_b": "7,0,0,0,3"}
    rows = [f"{day}T10:00:00Z,anthropic,{HAIKU},{name},{figures}" for name, figures in counts.items()]
    whole = "\n".join((f"{header},cache_write_1h_tokens,output_tokens", *rows))
    Path("part.csv").write_text(whole.rsplit("\n", 1)[0])
    Path("whole.csv").write_text(whole)
    part = cli("reconcile", "part.csv")
    assert 1 == part.code
    assert "0.001000" in part.out
    dry = cli("reconcile", "whole.csv", "--dry-run")
    assert (0, True) == (dry.code, dry.out.startswith("would settle b attempt 1: 0.000038 USD, by request req_b"))
    events = sql(LEDGER, "SELECT COUNT(*) FROM events")
    told = cli("reconcile", "whole.csv", "--json")
    assert (0, True, "b", 38_000) == (
        told.code,
        told.json["agrees"],
        told.json["settled"][0]["task_id"],
        told.json["settled"][0]["cost_nano_usd"],
    )
    assert [(events[0][0] + 1,)] == sql(LEDGER, "SELECT COUNT(*) FROM events")
    again = cli("reconcile", "whole.csv", "--json")
    assert (0, []) == (again.code, again.json["settled"])
    assert [(events[0][0] + 1,)] == sql(LEDGER, "SELECT COUNT(*) FROM events")
    assert [("settled", 38_000)] == sql(LEDGER, "SELECT state, cost_nano_usd FROM attempts WHERE task_id = 'b'")
    assert [(38_000,)] == sql(LEDGER, "SELECT cost_nano_usd FROM tasks WHERE task_id = 'b'")


def test_reconcile_with_a_bad_file(cli: CommandLine) -> None:
    """A mistake in the last line refuses the whole file, and nothing is appended."""
    filled(accounts)
    events = sql(LEDGER, "SELECT COUNT(*) FROM events")
    lines = ["day,provider,model,request_id,output_tokens,cost_usd"]
    lines += [f"2026-09-21,anthropic,{HAIKU},req_b,3,0.5", f"2026-09-21,anthropic,{HAIKU},req_c,-3,"]
    Path("bad.csv").write_text("\n".join(lines))
    told = cli("reconcile", "bad.csv")
    assert (2, True) == (told.code, "bad.csv: line 3: output_tokens" in told.err)
    assert events == sql(LEDGER, "SELECT COUNT(*) FROM events")


def test_reconcile_without_a_ledger(cli: CommandLine) -> None:
    """It reads and settles; it makes no ledger."""
    Path("export.json").write_text(json.dumps({"data": []}))
    assert 3 == cli("reconcile", "export.json").code
    assert not Path(LEDGER).exists()
