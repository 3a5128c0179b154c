"""What a spreadsheet makes of a text that it opens from a CSV."""

from __future__ import annotations

from typing import Final

__all__ = ["harmless"]

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in either width, or strips to find one."""


def harmless(text: str) -> str:
    """Return a cell's text, behind an apostrophe if it could be taken for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
