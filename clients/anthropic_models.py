"""What the Anthropic SDK itself says of models: which it lists, and which it calls deprecated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from clients.anthropic_sdk import load

__all__ = ["SdkModels", "sdk_models"]

SHORT = frozenset({"haiku", "sonnet", "opus"})
"""Our own names for today's models."""


@dataclass(frozen=True, slots=True)
class SdkModels:
    """The SDK's tables."""

    version: str
    known: frozenset[str]
    """Empty when the SDK keeps no list."""
    deprecated: Mapping[str, str]
    """From a model to the day on which it ends, in the SDK's words."""


def sdk_models() -> SdkModels:
    """Import the SDK, which takes about two seconds, and read its tables.

    Raises:
        ClientUnready: it is not installed.
    """
    load()
    import anthropic  # noqa: PLC0415 - loaded by now
    from anthropic.resources.messages import DEPRECATED_MODELS  # noqa: PLC0415 - likewise

    listed = frozenset(_words(anthropic.types.Model))
    return SdkModels(anthropic.__version__, listed | SHORT if listed else listed, dict(DEPRECATED_MODELS))


def _words(hint: Any) -> list[str]:
    """Return the words of every ``Literal`` inside a type."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for inner in get_args(hint) for word in _words(inner)]
