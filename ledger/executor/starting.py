"""What a start says, and what has to hold for it: the breakers, and the limits that all processes share."""

from __future__ import annotations

from clients.base import PromptPrefix
from ledger import events as e
from ledger.breakers import HalfOpen, Open
from ledger.canonical import digest_of
from ledger.envelope import Limit
from ledger.errors import DispatchError
from ledger.executor.bench import Bench
from ledger.executor.calling import LEASE_GRACE_MS
from ledger.executor.pool import Pool
from ledger.executor.sending import Sent, output_limit
from ledger.prices.book import PriceBook
from ledger.prices.costing import upper_bound
from ledger.state import Task

__all__ = ["Braked", "Stopped", "refuse_braked", "shared_limits", "started_event"]


class Braked(DispatchError):
    """A breaker opened while the task queued for a place; nothing was written."""


class Stopped(DispatchError):
    """Nothing new is to begin; nothing was written."""


async def refuse_braked(bench: Bench, task: Task, *, trial: bool) -> None:
    """Look again, now that it is this task's turn; one that has made an attempt on its step is never held.

    Raises:
        Braked: it may not start here.
    """
    if task.made:
        return
    standing = await bench.brakes.standing(task.at.provider, task.at.model)
    if isinstance(standing, Open) or (isinstance(standing, HalfOpen) and not trial):
        raise Braked(f"{task.at.provider}/{task.at.model} is left alone for a while")


def shared_limits(pool: Pool, task: Task, *, trial: bool) -> tuple[Limit, ...]:
    """Return what holds for all processes together; a trial is the only call of its model."""
    provider = task.at.provider
    whole = Limit(provider, pool.concurrency(provider), grace_ms=LEASE_GRACE_MS)
    return (whole, Limit(provider, 1, task.at.model, LEASE_GRACE_MS)) if trial else (whole,)


def started_event(
    bench: Bench, task: Task, prefix: PromptPrefix | None, sent: Sent, book: PriceBook | None
) -> e.AttemptStarted:
    """Return the start of the attempt that the task calls for, its deadline counted from now."""
    step, submitted, worker, now_ms = task.at, task.submitted, bench.desk.worker, bench.now_ms()
    bound = None
    if book is not None:
        sizes = _size(sent.prompt), _size(sent.system or "")
        bound = upper_bound(book, step.provider, step.model, *sizes, output_limit(task), now_ms)
    request = {
        "model": step.model,
        "max_tokens": output_limit(task),
        "prompt_prefix": prefix,
        "prompt_digest": submitted.prompt_digest,
        "system_digest": submitted.system_digest,
        "output_digest": submitted.output_digest,
        "purpose": task.purpose,
        "judged_attempt": task.judged_attempt if task.purpose == "validate" else None,
    }
    return e.AttemptStarted(
        attempt=task.attempts + 1,
        purpose=task.purpose,
        step=task.step,
        tier=step.tier,
        provider=step.provider,
        request_model=step.model,
        deadline_ms=now_ms + step.timeout_ms,
        fence=task.fence if task.worker == worker else task.fence + 1,
        worker=worker,
        request_digest=digest_of(request),
        prompt_prefix=prefix,
        upper_bound_nano_usd=bound,
        price_book=None if book is None else book.digest,
    )


def _size(text: str) -> int:
    """Return a text's bytes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
