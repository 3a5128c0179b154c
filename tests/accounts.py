"""A ledger with money in it: own prices, attempts of every end, and the figures that follow by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Append, NewEvent
from ledger.parts import Outcome, UsageRow
from ledger.prices.book import PriceBook
from ledger.prices.costing import charge
from ledger.prices.source import compose
from ledger.prices.tables import PricesTable
from ledger.state import Running, Waiting
from ledger.store.protocol import Store
from ledger.system_events import PriceBookPublished
from tests.contracts.appends import Clock, whole
from tests.histories import START_MS, History, failed, request, started, step, succeeded
from tests.ledgers import fresh_ledger
from tests.postgres_server import database

__all__ = ["BOUND", "FLASH", "HAIKU", "Account", "book", "dearer", "ledger_on", "own", "publish", "usage"]

FLASH: Final = "gemini-2.5-flash"
HAIKU: Final = "claude-haiku-5-5"
BOUND: Final = 1_000_000
RATES: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
STEPS: Final = (step("flash", 3, provider="gemini", model=FLASH), step("haiku", 3, provider="anthropic", model=HAIKU))


def own(*, haiku: tuple[float, ...] = (2, 0.2, 2.5, 4, 8), flash: tuple[float, ...] = (1, 0.1, 1, 1, 3)) -> PricesTable:
    """Return prices of our own, in USD for a million tokens."""
    tables = {
        f"anthropic/{HAIKU}": {f"{part}_usd_per_mtok": usd for part, usd in zip(RATES, haiku, strict=True)},
        f"gemini/{FLASH}": {f"{part}_usd_per_mtok": usd for part, usd in zip(RATES, flash, strict=True)},
    }
    return TypeAdapter(PricesTable).validate_python(tables)


@cache
def book() -> PriceBook:
    """Return the book that the attempts start under: a token costs a thousand nano-USD for each dollar."""
    return compose([], own())


@cache
def dearer() -> PriceBook:
    """Return a book with haiku's input at twice the price and its output at three times."""
    return compose([], own(haiku=(4, 0.4, 5, 8, 24)))


def usage(uncached: int | None = 0, output: int | None = 0, **changes: Any) -> UsageRow:
    """Return a row whose other counts are zero."""
    fields: dict[str, Any] = dict.fromkeys(UsageRow.model_fields) | {
        "input_uncached_tokens": uncached,
        "cache_read_tokens": 0,
        "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0,
        "output_tokens": output,
    }
    return UsageRow(**{**fields, **changes})


@asynccontextmanager
async def ledger_on(engine: str, folder: Path) -> AsyncIterator[str]:
    """Have an empty ledger: the place of a file, or of a database."""
    if engine == "sqlite":
        yield str(fresh_ledger(folder))
        return
    async with database() as url:
        yield url


async def publish(store: Store, *books: PriceBook) -> None:
    """Put books into the ledger."""
    version = len(await store.read("ledger:prices"))
    for number, one in enumerate(books, version):
        event = PriceBookPublished(
            price_book=one.digest, source="genai-prices", source_version=f"test+{number}", as_of_ms=0, content=one.text
        )
        await store.append(Append("ledger:prices", number, (NewEvent(f"book/{number}", event, "system"),)))


class Account:
    """One task, written event by event at instants of our choice."""

    def __init__(self, store: Store, clock: Clock, task_id: str, tier: int = 0, **changes: Any) -> None:
        self.task_id = task_id
        self._store = store
        self._clock = clock
        self._history = History(request(route=STEPS[tier:], **changes))
        self._written = 0

    async def start(self, at_ms: int = START_MS, **changes: Any) -> Account:
        """Start the next attempt."""
        state, task = self._history.state, self._history.task
        if isinstance(state, Waiting):
            at_ms = max(at_ms, state.not_before_ms)
        self._history.now_ms = max(self._history.now_ms, at_ms)
        priced = {"upper_bound_nano_usd": BOUND, "price_book": book().digest}
        fields = priced | {"purpose": task.purpose, "step": task.step, "fence": max(1, task.fence)} | changes
        self._history.do(c.Start(started(task.attempts + 1, task.at, **fields), self._history.now_ms))
        return await self._write()

    async def succeed(self, *rows: UsageRow, **changes: Any) -> Account:
        """End the running attempt with an answer, charged as it should be."""
        fields = {"usage": rows, "usage_source": "provider"} | changes
        return await self._record(succeeded(self._history.task.attempts, **fields))

    async def fail(self, error_type: Any = "timeout", **changes: Any) -> Account:
        """End the running attempt as failed."""
        return await self._record(failed(self._history.task.attempts, error_type, **changes))

    async def orphan(self) -> Account:
        """Find the worker dead."""
        state = self._history.state
        assert isinstance(state, Running)
        bound = state.started.upper_bound_nano_usd
        orphaned = e.AttemptOrphaned(attempt=state.started.attempt, cause="lease_expired", exposure_nano_usd=bound)
        self._history.do(c.Orphan(orphaned, self._history.seen()))
        return await self._write()

    async def cancel(self) -> Account:
        """Call the task off."""
        self._history.do(c.Cancel(self._history.seen()))
        return await self._write()

    async def _record(self, outcome: e.AttemptSucceeded | e.AttemptFailed) -> Account:
        state = self._history.state
        assert isinstance(state, Running)
        outcome = outcome.model_copy(update=_money(state.started, outcome, self._history.now_ms))
        self._history.do(c.Record(outcome, self._history.task.fence, self._history.seen()))
        return await self._write()

    async def _write(self) -> Account:
        self._clock.now_ms = max(self._clock.now_ms, self._history.now_ms)
        await self._store.append(whole(self.task_id, self._history, after=self._written))
        self._written = len(self._history.events)
        return self


def _money(start: e.AttemptStarted, outcome: Outcome, at_ms: int) -> dict[str, Any]:
    model = outcome.served_model or start.request_model
    bound, source = start.upper_bound_nano_usd, outcome.usage_source
    charged = charge(book(), start.provider, model, outcome.usage, source, at_ms, bound)
    return {name: getattr(charged, name) for name in ("cost_nano_usd", "exposure_nano_usd", "price_book")}
