"""From a request to its task: pinned to the configuration's rules, or the one that its key names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from clients.base import ExecutionResult
from ledger.canonical import salted_digest
from ledger.config import Config
from ledger.envelope import Stream
from ledger.errors import IdempotencyConflict
from ledger.executor.requests import Request, Rules, fingerprint, same_requests
from ledger.executor.results import Story, tell
from ledger.registry import ModelRegistry, ModelTier
from ledger.store.protocol import Store

__all__ = ["Dispatched", "Intake"]

Kind = Literal["answer", "verdict", "validated"]
RULES: Final = 64
"""Routes of one configuration that are remembered."""


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A task brought to its end, and what of it was there before."""

    story: Story
    stream: Stream
    result: ExecutionResult
    attempts_before: int
    """Attempts that the ledger held when this call met the task."""
    succeeded_before: bool


class Intake:
    """What requests are measured by."""

    def __init__(self, config: Config, registry: ModelRegistry) -> None:
        self._config = config
        self._registry = registry
        self._pinned = lru_cache(RULES)(self._pinned_to)

    def rules(self, request: Request) -> Rules:
        """Return what the configuration pins a request to."""
        retries = self._config.retry.retry_count if request.retry_count is None else request.retry_count
        return self._pinned(request.tier, retries, _kind(request))

    async def met(self, store: Store, request: Request, task_id: str, stream: Stream) -> Story:
        """Return the story of the task that a key named, once it is sure that the request is the same.

        Raises:
            IdempotencyConflict: it was another one.
        """
        story = tell(task_id, stream)
        payload = await store.payload(task_id, "fingerprint")
        if story is not None and payload is not None:
            pinned = story.task.submitted
            asked = same_requests(request, self.rules(request), pinned)
            if any(salted_digest(payload.salt, fingerprint(each)) == pinned.fingerprint for each in asked):
                return story
        raise IdempotencyConflict(request.key or request.default_key or "", task_id)

    def _pinned_to(self, tier: str, retries: int, kind: Kind) -> Rules:
        registry = self._registry
        # A judge who is not what was asked for has the configuration's tries, so that a bad verdict gets its second.
        judge = {"answer": (), "verdict": registry.judge(retries), "validated": registry.judge()}[kind]
        return Rules(
            route=() if kind == "verdict" else registry.route(ModelTier(tier), retries),
            judge=judge,
            ladder=registry.ladder(tier, retries) if kind == "validated" else (),
            policy=registry.policy(),
            limits=registry.limits(),
            max_tokens=self._config.retry.max_tokens,
        )


def _kind(request: Request) -> Kind:
    if request.judged is not None:
        return "verdict"
    return "validated" if request.validated else "answer"
