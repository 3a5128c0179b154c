"""What one executor has open: clients, made when first needed; slots by provider; attempts in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar
from weakref import WeakKeyDictionary

from clients.base import ModelClient
from ledger.composition import build_client
from ledger.concealment import Hide, concealment
from ledger.errors import DispatchError, LedgerError, UsageError
from ledger.executor.calling import apart, outlast
from ledger.policy import Step
from ledger.registry import ModelRegistry

__all__ = ["Pool", "Slot"]

CLEAN_UP_S: Final = 10.0
"""How long a cancelled caller, or a closing executor, is kept waiting for the ledger."""
CLOSE_S: Final = 5.0

T = TypeVar("T")


class Pool:
    """Clients by provider and model; slots by event loop and provider."""

    def __init__(self, registry: ModelRegistry, build: Callable[..., ModelClient] = build_client) -> None:
        self._registry = registry
        self._build = build
        self.hide: Hide = concealment(registry.config.redact.patterns)
        """Takes secrets out of what is said about a call; made anew with each client, which reads its key then."""
        self._clients: dict[tuple[str, str], ModelClient] = {}
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()
        self._calls: set[asyncio.Task[Any]] = set()
        self._open: set[asyncio.Future[Any]] = set()
        """Attempts between their readiness and their record, and records that outlived their caller."""
        self.flying: set[str] = set()
        """Tasks with a call under way in this process, or an outcome that is being recorded."""
        self.closed = False
        self.stalled: LedgerError | None = None
        """Why nothing new may begin: an answer that the ledger did not take."""

    def client(self, step: Step) -> ModelClient:
        """Return the client of a step.

        Raises:
            ConfigurationError: no such provider can be made.
        """
        key = (step.provider, step.model)
        if key not in self._clients:
            self._clients[key] = self._build(step.provider, step.model, self._registry.settings(step.provider))
            self.hide = concealment(self._registry.config.redact.patterns)
        return self._clients[key]

    def concurrency(self, provider: str) -> int:
        """Return how many calls may run at once to a provider."""
        return self._registry.concurrency(provider)

    def flight(self, provider: str) -> Slot:
        """Wait for a slot of the provider, within ``async with``, and keep it at most until the attempt is over.

        Raises:
            UsageError: the executor is closed.
        """
        return Slot(self, provider)

    def places(self, provider: str) -> asyncio.Semaphore:
        """Return a provider's places on the running event loop."""
        loop = asyncio.get_running_loop()
        slots = self._slots.get(loop)
        if slots is None:
            slots = self._slots[loop] = {}
        if provider not in slots:
            slots[provider] = asyncio.Semaphore(self._registry.concurrency(provider))
        return slots[provider]

    def take_off(self) -> asyncio.Future[None]:
        """Count an attempt among those in flight, until it is said that it has landed."""
        flying: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(flying)
        return flying

    def land(self, flying: asyncio.Future[None]) -> None:
        """Say that an attempt is over."""
        self._open.discard(flying)
        flying.set_result(None)

    def call(self, task: asyncio.Task[Any]) -> None:
        """Keep hold of a call, so that closing can end it."""
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` to its end even if the caller is cancelled meanwhile, then let the cancellation go on.

        The caller is kept waiting within a bound; ``work`` goes on beyond it.
        """
        task = self._kept(work)
        try:
            await outlast(task)
        except asyncio.CancelledError:
            await outlast(task, CLEAN_UP_S)
            raise
        return task.result()

    async def at_last(self, work: Coroutine[Any, Any, object]) -> None:
        """Do ``work`` for a caller who is gone: waited for within a bound, its errors told to nobody."""
        await asyncio.wait({self._kept(work)}, timeout=CLEAN_UP_S)

    def _kept(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._let_go)
        return task

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._open.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: whoever waits has it, and nobody else is left to tell

    def refuse_closed(self) -> None:
        """Let nothing new begin on an executor that is closed, or whose ledger did not take an answer.

        Raises:
            UsageError: it is closed.
            LedgerError: an answer had to be kept beside the ledger.
        """
        if self.stalled is not None:
            raise self.stalled
        if self.closed:
            raise UsageError("the executor is closed; the task can go on under its key with another executor")

    async def aclose(self) -> None:
        """End the calls in flight, see them recorded, close every client; each within a bound."""
        self.closed = True
        for call in tuple(self._calls):
            call.cancel()
        if self._open:
            await asyncio.wait(self._open, timeout=CLEAN_UP_S)
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            close = getattr(client, "aclose", None)
            if close is not None:
                ran = await apart(close, CLOSE_S)  # what it raises stands in nobody's way: the next one is closed too
                if ran.gone is not None:
                    raise ran.gone


class Slot:
    """One of a provider's places for a call, in the hands of one attempt."""

    def __init__(self, pool: Pool, provider: str) -> None:
        self._pool = pool
        self._provider = provider
        self._places: asyncio.Semaphore | None = None
        self._flying: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        self._pool.refuse_closed()
        places = self._pool.places(self._provider)
        await places.acquire()
        try:
            self._pool.refuse_closed()
        except DispatchError:
            places.release()
            raise
        self._places, self._flying = places, self._pool.take_off()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.release()
        if self._flying is not None:
            self._pool.land(self._flying)

    def release(self) -> None:
        """Give the place back; once is enough."""
        places, self._places = self._places, None
        if places is not None:
            places.release()
