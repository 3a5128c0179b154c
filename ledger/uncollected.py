"""Leaving the garbage collector out of work that makes many things and none that goes in circles.

It counts what is made and not yet let go. A group of appends makes some thousand rows within a few milliseconds, so it
would begin again and again, and find nothing; each time it takes what is in flight for old, and soon goes through all
that the process has ever imported. Together that was a sixth of a dispatch.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


class _Pause:
    """How many are at such work, in all threads; the first switches the collector off, the last on again."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._at_work = 0
        self._was_enabled = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_anew)

    def begin(self) -> None:
        with self._turn:
            if not self._at_work:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._at_work += 1

    def end(self) -> None:
        with self._turn:
            self._at_work = max(0, self._at_work - 1)
            if not self._at_work and self._was_enabled:
                gc.enable()

    def _begin_anew(self) -> None:
        """In a forked child nobody is at work: those who were are threads of the parent."""
        self._turn = threading.Lock()
        if self._at_work and self._was_enabled:
            gc.enable()
        self._at_work = 0


_pause = _Pause()


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the collector out for the block, which is to be short; one that is off stays off."""
    _pause.begin()
    try:
        yield
    finally:
        _pause.end()
