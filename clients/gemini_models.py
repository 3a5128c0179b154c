"""What is known of Gemini's models without asking: which names the CLI sends on, and which it rewrites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["KNOWN", "REWRITTEN"]

REWRITTEN: Final[Mapping[str, str]] = {
    "gemini-3-pro-preview": "gemini-3.1-pro-preview",
    "gemini-3.5-flash": "gemini-3.8-flash",
}
"""From what is asked for to what version 0.61 of the CLI asks Google for instead, without a word."""

KNOWN: Final = frozenset(
    {
        "flash",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
        "gemini-2.5-pro",
        "gemini-3-flash-preview",
        "gemini-3.1-flash-lite",
        "gemini-3.1-pro-preview",
        "gemini-3.5-flash-lite",
        "gemini-3.8-flash",
        "gemini-flash",
        "gemini-pro",
        "pro",
        *REWRITTEN,
    }
)
"""Our short names, and the models that version 0.61 of the CLI knows; it passes any other name on as it is."""
