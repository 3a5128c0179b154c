"""Sessions with a server: a few that are kept, used one piece of work at a time, made anew when they break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.errors import DispatchError, LedgerError
from ledger.store.postgres_connection import Driver, checked_out, engine, let_go
from ledger.store.postgres_errors import FAILURES, as_ledger_error, is_busy, is_lost
from ledger.store.postgres_url import PostgresUrl
from ledger.store.waiting import Patience

__all__ = ["Sessions"]

T = TypeVar("T")

LEAVE_S: Final = 1.0
PAUSE_S: Final = 0.1
"""Before a server that could not be reached is tried again, at the least."""


class Sessions:
    """At most so many connections to one database.

    Args:
        url: the database.
        most: how many pieces of work at once.
    """

    def __init__(self, url: PostgresUrl, most: int) -> None:
        self._url = url
        self._most = most
        self._engine = engine(url, most)
        self._idle: list[tuple[AsyncConnection, Driver]] = []
        self._permits = asyncio.Semaphore(most)
        self._was_reached = False

    async def run(self, work: Callable[[Driver], Awaitable[T]], within_s: float) -> T:
        """Do a piece of work that may be done twice: again on a new connection when one broke under it, patiently.

        A server that was never reached is not waited for: its name or its password may be wrong.

        Raises:
            LedgerError: it could not be done within the bound.
        """
        patience = Patience(within_s)
        while True:
            try:
                async with self._permits:
                    return await self._run_once(work)
            except FAILURES as error:
                if not (is_busy(error) or is_lost(error)) or patience.is_over():
                    raise as_ledger_error(error, self._url) from error
            except LedgerError as error:
                again = error.__cause__
                reachable = again is not None and (is_busy(again) or (self._was_reached and is_lost(again)))
                if not reachable or patience.is_over():
                    raise
                await asyncio.sleep(PAUSE_S)
            await patience.wait()

    async def _run_once(self, work: Callable[[Driver], Awaitable[T]]) -> T:
        session = self._idle.pop() if self._idle else await checked_out(self._engine)
        self._was_reached = True
        try:
            done = await work(session[1])
        except DispatchError:
            self._keep(session)
            raise
        except FAILURES as error:
            if is_lost(error) or session[1].is_closed():
                await let_go(*session)
            else:
                self._keep(session)
            raise
        except BaseException:
            # Cancelled in the middle of an answer: what the connection would say next is nobody's.
            await let_go(*session)
            raise
        self._keep(session)
        return done

    def _keep(self, session: tuple[AsyncConnection, Driver]) -> None:
        self._idle.append(session)

    async def aclose(self, within_s: float) -> None:
        """Wait for what is under way, then close everything, within a bound.

        Raises:
            LedgerError: something took too long; its connection was dropped.
        """
        try:
            async with asyncio.timeout(within_s):
                for _ in range(self._most):
                    await self._permits.acquire()
                while self._idle:
                    session = self._idle.pop()
                    with suppress(TimeoutError, *FAILURES):  # a server that is away needs no leave-taking
                        await session[1].close(timeout=LEAVE_S)
                    await let_go(*session)
                await self._engine.dispose()
        except TimeoutError as error:
            while self._idle:
                await let_go(*self._idle.pop())
            raise LedgerError(f"{self._url}: the server kept the ledger from closing in time") from error
        finally:
            for _ in range(self._most):
                self._permits.release()
