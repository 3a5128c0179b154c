"""What an executor has from its opening to its end: the ledger, the clients, a name among the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from clients.base import ModelClient
from ledger.composition import build_client
from ledger.config import Config, load_config, resolve_ledger
from ledger.executor import dispatching
from ledger.executor.bench import Bench, Benches, MadeOf
from ledger.executor.checks import checked, checked_listeners
from ledger.executor.intake import Dispatched, Intake
from ledger.executor.listening import Listener
from ledger.executor.pool import Pool
from ledger.executor.requests import Request
from ledger.executor.transact import Desk
from ledger.handle import Ledger
from ledger.ports import Ports
from ledger.registry import ModelRegistry
from ledger.telemetry import Telemetry

__all__ = ["Lifetime"]


class Lifetime:
    """An executor's opening and end, and the one way in which it brings a request to its end."""

    def __init__(
        self,
        ledger: Ledger | None = None,
        config: Config | str | os.PathLike[str] | None = None,
        *,
        ports: Ports | None = None,
        build: Callable[[str, str, Mapping[str, Any]], ModelClient] = build_client,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        self.registry = ModelRegistry(self.config)
        self._ports = ports or Ports()
        self._owns_ledger = ledger is None
        self.ledger = ledger or Ledger.open(resolve_ledger(None, self.config), ports=self._ports)
        self._pool = Pool(self.registry, build)
        self._intake = Intake(self.config, self.registry)
        self._telemetry = Telemetry() if telemetry is None and self.config.telemetry.opentelemetry else telemetry
        self._named(f"worker:{self._ports.new_id()}")

    def _named(self, worker: str) -> None:
        self._worker = worker
        made_of = MadeOf(self.ledger, self._ports, self._pool, self.registry, self._telemetry)
        self._benches = Benches(made_of, worker)

    @property
    def worker(self) -> str:
        """The name under which this executor submits and attempts; no other process has it."""
        return self._worker

    async def dispatch(self, request: Request, listener: Listener) -> Dispatched:
        """Bring a request to its end: as a new task, or as the one that its key names."""
        checked(request)
        checked_listeners(listener.on_text, listener.on_restart)
        return await dispatching.dispatched(await self._bench(), self._intake, request, listener)

    async def _person(self) -> Desk:
        """Return the desk of those who take no task: nobody needs to know whether they live."""
        return Desk(await self.ledger.store(), self._ports, "person")

    async def _bench(self) -> Bench:
        self._pool.refuse_closed()
        return await self._benches.here()

    async def aclose(self) -> None:
        """End and record the calls in flight, close the clients, and the ledger if the executor opened it."""
        try:
            await self._pool.aclose()
            await self._benches.leave()
        finally:
            if self._owns_ledger:
                await self.ledger.aclose()

    async def __aenter__(self) -> Self:
        await self.ledger.store()
        if self._pool.closed:  # who took this worker for gone must not meet it again under its name
            self._named(f"worker:{self._ports.new_id()}")
            self._pool.closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
