"""``Executor``: dispatch tasks through the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self

from clients.base import ExecutionResult, ModelClient, OnText
from clients.judging import failed_verdict
from ledger.canonical import salted_digest
from ledger.composition import build_client
from ledger.config import Config, load_config, resolve_ledger
from ledger.envelope import Stream
from ledger.errors import ClientError, IdempotencyConflict, TaskNotFound, UsageError
from ledger.executor.attempt import Attempt, Listener, Sent
from ledger.executor.checks import checked, checked_listeners
from ledger.executor.driver import Driver
from ledger.executor.pool import Pool
from ledger.executor.requests import Judged, Request, Rules, draft, fingerprint, key_digest, same_requests
from ledger.executor.results import Story, result_of, tell, verdict_of
from ledger.executor.transact import Desk
from ledger.handle import Ledger
from ledger.ports import Ports
from ledger.registry import ModelRegistry, ModelTier
from ledger.store.protocol import KeyTaken

__all__ = ["Dispatched", "Executor"]

JUDGE: Final = ModelTier.SONNET
JUDGE_TOKENS: Final = 1024
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


class Executor:
    """Runs tasks: every attempt, retry and fallback is in the ledger before it is acted on.

    ``Executor()`` alone works: the default ledger and configuration, opened at first use.

    Args:
        ledger: where everything is recorded; None opens the configured one, and closes it with the executor.
        config: a ``Config``, or the path of a ``dispatch.toml``; None looks where the command line looks.
        ports: clock, sleep, ids and jitter; the real ones by default.
        build: makes a client from provider, model and settings.
    """

    def __init__(
        self,
        ledger: Ledger | None = None,
        config: Config | str | os.PathLike[str] | None = None,
        *,
        ports: Ports | None = None,
        build: Callable[[str, str, Mapping[str, Any]], ModelClient] = build_client,
    ) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        self.registry = ModelRegistry(self.config)
        self._ports = ports or Ports()
        self._owns_ledger = ledger is None
        self.ledger = ledger or Ledger.open(resolve_ledger(None, self.config), ports=self._ports)
        self._pool = Pool(self.registry, build)
        self._worker = f"worker:{self._ports.new_id()}"
        self._pinned = lru_cache(RULES)(self._pinned_to)

    @property
    def worker(self) -> str:
        """The name under which this executor submits and attempts; no other process has it."""
        return self._worker

    async def execute(
        self,
        model_tier: ModelTier | str,
        prompt: str,
        max_tokens: int | None = None,
        retry_count: int | None = None,
        *,
        idempotency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        system: str | None = None,
        on_text: OnText | None = None,
        on_restart: Callable[[int], object] | None = None,
    ) -> ExecutionResult:
        """Dispatch one prompt and return its result; a provider's failure is a result with ``success=False``.

        Args:
            model_tier: the tier to begin with.
            prompt: the text, sent byte for byte.
            max_tokens: the output limit; None is the configuration's (4096).
            retry_count: retries after the first try on the first step; None is the configuration's (2).
            idempotency_key: names this request for ever: the same key and request gives the recorded task.
            labels: names and texts to report by; they cannot be erased, except ``subject``.
            timeout_s: seconds for each attempt; None is the tier's.
            system: the system text.
            on_text: called with text as it comes.
            on_restart: called with the new attempt's number before a text that was heard starts over.

        Raises:
            UsageError: an argument is wrong, or the key names another request; nothing was written.
            PromptRefused: the tier's client can never send this text; nothing was written.
            LedgerError: the ledger cannot be used.
        """
        request = Request(
            tier=ModelTier(model_tier).value,
            prompt=prompt,
            max_tokens=max_tokens,
            retry_count=retry_count,
            system=system,
            timeout_s=timeout_s,
            key=idempotency_key,
            labels={} if labels is None else labels,
        )
        return (await self.dispatch(request, Listener(on_text, on_restart))).result

    async def validate_output(self, task: str, output: str) -> dict[str, Any]:
        """Judge an output; return exactly ``pass``, ``issues``, ``confidence`` and ``escalate``.

        Any trouble gives ``{"pass": False, "issues": [why], "confidence": 0, "escalate": True}``.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        try:
            verdict, _ = await self.judge(task, Judged(output))
        except (UsageError, ClientError) as error:
            return failed_verdict(str(error))
        return verdict

    async def judge(self, task: str, judged: Judged) -> tuple[dict[str, Any], Dispatched]:
        """Judge an output as a task of its own; return the verdict with that task."""
        done = await self.dispatch(
            Request(tier=JUDGE.value, prompt=task, max_tokens=JUDGE_TOKENS, judged=judged), Listener()
        )
        verdict = await verdict_of(await self.ledger.store(), done.story, done.stream)
        return verdict or failed_verdict(done.result.error or "the judge gave no verdict"), done

    async def result(self, task_id: str) -> ExecutionResult:
        """Return a task's result as the ledger knows it; of a task that has not ended, what is known so far.

        Raises:
            TaskNotFound: there is no such task.
        """
        store = await self.ledger.store()
        story = tell(task_id, await store.read(task_id))
        if story is None:
            raise TaskNotFound(f"the ledger holds no task {task_id}")
        return await result_of(store, story)

    async def dispatch(self, request: Request, listener: Listener) -> Dispatched:
        """Bring a request to its end: as a new task, or as the one that its key names."""
        checked(request)
        checked_listeners(listener.on_text, listener.on_restart)
        store = await self.ledger.store()
        key = key_digest(request, await store.key_salt())
        desk = Desk(store, self._ports, self._worker)
        sent = Sent(request.prompt, request.system)
        if request.judged is not None:
            sent = Sent.to_judge(request.prompt, request.judged.output)
        attempt = Attempt(desk, self._pool, sent, listener)
        task_id = None if key is None else await store.task_of_key(key)
        stream: Stream = ()
        if task_id is None:
            new = draft(request, self._rules(request), self._ports, self._worker)
            try:
                task_id, stream = new.task_id, await attempt.first(new, key)
            except KeyTaken as taken:
                task_id = taken.task_id
        met = tell(task_id, stream)
        before = 0
        succeeded_before = False
        if met is None:
            stream = await store.read(task_id)
            met = await self._met(request, task_id, stream)
            before, succeeded_before = len(met.started), met.answering is not None
        driven = await Driver(desk, attempt).drive(task_id, stream)
        if listener.fault is not None:
            raise listener.fault
        story = met if driven is stream else tell(task_id, driven) or met
        result = await result_of(store, story, attempt.texts)
        return Dispatched(story, driven, result, before, succeeded_before)

    async def _met(self, request: Request, task_id: str, stream: Stream) -> Story:
        """Return the story of the task that a key named, once it is sure that the request is the same."""
        story = tell(task_id, stream)
        payload = await (await self.ledger.store()).payload(task_id, "fingerprint")
        if story is not None and payload is not None:
            pinned = story.task.submitted
            asked = same_requests(request, self._rules(request), pinned)
            if any(salted_digest(payload.salt, fingerprint(each)) == pinned.fingerprint for each in asked):
                return story
        raise IdempotencyConflict(request.key or request.default_key or "", task_id)

    def _rules(self, request: Request) -> Rules:
        retries = self.config.retry.retry_count if request.retry_count is None else request.retry_count
        return self._pinned(request.tier, retries, request.judged is not None)

    def _pinned_to(self, tier: str, retries: int, judging: bool) -> Rules:  # noqa: FBT001 - a cache's key
        return Rules(
            route=() if judging else self.registry.route(ModelTier(tier), retries),
            judge=self.registry.judge(retries) if judging else (),
            policy=self.registry.policy(),
            limits=self.registry.limits(),
            max_tokens=self.config.retry.max_tokens,
        )

    async def aclose(self) -> None:
        """End and record the calls in flight, close the clients, and the ledger if the executor opened it."""
        try:
            await self._pool.aclose()
        finally:
            if self._owns_ledger:
                await self.ledger.aclose()

    async def __aenter__(self) -> Self:
        await self.ledger.store()
        self._pool.closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
