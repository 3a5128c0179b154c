"""Repricing: as charged then, as known now, under other prices; three readings of the same events on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import types as genai

from ledger import commands as c
from ledger.canonical import INT64_MAX
from ledger.errors import LedgerCorrupt, RequestRefused
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.prices.shelf import Published, chosen, named, published, read_published
from ledger.prices.source import build_book, compose
from ledger.reports.outcomes import PAGE
from ledger.reports.reading import Snapshot, reading
from ledger.reports.repricing import Prices, charged_then, charged_under, repriced
from ledger.store.opening import open_store
from ledger.store.protocol import Store
from ledger.system_events import PriceBookPublished
from tests.accounts import BOUND, FLASH, HAIKU, Account, book, dearer, ledger_on, publish, usage
from tests.contracts.appends import Clock, whole
from tests.histories import START_MS, History, seen, settled
from tests.ledgers import fresh_ledger

HOUR_MS = 3_600_000
UNKNOWN = (None, None)
DATED = genai.Provider(
    "google",
    "Dated",
    "https://example\\.invalid",
    models=[
        genai.ModelInfo(
            FLASH,
            genai.ClauseEquals(FLASH),
            prices=[
                genai.ConditionalPrice(prices=genai.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(8))),
                genai.ConditionalPrice(
                    genai.StartDateConstraint(date(2026, 6, 1)),
                    prices=genai.ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(4)),
                ),
            ],
        )
    ],
)
CACHED = {"cache_read_tokens": 1000, "cache_write_5m_tokens": 10, "cache_write_1h_tokens": 1}


ENGINES = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A ledger with five tasks: answered, failed and answered, orphaned and settled, running, unpriced."""
    async with ledger_on(getattr(request, "param", "sqlite"), tmp_path) as place:
        clock = Clock()
        opened = await open_store(place, create=False, now_ms=clock)
        await publish(opened, book())
        await (await Account(opened, clock, "a", 1).start()).succeed(usage(100, 10, **CACHED))
        told = await (await Account(opened, clock, "b", 0).start(START_MS + HOUR_MS)).fail("overloaded")
        await (await told.start()).fail("rate_limited", usage_source="not_billed")
        await (await told.start()).succeed(usage(7, 5))
        await (await (await Account(opened, clock, "c", 1).start()).orphan()).cancel()
        await Account(opened, clock, "d", 1).start(START_MS + 2 * HOUR_MS)
        unpriced = await Account(opened, clock, "e", 1).start(upper_bound_nano_usd=None, price_book=None)
        await unpriced.succeed(usage(100, 10, service_tier="priority"), served_model="nobody-knows")
        desk = Desk(opened, Ports(now_ms=clock), "worker:01990000-0000-7000-8000-000000000009")
        late = settled(
            1, usage=(usage(50, 5),), usage_source="provider", cost_nano_usd=140_000, price_book=book().digest
        )
        await desk.transact("c", c.Settle(late, seen()))
        yield opened
        await opened.aclose()


async def told(store: Store, prices: Prices, since_ms: int = 0, until_ms: int = INT64_MAX) -> dict[Any, Any]:
    """Return cost and exposure by attempt: then, now, and under other prices."""

    async def work(snapshot: Snapshot) -> dict[Any, Any]:
        pages = [page async for page in repriced(snapshot, prices, since_ms, until_ms)]
        return {
            one.attempt.key: tuple((two.cost_nano_usd, two.exposure_nano_usd) for two in one[1:])
            for page in pages
            for one in page
        }

    return await reading(store, work)


HAIKU_A = 100 * 2000 + 10 * 8000 + 1000 * 200 + 10 * 2500 + 4000
FLASH_B = 7 * 1000 + 5 * 3000


@ENGINES
async def test_the_same_book_changes_nothing(store: Store) -> None:
    """Under the book that they were charged by all costs and bounds are what is known now; a settlement shows."""
    expected = {
        ("a", 1): ((HAIKU_A, None),) * 3,
        ("b", 1): ((None, BOUND),) * 3,
        ("b", 2): ((0, None),) * 3,
        ("b", 3): ((FLASH_B, None),) * 3,
        ("c", 1): ((None, BOUND), (140_000, None), (140_000, None)),
        ("d", 1): ((None, BOUND),) * 3,
        ("e", 1): (UNKNOWN,) * 3,
    }
    assert expected == await told(store, Prices(book()))


async def test_another_book_prices_what_is_known(store: Store) -> None:
    """A bound follows the dearer of input and output; what nobody prices stays unknown."""
    under = {key: three[2] for key, three in (await told(store, Prices(dearer()))).items()}
    assert {
        ("a", 1): (100 * 4000 + 10 * 24_000 + 1000 * 400 + 10 * 5000 + 8000, None),
        ("b", 1): (None, BOUND),
        ("b", 2): (0, None),
        ("b", 3): (FLASH_B, None),
        ("c", 1): (50 * 4000 + 5 * 24_000, None),
        ("d", 1): (None, 3 * BOUND),
        ("e", 1): UNKNOWN,
    } == under


async def test_against_a_tier(store: Store) -> None:
    """The same tokens at another model's standard prices, whoever answered."""
    under = {key: three[2] for key, three in (await told(store, Prices(book(), against=("anthropic", HAIKU)))).items()}
    assert {
        ("a", 1): (HAIKU_A, None),
        ("b", 1): (None, 4 * BOUND),
        ("b", 2): (0, None),
        ("b", 3): (7 * 2000 + 5 * 8000, None),
        ("c", 1): (140_000, None),
        ("d", 1): (None, BOUND),
        ("e", 1): (100 * 2000 + 10 * 8000, None),
    } == under


async def test_the_prices_of_a_day(store: Store) -> None:
    """As of a date: that day's prices for every attempt, whenever it started."""
    past = compose([DATED], {})
    under = {key: three[2] for key, three in (await told(store, Prices(past, at_ms=START_MS))).items()}
    assert (7 * 1000 + 5 * 4000, None) == under["b", 3]
    under = {key: three[2] for key, three in (await told(store, Prices(past, at_ms=0))).items()}
    assert (7 * 2000 + 5 * 8000, None) == under["b", 3]
    assert UNKNOWN == under["a", 1]


@ENGINES
async def test_a_window(store: Store) -> None:
    """From an instant to before another, each attempt once; the same for both readings."""

    async def everything(snapshot: Snapshot) -> list[Any]:
        return [one.attempt async for page in repriced(snapshot, Prices(book()), 0, INT64_MAX) for one in page]

    attempts = await reading(store, everything)
    starts = sorted(one.started_at_ms for one in attempts)
    since_ms, until_ms = starts[1], starts[-1]
    expected = [one.key for one in attempts if since_ms <= one.started_at_ms < until_ms]

    async def under(snapshot: Snapshot) -> list[Any]:
        return [one[:2] async for page in charged_under(snapshot, Prices(book()), since_ms, until_ms) for one in page]

    async def then(snapshot: Snapshot) -> list[Any]:
        return [one async for page in charged_then(snapshot, 0, INT64_MAX) for one in page]

    assert expected == await reading(store, under)
    charged = {(task_id, attempt): money for task_id, attempt, *money in await reading(store, then)}
    assert {key: list(three[0]) for key, three in (await told(store, Prices(book()))).items()} == charged


async def test_attempts_of_one_instant_on_several_pages(tmp_path: Path) -> None:
    """Where a page ends among attempts that started together none is lost and none comes twice."""
    store = await open_store(str(fresh_ledger(tmp_path)), create=False, now_ms=Clock())
    names = [f"{number:04d}" for number in range(PAGE + 30)]
    history = History().start().succeed()
    for name in names:
        await store.append(whole(name, history))

    async def work(snapshot: Snapshot) -> list[list[Any]]:
        return [list(page) async for page in charged_under(snapshot, Prices(book()), START_MS, START_MS + 1)]

    pages = await reading(store, work)
    assert [PAGE, 30] == [len(page) for page in pages]
    assert [(name, 1, None, None) for name in names] == [one for page in pages for one in page]
    await store.aclose()


async def test_a_book_by_its_name(store: Store) -> None:
    """A beginning of its digest names a book of the ledger, ``current`` what would be made now."""
    await publish(store, dearer())
    assert book().digest == (await named(store, book().digest[:8].upper(), {})).digest
    assert build_book({}).digest == (await named(store, "current", {})).digest
    assert [book().digest, dearer().digest] == [one.event.price_book for one in await published(store)]
    for wrong in ("", "zz", "0" * 65):
        with pytest.raises(RequestRefused, match="begins with"):
            await named(store, wrong, {})


async def test_a_name_that_several_books_have() -> None:
    """It is refused, unless it is the same book twice; a book that was changed is told of."""
    event = PriceBookPublished(
        price_book="ab" * 32, source="genai-prices", source_version="1", as_of_ms=0, content=book().text
    )
    once, again = Published(1, 0, event), Published(2, 0, event)
    other = Published(3, 0, event.model_copy(update={"price_book": "ac" * 32}))
    assert again == chosen([once, again], "ab")
    with pytest.raises(RequestRefused, match="several"):
        chosen([once, other], "a")
    with pytest.raises(LedgerCorrupt, match="not as it was published"):
        read_published(event)
