"""Running a client's own code: in a task apart, for a bounded time, with a result whatever it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from clients.base import ErrorType, ExecutionResult
from ledger.executor.outcomes import MESSAGE_CHARACTERS_MAX, failure

__all__ = ["END_S", "GRACE_S", "LEASE_GRACE_MS", "Ran", "apart", "outlast", "read_call", "say"]

GRACE_S: Final = 5.0
"""What a client is given beyond its own deadline before it is ended from outside."""
END_S: Final = 5.0
"""How long a client that was told to end is waited for; then it is left behind."""

LEASE_GRACE_MS: Final = round((GRACE_S + END_S) * 1000) + 5_000
"""How long after its deadline an attempt without an outcome is given up as orphaned."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """How a client's code ended; one that would not end is still running, and nobody waits for it."""

    task: asyncio.Task[T]
    late: bool
    """It was ended from outside at its deadline."""
    gone: asyncio.CancelledError | None
    """The caller was cancelled meanwhile; to be raised on once what happened is recorded."""
    took_ms: int

    @property
    def error(self) -> BaseException | None:
        """What it raised, a cancellation included; None where it returned or still runs."""
        if not self.task.done():
            return None
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()


async def apart(
    work: Callable[[], Awaitable[T]], within_s: float, seen: Callable[[asyncio.Task[T]], object] | None = None
) -> Ran[T]:
    """Run ``work`` in a task of its own; end it when the time is over or the caller goes away.

    Only so can a client's own CancelledError be told from the caller's, and a client that swallows it be left behind.

    Args:
        work: makes what is awaited.
        within_s: the most it is given.
        seen: told of the task, so that it can be ended from elsewhere.
    """

    async def run() -> T:
        return await work()

    clock = asyncio.get_running_loop().time
    began = clock()
    task = asyncio.create_task(run())
    if seen is not None:
        seen(task)
    gone = None
    late = False
    try:
        try:
            await outlast(task, within_s)
            late = not task.done()
        except asyncio.CancelledError as error:
            gone = error
        if not task.done():
            task.cancel()
            try:
                await outlast(task, END_S)
            except asyncio.CancelledError as error:
                gone = error
    finally:
        if task.done():
            _look(task)
        else:
            task.add_done_callback(_look)
    return Ran(task, late, gone, round((clock() - began) * 1000))


async def outlast(task: asyncio.Task[Any], within_s: float | None = None) -> None:
    """Wait until a task has ended, at most so long; a caller who is cancelled meanwhile leaves it alone.

    What ``asyncio.wait`` and ``asyncio.shield`` do, for one task and with fewer turns of the loop.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    wake = partial(_wake, waiter)
    task.add_done_callback(wake)
    timer = None if within_s is None else loop.call_later(within_s, wake)
    try:
        await waiter
    finally:
        task.remove_done_callback(wake)
        if timer is not None:
            timer.cancel()


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _look(task: asyncio.Task[Any]) -> None:
    """Look at what a task raised, so that nobody is told later that no one did."""
    if not task.cancelled():
        task.exception()


def read_call(ran: Ran[ExecutionResult], model: str, timeout_s: float, *, closed: bool) -> ExecutionResult:
    """Return the result of a call, or the failure that stands for what the client did instead."""
    error = ran.error
    if ran.task.done() and error is None:
        result = ran.task.result()
        if isinstance(result, ExecutionResult):
            return result
        return failure(model, "other", f"the client gave a {type(result).__name__}, no ExecutionResult", billed=True)
    kind, why = _why(ran, error, timeout_s, closed=closed)
    return failure(model, kind, why, billed=True).model_copy(update={"latency_ms": ran.took_ms})


def _why(ran: Ran[Any], error: BaseException | None, timeout_s: float, *, closed: bool) -> tuple[ErrorType, str]:
    ended = error is None or isinstance(error, asyncio.CancelledError)
    if ended and ran.gone is not None:
        return "interrupted", "the caller was interrupted"
    if ran.late and (ended or isinstance(error, TimeoutError)):
        return "timeout", f"no answer within {timeout_s:g} s, and the client did not end the call itself"
    if ended and closed:
        return "interrupted", "the executor was closed during the call"
    if isinstance(error, TimeoutError):
        return "timeout", f"the client itself failed: {say(error)}"
    if isinstance(error, asyncio.CancelledError | Exception):
        return "other", f"the client itself failed: {say(error)}"
    return "interrupted", f"the call was broken off by {say(error)}"


def say(error: BaseException | None) -> str:
    """Name an error with its words, as far as it has any; even one that cannot be printed is named."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - somebody else's __str__; its name is all there is to say
        words = ""
    words = words[:MESSAGE_CHARACTERS_MAX]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
