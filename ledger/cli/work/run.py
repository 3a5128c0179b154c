"""The work of ``run``."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from ledger.batch.tally import task_record
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.streaming import Flow
from ledger.errors import RequestRefused
from ledger.executor.api import Dispatched
from ledger.executor.attempt import Listener
from ledger.executor.requests import Request
from ledger.registry import ModelTier

__all__ = ["Wanted", "run_task"]

PROMPT_BYTES_MAX: Final = 32 * 1024 * 1024
RESUMABLE: Final = "the task is in the ledger as it stands, and nothing of it is lost"
SAME_KEY: Final = "the same command goes on with this task, since it has a key"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    prompt: str | None
    """``-`` is standard input."""
    file: str | None
    tier: str
    max_tokens: int | None
    retries: int | None
    timeout_s: float | None
    key: str | None
    labels: Mapping[str, str]
    system: str | None
    stream: bool


def run_task(common: Common, wanted: Wanted) -> int:
    """Dispatch one task, print its answer and return the exit code."""

    def work() -> Coroutine[Any, Any, int]:
        request = Request(
            tier=ModelTier(wanted.tier).value,
            prompt=_prompt(wanted),
            max_tokens=wanted.max_tokens,
            retry_count=wanted.retries,
            system=wanted.system,
            timeout_s=wanted.timeout_s,
            key=wanted.key,
            labels=wanted.labels,
        )
        return _run(common, request, Flow(as_json=common.as_json) if wanted.stream else None)

    return perform(work, interrupted=RESUMABLE if wanted.key is None else SAME_KEY)


async def _run(common: Common, request: Request, flow: Flow | None) -> int:
    async with opened(common, create=True) as executor:
        if flow is None:
            done = await executor.dispatch(request, Listener())
        else:
            try:
                done = await executor.dispatch(request, Listener(flow.hear, flow.restart))
            finally:
                flow.end_line()
        if not common.as_json:
            _tell(done, executor.ledger.url, flow)
        elif flow is None:
            output.document(task_record(done))
        else:
            output.document({"type": "result", **task_record(done)}, on_one_line=True)
    return DONE if done.result.success else FOUND


def _prompt(wanted: Wanted) -> str:
    """Return the prompt, byte for byte.

    Raises:
        RequestRefused: it cannot be read, or is no UTF-8.
    """
    if wanted.file is not None:
        try:
            with Path(wanted.file).open("rb") as file:
                return _text(file, wanted.file)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise RequestRefused(f"{wanted.file} cannot be read: {why}", field="prompt") from error
    if wanted.prompt == "-":
        return _text(sys.stdin.buffer, "standard input")
    return wanted.prompt or ""


def _text(file: BinaryIO, name: str) -> str:
    # One byte more than can be kept, so that what is too long is refused and not cut.
    content = file.read(PROMPT_BYTES_MAX + 1)
    if len(content) > PROMPT_BYTES_MAX:
        raise RequestRefused(f"{name} has more than {PROMPT_BYTES_MAX:,} bytes; shorten it", field="prompt")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(f"{name} is not UTF-8 at byte {error.start + 1}", field="prompt") from None


def _tell(done: Dispatched, url: str, flow: Flow | None) -> None:
    result, money = done.result, done.story.money()
    if flow is not None:
        flow.end(result)
    elif result.success:
        output.answer(result.response)
    if not result.success:
        output.complain(f"the task {done.story.state_name}: {result.error_type or 'no error'}: {result.error}")
    served = "" if result.served_model in (None, result.model) else f", served by {result.served_model}"
    attempts = "1 attempt" if result.attempts == 1 else f"{result.attempts} attempts"
    parts = [
        f"{result.tier} {result.model}{served}",
        attempts,
        f"{_count(result.tokens_input)} tokens in, {_count(result.tokens_output)} out",
        f"{result.latency_ms:,} ms",
        output.money(money.known_nano_usd, money.unknown_attempts),
        *(["recorded before, nobody was called"] if result.attempts == done.attempts_before > 0 else []),
        f"task {done.story.task_id}",
        url,
    ]
    output.note(" · ".join(parts))


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"
