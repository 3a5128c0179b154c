"""Waiting for a lock that another process holds: full jitter, growing, up to a deadline; the patient come first."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

__all__ = ["Patience"]

WAIT_FIRST_S: Final = 0.002
WAIT_MAX_S: Final = 0.1
OVERDUE_AFTER_S: Final = 0.1
"""Whoever has waited so long for its turn asks more often than newcomers do; without, one of sixteen waited 1.8 s."""
OVERDUE_WAIT_S: Final = 0.01
KEPT_AFTER_S: Final = 2.0
"""Whoever has waited so long waits for somebody who keeps the lock, and asking often only costs."""


class Patience:
    """How long one piece of work has waited, and may still wait."""

    def __init__(self, within_s: float) -> None:
        self._since_s = time.monotonic()
        self._deadline_s = self._since_s + within_s
        self._ceiling_s = WAIT_FIRST_S

    def is_over(self) -> bool:
        """Say whether the deadline has passed."""
        return time.monotonic() >= self._deadline_s

    async def wait(self) -> None:
        """Sleep for any time up to a ceiling that doubles; whoever else waits draws another."""
        await asyncio.sleep(self.draw_s())

    def draw_s(self) -> float:
        """Return the next wait, for those who sleep by themselves."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(2 * self._ceiling_s, WAIT_MAX_S)
        if OVERDUE_AFTER_S < time.monotonic() - self._since_s < KEPT_AFTER_S:
            ceiling_s = OVERDUE_WAIT_S
        return random.uniform(0, ceiling_s)  # noqa: S311 - jitter, not secrecy
