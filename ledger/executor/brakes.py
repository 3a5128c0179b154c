"""The breakers as one executor sees and moves them: read from their streams, remembered for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from ledger.breakers import CLOSED, UNTOUCHED, Breaker, BreakerSettings, BreakerState, Standing, fold_breaker
from ledger.calls import ANSWERS, FAILURES, Call, calls, resets
from ledger.envelope import Recorded, Stream
from ledger.errors import EventInvalid, LedgerError, VersionConflict
from ledger.executor.transact import Desk

__all__ = ["Brakes"]

LOOK_MS: Final = 250
"""How long a look at a stream is good for, by the ports' clock."""
PAGE: Final = 100
ROWS: Final = 64
"""Attempts that are looked at first: mostly an answer is among them, and nothing more need be read."""
CONFLICTS_MAX: Final = 3
ENDS: Final = ("attempt.succeeded", "attempt.failed")

Key = tuple[str, str]


class Look(NamedTuple):
    """What a breaker's stream had come to when it was last read."""

    state: BreakerState
    at_ms: int


class Brakes:
    """The breakers of one executor's providers and models.

    What is remembered only saves reads: it may be forgotten at any time.

    Args:
        desk: the ledger, the clock, and the worker who opens and closes.
        settings: when to; with ``failures`` 0 nothing is read, and everything is closed.
    """

    def __init__(self, desk: Desk, settings: BreakerSettings) -> None:
        self._desk = desk
        self._settings = settings
        self._looks: dict[Key, Look] = {}
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Key, asyncio.Lock]] = WeakKeyDictionary()

    async def standing(self, provider: str, model: str) -> Standing:
        """Say whether calls go through, are held back, or are let through one by one.

        Raises:
            LedgerError: the breaker's stream cannot be read.
        """
        if not self._settings.failures:
            return CLOSED
        breaker = self._breaker(provider, model)
        state = await self._seen(breaker)
        return breaker.standing(state, self._desk.ports.now_ms())

    async def after(self, task_id: str, provider: str, model: str, stream: Stream) -> None:
        """Open or close what the newest outcome of a task's stream gives reason to; that is recorded already.

        A ledger that cannot be used now is no reason to keep an answer from its caller: the next call finds out.
        """
        if not self._settings.failures:
            return
        ended = next((recorded for recorded in reversed(stream) if recorded.type in ENDS), None)
        if ended is None or (ended.type == "attempt.succeeded" and self._surely_closed(provider, model)):
            return
        call = next((call for call in calls(stream, provider, model) if call.event_id == ended.event_id), None)
        if call is None or call.task_id != task_id or call.error_type not in ANSWERS | FAILURES:
            return
        with suppress(LedgerError, EventInvalid):
            await self._move(self._breaker(provider, model), call)

    def _surely_closed(self, provider: str, model: str) -> bool:
        """Say that a success changes nothing: if one opened since the last look, this call was no trial of it."""
        look = self._looks.get((provider, model))
        return look is not None and look.state.until_ms is None

    async def _move(self, breaker: Breaker, call: Call) -> None:
        state = await self._seen(breaker)
        for _ in range(CONFLICTS_MAX):
            run = await self._run(breaker) if breaker.counts(state, call) else ()
            now_ms = self._desk.ports.now_ms()
            event = breaker.closed(state, call, now_ms) or breaker.opened(state, call, run, now_ms)
            if event is None:
                return
            append = self._desk.sealed(breaker.stream, state.version, (event,), fence=0)
            try:
                self._remember(breaker, fold_breaker(await self._desk.store.append(append), state))
            except VersionConflict:  # somebody else moved it: mostly for the same reason
                state = await self._read(breaker)
            else:
                return

    async def _run(self, breaker: Breaker) -> Sequence[Call]:
        """Return the failures in a row that are enough to open, if they are."""
        run: tuple[tuple[str, int], ...] = ()
        for limit in sorted({min(ROWS, breaker.rows_max), breaker.rows_max}):
            rows = await self._desk.store.ended_attempts(breaker.provider, breaker.model, limit)
            run = breaker.run(rows)
            if run or len(rows) < limit or any(map(resets, rows)):
                break
        found: list[Call] = []
        for task_id in dict.fromkeys(task_id for task_id, _ in run):
            found += calls(await self._desk.store.read(task_id), breaker.provider, breaker.model)
        named = set(run)
        return [call for call in found if (call.task_id, call.attempt) in named]

    async def _seen(self, breaker: Breaker) -> BreakerState:
        """Return what the stream has come to, by a look that is no older than a moment; one reads for all who ask."""
        state = self._fresh(breaker)
        if state is not None:
            return state
        turns = self._turns.setdefault(asyncio.get_running_loop(), {})
        async with turns.setdefault((breaker.provider, breaker.model), asyncio.Lock()):
            state = self._fresh(breaker)
            return await self._read(breaker) if state is None else state

    def _fresh(self, breaker: Breaker) -> BreakerState | None:
        look = self._looks.get((breaker.provider, breaker.model))
        if look is None or not 0 <= self._desk.ports.now_ms() - look.at_ms < LOOK_MS:
            return None
        return look.state

    async def _read(self, breaker: Breaker) -> BreakerState:
        """Read what is new in the stream: a breaker that moves often has a long one."""
        look = self._looks.get((breaker.provider, breaker.model))
        state = UNTOUCHED if look is None else look.state
        store = self._desk.store
        if state.version == 0:
            return self._remember(breaker, fold_breaker(await store.read(breaker.stream)))
        news: Sequence[Recorded] = await store.streams((breaker.stream, state.version), PAGE)
        while mine := [recorded for recorded in news if recorded.task_id == breaker.stream]:
            state = fold_breaker(mine, state)
            news = await store.streams((breaker.stream, state.version), PAGE) if len(mine) == PAGE else ()
        return self._remember(breaker, state)

    def _remember(self, breaker: Breaker, state: BreakerState) -> BreakerState:
        """Keep a look, unless a newer one came in the meantime."""
        key = (breaker.provider, breaker.model)
        look = self._looks.get(key)
        if look is not None and look.state.version > state.version:
            state = look.state
        self._looks[key] = Look(state, self._desk.ports.now_ms())
        return state

    def _breaker(self, provider: str, model: str) -> Breaker:
        return Breaker(provider, model, self._settings)
