"""The clients of one executor, made when first needed, and the limit of calls at once to each provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clients.base import ModelClient
from ledger.composition import build_client
from ledger.policy import Step
from ledger.registry import ModelRegistry

__all__ = ["Pool"]

CLOSE_S = 5.0


class Pool:
    """Clients by provider and model; slots by provider."""

    def __init__(self, registry: ModelRegistry, build: Callable[..., ModelClient] = build_client) -> None:
        self._registry = registry
        self._build = build
        self._clients: dict[tuple[str, str], ModelClient] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}

    def client(self, step: Step) -> ModelClient:
        """Return the client of a step.

        Raises:
            ConfigurationError: no such provider can be made.
        """
        key = (step.provider, step.model)
        if key not in self._clients:
            self._clients[key] = self._build(step.provider, step.model, self._registry.settings(step.provider))
        return self._clients[key]

    def slot(self, provider: str) -> asyncio.Semaphore:
        """Return the provider's limit of calls at once in this process."""
        if provider not in self._slots:
            self._slots[provider] = asyncio.Semaphore(self._registry.concurrency(provider))
        return self._slots[provider]

    async def aclose(self) -> None:
        """Close every client, each within a bound."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            close = getattr(client, "aclose", None)
            if close is not None:
                async with asyncio.timeout(CLOSE_S):
                    await close()
