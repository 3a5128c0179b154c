"""Making a client ready before anything is recorded: imported, connected, prompt checked."""

from __future__ import annotations

import asyncio
from typing import Final

from clients.base import ErrorType, ExecutionResult, ModelClient, PromptPrefix
from ledger.errors import ClientUnready, ConfigurationError, PromptRefused
from ledger.executor.calling import apart, say
from ledger.executor.outcomes import failure
from ledger.executor.pool import Pool
from ledger.executor.sending import Sent, output_limit
from ledger.state import Task

__all__ = ["readied"]

READY_S: Final = 60.0
"""How long a client may take to be made ready."""
PREFIXES: Final = (None, "newline", "header")


async def readied(
    pool: Pool, sent: Sent, task: Task, *, new: bool
) -> tuple[ModelClient, PromptPrefix | None] | ExecutionResult:
    """Make the client of the task's step ready; one that cannot be gives the result that its attempt fails with.

    Raises:
        PromptRefused: a new task's text can never be sent.
        ConfigurationError: a new task's provider cannot be made.
    """
    model = task.at.model
    try:
        return await _prepared(pool, sent, task)
    except (PromptRefused, ConfigurationError) as error:
        if new:
            raise
        kind: ErrorType = "invalid_request" if isinstance(error, PromptRefused) else "client_missing"
        return failure(model, kind, str(error), billed=False)
    except ClientUnready as error:
        return failure(model, error.error_type, str(error), billed=False)
    except Exception as error:  # noqa: BLE001 - a client's own fault ends its attempt, not the task
        return failure(model, "other", f"the client cannot be made ready: {say(error)}", billed=False)


async def _prepared(pool: Pool, sent: Sent, task: Task) -> tuple[ModelClient, PromptPrefix | None]:
    client = pool.client(task.at)
    if not sent.prompt:
        raise PromptRefused("the prompt was erased; nothing can be sent any more")
    prepare = getattr(client, "prepare", None)
    if prepare is None or getattr(prepare, "__func__", None) is ModelClient.prepare:
        return client, None
    ran = await apart(lambda: prepare(sent.prompt, output_limit(task), system=sent.system), READY_S)
    if ran.gone is not None:
        raise ran.gone
    if ran.late:
        raise ClientUnready(f"the client was not ready after {READY_S:g} s", error_type="timeout")
    if isinstance(ran.error, asyncio.CancelledError):
        raise ClientUnready("the client cancelled itself while it was made ready", error_type="other")
    if ran.error is not None:
        raise ran.error
    prefix = ran.task.result()
    if prefix not in PREFIXES:
        raise ClientUnready(f"prepare gave a {type(prefix).__name__}, no prompt prefix", error_type="other")
    return client, prefix
