"""Reconciling: what a provider's export settles, what it leaves, and what no file may do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import events as e
from ledger.audit import verify
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.prices.shelf import published
from ledger.reconciling.billed import COUNTS
from ledger.reconciling.matching import Match
from ledger.reconciling.ours import Unknown
from ledger.reconciling.settling import Shelf, account_of, settle
from ledger.reconciling.work import Reconciled, reconcile
from ledger.store.opening import open_store
from ledger.store.protocol import Store
from tests.accounts import FLASH, HAIKU, Account, book, ledger_on, publish, usage
from tests.contracts.appends import Clock

HEADER: Final = ",".join(("time", "provider", "model", "request_id", *COUNTS, "cost_usd"))
FAR_MS: Final = 4_000_000_000_000
HAIKU_A: Final = 100 * 2000 + 10 * 8000


@dataclass
class Scene:
    """A ledger, and the day of its attempts."""

    store: Store
    folder: Path
    day: str = ""
    now_ms: int = FAR_MS

    async def reconcile(self, content: str | bytes, name: str = "export.csv", **options: Any) -> Reconciled:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        desk = Desk(self.store, Ports(now_ms=lambda: self.now_ms), "person")
        return await reconcile(desk, path, {}, **options)

    async def attempt(self, task_id: str) -> dict[str, Any]:
        return dict((await self.store.projected(task_id)).attempts[0])


ENGINES: Final = pytest.mark.parametrize("scene", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """One answer, one timeout with a request id and one orphan on haiku, an orphan on flash."""
    async with ledger_on(getattr(request, "param", "sqlite"), tmp_path) as place:
        clock = Clock()
        store = await open_store(place, create=False, now_ms=clock)
        await publish(store, book())
        answer = await Account(store, clock, "a", 1).start()
        await answer.succeed(usage(100, 10), request_id="req_a")
        await (await Account(store, clock, "b", 1).start()).fail(request_id="req_b")
        await (await (await Account(store, clock, "c", 1).start()).orphan()).cancel()
        await (await (await Account(store, clock, "d", 0).start()).orphan()).cancel()
        started_at_ms = (await store.projected("a")).attempts[0]["started_at_ms"]
        day = datetime.fromtimestamp(started_at_ms // 1000, UTC).strftime("%Y-%m-%d")
        yield Scene(store, tmp_path, day)
        await store.aclose()


def plain(scene: Scene, *rows: str) -> str:
    return "\n".join((HEADER, *(f"{scene.day}T12:00:00Z,{row}" for row in rows))) + "\n"


def report(scene: Scene, *results: dict[str, Any], **page: Any) -> str:
    """Write a usage or cost report of the scene's day."""
    after = datetime.fromtimestamp(datetime.fromisoformat(scene.day).replace(tzinfo=UTC).timestamp() + 86_400, UTC)
    bucket = {
        "starting_at": f"{scene.day}T00:00:00Z",
        "ending_at": f"{after:%Y-%m-%d}T00:00:00Z",
        "results": list(results),
    }
    return json.dumps({"data": [bucket], "has_more": False, "next_page": None, **page})


def result(uncached: int, output: int, **changes: Any) -> dict[str, Any]:
    """Write a row of a usage report."""
    fields = {
        "uncached_input_tokens": uncached,
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
        "cache_read_input_tokens": 0,
        "output_tokens": output,
        "server_tool_use": {"web_search_requests": 0},
        "model": HAIKU,
        "service_tier": "standard",
        "context_window": "0-200k",
        "workspace_id": None,
        "api_key_id": None,
    }
    return fields | changes


async def problems(scene: Scene) -> list[Any]:
    """Verify; the histories here have no texts, and say so."""
    return [one for one in (await verify(scene.store)).problems if one.kind != "payload"]


@ENGINES
async def test_by_request_id(scene: Scene) -> None:
    """Whole counts are priced by the start's book whatever the export says of money; the tables and `verify` agree."""
    content = plain(scene, f"anthropic,{HAIKU},req_a,100,0,0,0,10,0.00", f"anthropic,{HAIKU},req_b,7,6,5,4,3,0.01")
    done = await scene.reconcile(content)
    assert [("b", "request_id")] == [(one.match.unknown.task_id, one.match.by) for one in done.settled]
    row = await scene.attempt("b")
    cost = 7 * 2000 + 6 * 200 + 5 * 2500 + 4 * 4000 + 3 * 8000
    expected = {
        "state": "settled",
        "error_type": "timeout",
        "cost_nano_usd": cost,
        "exposure_nano_usd": None,
        "usage_source": "provider",
        "tokens_input": 22,
        "tokens_output": 3,
        "price_book": book().digest,
    }
    assert expected == {name: row[name] for name in expected}
    assert cost == (await scene.store.projected("b")).tasks[0]["cost_nano_usd"]
    assert [] == await problems(scene)
    last = (await scene.store.read("b"))[-1].event()
    assert isinstance(last, e.AttemptSettled)
    assert ("reconciled", "failed", None) == (last.via, last.outcome, last.error_type)
    assert "req_b" in (last.raw_usage or "")


@ENGINES
async def test_again_changes_nothing(scene: Scene) -> None:
    """The same file a second time appends no event, and finds the same differences but for what was settled."""
    content = plain(scene, f"anthropic,{HAIKU},req_b,7,6,5,4,3,")
    first = await scene.reconcile(content)
    newest = await scene.store.newest()
    again = await scene.reconcile(content)
    assert (1, 0) == (len(first.settled), len(again.settled))
    assert newest == await scene.store.newest()
    assert [day.differences for day in first.days] == [day.differences for day in again.days]
    assert [(day.known.unknown, day.known.cost_nano_usd) for day in first.days] == [
        (day.known.unknown, day.known.cost_nano_usd) for day in again.days
    ]


async def test_a_dry_run_appends_nothing(scene: Scene) -> None:
    """It says the same as the run itself."""
    newest = await scene.store.newest()
    content = plain(scene, f"anthropic,{HAIKU},req_b,7,6,5,4,3,")
    dry = await scene.reconcile(content, dry_run=True)
    assert newest == await scene.store.newest()
    real = await scene.reconcile(content)
    assert [one.event for one in dry.settled] == [one.event for one in real.settled]
    assert [(day.group, day.known) for day in dry.days] == [(day.group, day.known) for day in real.days]


@ENGINES
async def test_the_rest_of_a_day(scene: Scene) -> None:
    """What is left of a day is the one unknown attempt's; a dated model name is the same model."""
    both = plain(scene, f"anthropic,{HAIKU},req_b,7,0,0,0,3,")
    await scene.reconcile(both)
    done = await scene.reconcile(report(scene, result(157, 18, model=f"{HAIKU}-20260101")), "usage.json")
    assert [("c", "model_and_day")] == [(one.match.unknown.task_id, one.match.by) for one in done.settled]
    row = await scene.attempt("c")
    assert ("settled", "worker_died", 50 * 2000 + 5 * 8000) == (row["state"], row["error_type"], row["cost_nano_usd"])
    assert [True] == [day.agrees for day in done.days]
    assert done.agrees
    assert [] == await problems(scene)


async def test_nothing_left_is_nothing_billed_only_in_a_report(scene: Scene) -> None:
    """A report that says all of a day makes the unknown rest a known zero; a list of requests does not."""
    content = plain(scene, f"anthropic,{HAIKU},req_a,100,0,0,0,10,", f"anthropic,{HAIKU},req_b,7,0,0,0,3,")
    (day,) = (await scene.reconcile(content)).days
    assert "nothing is left for it, and a list need not be complete" == day.why
    assert (await scene.reconcile(report(scene, result(107, 13)), "usage.json")).agrees
    row = await scene.attempt("c")
    assert (0, None, "settled") == (row["cost_nano_usd"], row["exposure_nano_usd"], row["state"])


async def test_two_unknown_attempts_are_told_apart_by_nobody(scene: Scene) -> None:
    """A usage report settles neither, and says how much is left."""
    done = await scene.reconcile(report(scene, result(107, 13)), "usage.json")
    assert [] == done.settled
    (day,) = done.days
    assert "several attempts are unknown" == day.why
    assert (2, 2, HAIKU_A, False) == (day.known.unknown, day.known.uncounted, day.known.cost_nano_usd, day.agrees)


async def test_a_cost_without_counts(scene: Scene) -> None:
    """By request id it is taken as it stands, exact, without a book; what was counted before stays."""
    done = await scene.reconcile(plain(scene, f"anthropic,{HAIKU},req_b,,,,,,0.0000123456789"))
    assert 1 == len(done.settled)
    row = await scene.attempt("b")
    assert (12_346, None, "unknown") == (row["cost_nano_usd"], row["price_book"], row["usage_source"])


async def test_a_cost_report(scene: Scene) -> None:
    """Its cents are exact; alone on its day an attempt has the whole cost, beside others none."""
    amounts = [
        {"amount": "0.02801", "currency": "USD", "model": HAIKU, "cost_type": "tokens", "token_type": token_type}
        for token_type in ("uncached_input_tokens", "output_tokens")
    ]
    searched = {"amount": "1", "currency": "USD", "model": None, "cost_type": "web_search"}
    done = await scene.reconcile(report(scene, *amounts, searched), "cost.json")
    searches, tokens = done.days
    assert (None, 10_000_000) == (searches.group[2], searches.cost_difference)
    assert (560_200 - HAIKU_A, "several attempts are unknown") == (tokens.cost_difference, tokens.why)
    content = "\n".join(("day,provider,model,cost_usd", f"{scene.day},gemini,{FLASH},0.000777"))
    done = await scene.reconcile(content)
    assert [("d", 777_000)] == [(one.match.unknown.task_id, one.event.cost_nano_usd) for one in done.settled]
    assert done.agrees


CONSOLE_USAGE: Final = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count,inference_geo,speed\r\n"
    '{day},{model},"key, one",Default,standard,≤ 200k,100,0,0,0,10,0,global,\r\n'
)
CONSOLE_COST: Final = (
    "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,"
    "cost_type,inference_geo,speed\n"
    "{day},Claude Haiku 5.5,Default,key,message,≤ 200k,input_no_cache,0.00,0.00,token,global,\n"
    "{day},Claude Haiku 5.5,Default,key,message,≤ 200k,output,0.00,0.00,token,global,\n"
)


@pytest.mark.parametrize(("name", "content"), [("usage", CONSOLE_USAGE), ("cost", CONSOLE_COST)], ids=["usage", "cost"])
async def test_what_the_console_saves(scene: Scene, name: str, content: str) -> None:
    """Its usage has every count; its cost is rounded to cents and settles nothing. A mark of byte order is no field."""
    text = content.format(day=scene.day, model=HAIKU)
    done = await scene.reconcile(b"\xef\xbb\xbf" + text.encode())
    assert (f"console_{name}", []) == (done.form, done.settled)
    (day,) = done.days
    assert HAIKU_A == day.known.cost_nano_usd
    if name == "usage":
        assert {count: day.known.counts[count] for count in COUNTS} == day.theirs.counts
    else:
        assert 10_000_000 == day.theirs.rounding_nano_usd


async def test_money_that_no_price_is_known_for_stays_unknown(scene: Scene) -> None:
    """Counts without a price settle nothing: the account stays open for a cost, which then settles it."""
    clock = Clock()
    unpriced = await Account(scene.store, clock, "e", 1).start(upper_bound_nano_usd=None, price_book=None)
    await unpriced.fail(request_id="req_e")
    newest = await scene.store.newest()
    done = await scene.reconcile(plain(scene, f"anthropic,{HAIKU},req_e,7,0,0,0,3,"))
    assert ["no price of it is known, and no cost is given"] == [one.why for one in done.left.values()]
    assert newest == await scene.store.newest()
    done = await scene.reconcile(plain(scene, f"anthropic,{HAIKU},req_e,7,0,0,0,3,0.25"))
    row = await scene.attempt("e")
    assert ([], 250_000_000, 7, None) == (
        list(done.left),
        row["cost_nano_usd"],
        row["input_uncached_tokens"],
        row["price_book"],
    )


async def test_a_request_id_that_two_attempts_share(scene: Scene) -> None:
    """One row cannot be about two calls, so it is about neither."""
    shared = await Account(scene.store, Clock(), "f", 1).start()
    await shared.fail(request_id="req_b")
    done = await scene.reconcile(plain(scene, f"anthropic,{HAIKU},req_b,7,6,5,4,3,"))
    assert [] == done.settled
    assert not done.agrees


async def test_an_attempt_that_was_settled_meanwhile(scene: Scene) -> None:
    """Who comes second appends nothing and says so."""
    content = plain(scene, f"anthropic,{HAIKU},req_b,7,6,5,4,3,")
    await scene.reconcile(content, "first.csv")
    newest = await scene.store.newest()
    stale = Unknown("b", 1, "haiku", "anthropic", HAIKU, 0, "req_b", None, 0)
    shelf = Shelf(await published(scene.store))
    match = Match(stale, "request_id", (usage(7, 3),), None)
    stream = await scene.store.read("b")
    assert "it has been settled meanwhile" == account_of(stream, match, shelf)
    event = account_of(stream[:-1], match, shelf)
    assert isinstance(event, e.AttemptSettled)
    assert not await settle(Desk(scene.store, Ports(), "person"), "b", stream[:-1], event)
    assert newest == await scene.store.newest()
