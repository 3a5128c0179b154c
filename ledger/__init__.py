"""An event-sourced dispatch ledger for language-model tasks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clients.base import ExecutionResult, Usage
    from ledger.config import Config
    from ledger.executor.api import Executor
    from ledger.handle import Ledger
    from ledger.registry import ModelRegistry, ModelTier

__all__ = ["Config", "ExecutionResult", "Executor", "Ledger", "ModelRegistry", "ModelTier", "Usage"]

HOMES = {
    "Config": "ledger.config",
    "ExecutionResult": "clients.base",
    "Executor": "ledger.executor.api",
    "Ledger": "ledger.handle",
    "ModelRegistry": "ledger.registry",
    "ModelTier": "ledger.registry",
    "Usage": "clients.base",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that importing the package costs nothing."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(HOMES[name]), name)
    globals()[name] = value
    return value
