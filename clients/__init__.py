"""Clients of language models, behind one protocol; they know nothing of the ledger."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.anthropic import AnthropicClient
    from clients.base import ExecutionResult, ModelClient, Usage
    from clients.gemini import GeminiClient
    from clients.simulated import SimulatedClient

__all__ = ["AnthropicClient", "ExecutionResult", "GeminiClient", "ModelClient", "SimulatedClient", "Usage"]

HOMES = {
    "AnthropicClient": "clients.anthropic",
    "ExecutionResult": "clients.base",
    "GeminiClient": "clients.gemini",
    "ModelClient": "clients.base",
    "SimulatedClient": "clients.simulated",
    "Usage": "clients.base",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(HOMES[name]), name)
    globals()[name] = value
    return value
