"""The one place that knows the classes of clients: from a provider's name to a client."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from clients.base import ModelClient
from ledger.errors import ConfigurationError

__all__ = ["build_client"]


def build_client(provider: str, model: str, settings: Mapping[str, Any]) -> ModelClient:
    """Return a client of one model; SDKs are imported when it is first used.

    Args:
        provider: ``gemini``, ``anthropic``, ``simulated`` or ``package.module:factory``, called as
            ``factory(model, **settings)``.
        model: the provider's name of the model.
        settings: the provider's table of the configuration, without ``concurrency``.

    Raises:
        ConfigurationError: no such provider can be made.
    """
    match provider:
        case "gemini":
            from clients.gemini import GeminiClient  # noqa: PLC0415 - loaded when first needed

            return GeminiClient(model, **settings)
        case "anthropic":
            from clients.anthropic import AnthropicClient  # noqa: PLC0415 - loaded when first needed

            return AnthropicClient(model, **settings)
        case "simulated":
            from clients.simulated import SimulatedClient  # noqa: PLC0415 - loaded when first needed

            try:
                return SimulatedClient.from_settings(model, settings)
            except ValueError as error:
                raise ConfigurationError(f"[providers.simulated]: {error}") from error
        case _:
            return _foreign(provider, model, settings)


def _foreign(provider: str, model: str, settings: Mapping[str, Any]) -> ModelClient:
    module_name, _, factory_name = provider.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"provider {provider!r} cannot be loaded: {error}; expected package.module:factory, importable from here"
        ) from error
    try:
        client: ModelClient = factory(model, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"provider {provider!r} refuses model {model!r} and its settings: {error}") from error
    if not callable(getattr(client, "execute", None)):
        raise ConfigurationError(f"provider {provider!r} made a {type(client).__name__} without execute()")
    return client
