"""The exit codes."""

from __future__ import annotations

from typing import Final

__all__ = ["DONE", "FOUND", "INTERRUPTED", "LEDGER", "USAGE"]

DONE: Final = 0
FOUND: Final = 1
"""A task failed or is held, a check found something, or the result could not be written."""
USAGE: Final = 2
"""The request is wrong: usage, configuration, a refused prompt, a key used for another request."""
LEDGER: Final = 3
"""The ledger cannot be used."""
INTERRUPTED: Final = 130
