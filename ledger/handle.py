"""``Ledger``: the ledger as users hold it, opened when first needed."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Self

from ledger.config import resolve_ledger
from ledger.executor.ports import Ports
from ledger.store.opening import open_store
from ledger.store.protocol import Store

__all__ = ["Ledger"]


class Ledger:
    """A ledger of dispatches: every event, text and projection behind one place.

    ``Ledger.open(url)`` names it; it is opened by ``async with``, or at first use.
    """

    def __init__(self, url: str, *, create: bool = True, ports: Ports | None = None) -> None:
        self.url = url
        self._create = create
        self._ports = ports or Ports()
        self._store: Store | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def open(
        cls, url: str | os.PathLike[str] | None = None, *, create: bool = True, ports: Ports | None = None
    ) -> Self:
        """Name a ledger.

        Args:
            url: a path or ``sqlite:///path``; None is ``DISPATCH_LEDGER_URL``, else ``sqlite:///dispatch.db``.
            create: make it if there is none; otherwise that is ``LedgerMissing``.
            ports: clock, sleep, ids and jitter; the real ones by default.
        """
        return cls(resolve_ledger(None) if url is None else os.fspath(url), create=create, ports=ports)

    async def store(self) -> Store:
        """Return the opened store.

        Raises:
            LedgerError: it cannot be opened.
        """
        async with self._opening:
            if self._store is None:
                self._store = await open_store(self.url, create=self._create, now_ms=self._ports.now_ms)
            return self._store

    async def aclose(self) -> None:
        """Close it; appends under way are finished first."""
        store, self._store = self._store, None
        if store is not None:
            await store.aclose()

    async def __aenter__(self) -> Self:
        await self.store()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
