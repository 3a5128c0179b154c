"""An event loop without a world: its clock is a number, and who runs next is a choice that can be made again."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar, TypeVarTuple

__all__ = ["HOST", "Choices", "Host", "SimLoop", "drive"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Choices:
    """Where all chance comes from: drawn from a seed and kept, or played again from what was kept.

    The choice 0 is always the tame one: first come first served, no fault. What lies past the end of a recording is 0.
    """

    def __init__(self, seed: int | None = None, recorded: Sequence[int] = ()) -> None:
        self._random = None if seed is None else random.Random(seed).random  # noqa: S311 - to be drawn again, not kept secret
        self._recorded = tuple(recorded)
        self.made: list[int] = []

    def below(self, limit: int) -> int:
        """Choose a number from 0 to ``limit`` - 1."""
        if self._random is not None:
            choice = int(self._random() * limit)
        else:
            at = len(self.made)
            choice = min(self._recorded[at], limit - 1) if at < len(self._recorded) else 0
        self.made.append(choice)
        return choice

    def chance(self, per_mille: int) -> bool:
        """Say yes that often; what can never happen is not asked."""
        return per_mille > 0 and self.below(1000) >= 1000 - per_mille

    def one_of(self, options: Sequence[T]) -> T:
        """Choose one; the first is the tame one."""
        return options[self.below(len(options))] if len(options) > 1 else options[0]


class Host:
    """A process on some machine: it runs, stands still, or is gone for ever."""

    def __init__(self, name: str, skew_ms: int = 0) -> None:
        self.name = name
        self.skew_ms = skew_ms
        """Of its clock on the wall, against the store's."""
        self.alive = True
        self.paused = False
        self.pauses = 0
        self.lost = False
        """It crashed, or could not write: what it knew may be gone."""
        self.held: list[_Step] = []
        """What became due while it stood still."""


HOST: Final[ContextVar[Host | None]] = ContextVar("host", default=None)
"""Whose code is running; None is the world's own."""


class _Step(asyncio.TimerHandle):
    """A piece of work that belongs to a host; a world has some hundred, so it does no more than it must."""

    __slots__ = ("_args_", "_callback_", "_context_", "_over", "host")

    def __init__(self, callback: Callable[..., object], args: Sequence[Any], context: Context | None) -> None:
        self._callback_ = callback
        self._args_ = args
        self._context_ = copy_context() if context is None else context
        self._over = False
        self.host = self._context_.get(HOST)

    def run(self) -> None:
        """Do it."""
        self._context_.run(self._callback_, *self._args_)

    def cancel(self) -> None:
        self._over = True

    def cancelled(self) -> bool:
        return self._over


class _Future(asyncio.Future[Any]):
    """A future whose place in a set does not depend on where it lies in memory."""

    def __init__(self, serial: int, loop: SimLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._serial


class _Task(asyncio.Task[Any]):
    """A task, likewise."""

    def __init__(self, serial: int, coroutine: Any, loop: SimLoop, name: str, context: Context | None) -> None:
        self._serial = serial
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._serial


class SimLoop(asyncio.BaseEventLoop):
    """Runs what is due in an order that it chooses; when nothing is due, the clock goes on to what comes next."""

    def __init__(self, choices: Choices, fault: Callable[[str], object]) -> None:
        self.choices = choices
        self.fault = fault
        """Told of what a callback raised."""
        self.steps = 0
        self.stopped = False
        self._running = False
        self._now_s = 0.0
        self._serial = 0
        self._ready: list[_Step] = []
        self._timers: list[tuple[float, int, _Step]] = []
        self._tasks: list[_Task] = []

    def time(self) -> float:
        """Return the seconds since the world began; they never go back."""
        return self._now_s

    def run(self, steps_max: int, until_s: float) -> str:
        """Step until somebody stops it; return why nothing goes on, "" if it was stopped."""
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio's own hook for those who write a loop
        self._running = True
        try:
            while not self.stopped:
                if self.steps >= steps_max or self._now_s >= until_s:
                    return f"not at rest after {self._now_s:.0f} s and {self.steps} steps"
                if not self._step():
                    return "nothing will ever happen again"
        finally:
            self._running = False
            asyncio._set_running_loop(None)  # noqa: SLF001 - likewise
        return ""

    def _step(self) -> bool:
        """Run one piece of work; False when there is none and never will be."""
        ready, timers = self._ready, self._timers
        if not ready and timers:
            self._now_s = max(self._now_s, timers[0][0])
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        if not ready:
            return False
        step = ready.pop(self.choices.below(len(ready)) if len(ready) > 1 else 0)
        host = step.host
        if step.cancelled() or (host is not None and not host.alive):
            return True
        if host is not None and host.paused:
            host.held.append(step)
            return True
        self.steps += 1
        try:
            step.run()
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self.fault(f"a callback raised {error!r}")
        return True

    def resume(self, host: Host) -> None:
        """Let a host go on, with everything that it missed, late."""
        host.paused = False
        self._ready += host.held
        host.held.clear()

    def close(self) -> None:
        """Take everything apart, quietly: what was left in the middle of something never hears of it."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            asyncio._unregister_task(task)  # noqa: SLF001 - a hook for loops; tasks of many worlds have the same hash
            if not task.done():
                try:
                    task.get_coro().close()
                except RuntimeError:
                    continue  # it waits in its own clean-up, as code may that is torn down with its world
        self._tasks.clear()

    def call_soon(self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None) -> _Step:
        step = _Step(callback, args, context)
        self._ready.append(step)
        return step

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> _Step:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> _Step:
        step = _Step(callback, args, context)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, step))
        return step

    def create_future(self) -> asyncio.Future[Any]:
        self._serial += 1
        return _Future(self._serial, self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        self._serial += 1
        task = _Task(self._serial, coro, self, str(name or self._serial), context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hear of tasks that were left behind; a world is full of them."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return not self._running


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything but its turn."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
