"""What was looked at, what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "warning", "stop"]
"""``stop`` keeps this machine from dispatching at all; a warning costs a tier, money or safety."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    said: str
    advice: str = ""
    """What to do; "" when nothing is to be done."""
