"""The one place that knows the classes of clients: from a provider's name to a client."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clients.base import ModelClient
from ledger.errors import ConfigurationError, DispatchError

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
            return _gemini(model, settings)
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


def _gemini(model: str, settings: Mapping[str, Any]) -> ModelClient:
    given = dict(settings)
    try:
        if given.pop("mode", "warm") == "warm":
            from clients.gemini_warm import WarmGeminiClient  # noqa: PLC0415 - loaded when first needed

            return WarmGeminiClient(model, **given)
        from clients.gemini import GeminiClient  # noqa: PLC0415 - loaded when first needed

        return GeminiClient(model, **given)
    except ValueError as error:
        raise ConfigurationError(f"a tier's model cannot be used: {error}") from error


def _foreign(provider: str, model: str, settings: Mapping[str, Any]) -> ModelClient:
    module_name, _, factory_name = provider.partition(":")
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)  # as ``python -m ledger`` has it; last, so that it hides nothing
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except Exception as error:
        raise ConfigurationError(
            f"provider {provider!r} cannot be loaded: {_said(error)}; expected package.module:factory, "
            "importable from here"
        ) from error
    try:
        client: ModelClient = factory(model, **settings)
    except DispatchError:
        raise
    except Exception as error:
        message = f"provider {provider!r} refuses model {model!r} and its settings: {_said(error)}"
        raise ConfigurationError(message) from error
    if not callable(getattr(client, "execute", None)):
        if inspect.iscoroutine(client):
            client.close()
        raise ConfigurationError(
            f"provider {provider!r} made a {type(client).__name__} without execute(); a factory returns the client"
        )
    return client


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
