"""The frame around every command: the event loop, signals, the ledger, and which error is which exit code."""

from __future__ import annotations

import asyncio
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from ledger import Ledger
from ledger.cli.exits import INTERRUPTED, LEDGER, USAGE
from ledger.cli.options import Common
from ledger.cli.output import complain, note
from ledger.config import Config, load_config, resolve_ledger
from ledger.errors import ClientError, DispatchError, LedgerFull, TaskNotFound, UsageError
from ledger.remarks import remarks
from ledger.store.protocol import Store

if TYPE_CHECKING:
    from ledger import Executor

__all__ = ["exit_code", "one_task", "opened", "opened_to_read", "perform"]


def exit_code(error: DispatchError) -> int:
    """Say which exit code an error is: the caller's doing, or the ledger's."""
    return USAGE if isinstance(error, UsageError | ClientError) else LEDGER


def perform(work: Callable[[], Coroutine[Any, Any, int]], *, interrupted: str = "nothing was written") -> int:
    """Run a command's work and return its exit code; errors raised on purpose become one line.

    Args:
        work: what to do. What waits for standard input belongs before the coroutine that it gives: inside the loop a
            first SIGINT would only be noted.
        interrupted: what to say when SIGINT or SIGTERM ends it.
    """
    try:
        coroutine = work()
        with warnings.catch_warnings(), asyncio.Runner() as runner:
            # As people read it, without the line of code that gave it.
            warnings.showwarning = lambda message, *_where, **_how: note(f"warning: {message}")
            return runner.run(_stoppable(coroutine))
    except (KeyboardInterrupt, asyncio.CancelledError):
        complain(f"interrupted; {interrupted}")
        return INTERRUPTED
    except DispatchError as error:
        complain(str(error))
        if isinstance(error, LedgerFull):
            note("what was recorded stays; `dispatch-ledger doctor` looks at the ledger, its disk and its permissions")
        return exit_code(error)


async def _stoppable(work: Coroutine[Any, Any, int]) -> int:
    """Let SIGTERM, and a terminal that goes away, cancel the work as SIGINT does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Under nohup SIGHUP is ignored, and stays so. In a thread no signal can be watched.
        if task is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(RuntimeError, ValueError):
                loop.add_signal_handler(number, task.cancel)
    return await work


@asynccontextmanager
async def opened(
    common: Common,
    *,
    create: bool,
    calls: bool = False,
    tiers: Collection[str] | None = None,
    guarded: bool = True,
    config: Config | None = None,
) -> AsyncIterator[Executor]:
    """Open the ledger that the command names, with an executor on it; who may call models is told what to know of them.

    Args:
        common: what the command was told.
        create: make the ledger if there is none.
        calls: models may be called, also where the ledger has to be there; who creates one may call them anyway.
        tiers: those that tasks are to begin with, if that is known; nothing is said of models that none can reach.
        guarded: refuse a ledger whose guards have fallen.
        config: instead of the configuration that the command names.

    Raises:
        ConfigurationError: the configuration cannot be used.
        LedgerError: the ledger cannot be opened.
    """
    from ledger import Executor  # noqa: PLC0415 - whoever only reads does without its weight

    config = load_config(common.config) if config is None else config
    for remark in remarks(config, tiers=tiers) if create or calls else ():
        note(f"warning: {remark.said}; {remark.advice}")
    async with (
        Ledger.open(resolve_ledger(common.ledger, config), create=create, guarded=guarded) as ledger,
        Executor(ledger, config) as executor,
    ):
        yield executor


@asynccontextmanager
async def opened_to_read(common: Common, config: Config | None = None) -> AsyncIterator[Store]:
    """Open the ledger that the command names, which is there, and nothing beside it.

    Raises:
        ConfigurationError: the configuration cannot be used.
        LedgerError: the ledger cannot be opened.
    """
    config = load_config(common.config) if config is None else config
    async with Ledger.open(resolve_ledger(common.ledger, config), create=False) as ledger:
        yield await ledger.store()


async def one_task(store: Store, part: str) -> str:
    """Return the one task whose id begins or ends so.

    Raises:
        TaskNotFound: none does, or several do.
    """
    found = await store.find(part.strip().lower()) if part.strip() else ()
    match list(found):
        case []:
            raise TaskNotFound(f"no task's id begins or ends with {part!r}; `dispatch-ledger tasks` lists them")
        case [task_id]:
            return task_id
        case several:
            raise TaskNotFound(f"several tasks answer to {part!r}: {', '.join(several)} …; write more of the id")
