"""One attempt: make ready, record the start, call, record the end. No transaction is open during the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clients.base import ExecutionResult, ModelClient, OnText, PromptPrefix
from clients.judging import judge_request
from ledger import commands as c
from ledger import events as e
from ledger.canonical import digest_of
from ledger.dispatch import decide
from ledger.envelope import Append, Payload, Stream
from ledger.errors import ClientUnready, EventInvalid, PromptRefused
from ledger.evolve import fold
from ledger.executor import outcomes
from ledger.executor.pool import Pool
from ledger.executor.requests import Draft
from ledger.executor.transact import CLEAN_UP_S, Desk, state_of, unbroken
from ledger.state import INITIAL, Ready, State, Task, Waiting

__all__ = ["Attempt", "Listener", "Sent"]

GRACE_S: Final = 5.0
"""What a client is given beyond its own deadline before it is ended from outside."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The texts of a call."""

    prompt: str
    system: str | None = None
    schema: Mapping[str, Any] | None = None

    @classmethod
    def to_judge(cls, task: str, output: str) -> Sent:
        """Put a judge's question."""
        return cls(*judge_request(task, output))


@dataclass(slots=True)
class Listener:
    """The caller's ears: text as it comes, and word of a start over."""

    on_text: OnText | None = None
    on_restart: Callable[[int], object] | None = None
    heard: bool = False
    fault: Exception | None = None
    """What the caller's own function raised; it must not pass for the provider's failure."""

    def hear(self, text: str) -> None:
        """Pass a piece of text on."""
        self.heard = True
        if self.on_text is None or self.fault is not None:
            return
        try:
            self.on_text(text)
        except Exception as error:  # noqa: BLE001 - raised to the caller once the outcome is recorded
            self.fault = error

    def begin(self, attempt: int) -> None:
        """Say that the text starts over, if some of it was heard."""
        if self.heard and self.on_restart is not None:
            self.on_restart(attempt)
        self.heard = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """Makes the attempt that a task's state calls for."""

    desk: Desk
    pool: Pool
    sent: Sent
    listener: Listener

    async def first(self, draft: Draft, key: bytes | None) -> Stream:
        """Submit a task and make its first attempt; the two are one transaction.

        Raises:
            PromptRefused: the text cannot be sent; nothing was written.
            KeyTaken: the key names another task; nothing was written or called.
        """
        submitted = decide(INITIAL, c.Submit(draft.request, self.desk.seen(draft.request.policy)))
        return await self._make(draft.task_id, 0, submitted, fold(submitted), draft.payloads, key)

    async def next(self, task_id: str, stream: Stream) -> Stream:
        """Make the next attempt of a task that is ready or due.

        Raises:
            VersionConflict: somebody else was first; nothing was called.
        """
        return await self._make(task_id, len(stream), (), state_of(stream))

    async def _make(
        self,
        task_id: str,
        version: int,
        before: tuple[e.Event, ...],
        state: State,
        payloads: tuple[Payload, ...] = (),
        key: bytes | None = None,
    ) -> Stream:
        """Make ready, append ``before`` and the start, call, record."""
        if not isinstance(state, Ready | Waiting):
            raise TypeError(f"no attempt can follow {type(state).__name__}")
        task = state.task
        async with self.pool.slot(task.at.provider):
            ready = await self._ready(task, new=version == 0)
            started = self._started(task, None if isinstance(ready, ExecutionResult) else ready[1])
            events = (*before, *decide(state, c.Start(started, self.desk.ports.now_ms())))
            if isinstance(ready, ExecutionResult):
                done = self._ended(started, ready, task)
                record = c.Record(done.outcome, started.fence, self.desk.seen(task.submitted.policy))
                events = (*events, *decide(fold(events[len(before) :], state), record))
                payloads = (*payloads, *done.payloads)
            stream = await self._begin(
                self.desk.sealed(task_id, version, events, fence=started.fence, payloads=payloads, key=key),
                started,
                task,
            )
            if isinstance(ready, ExecutionResult):
                return stream
            result = await self._call(ready[0], task_id, started, task)
        return await unbroken(self._record(task_id, started, result, task))

    async def _ready(self, task: Task, *, new: bool) -> tuple[ModelClient, PromptPrefix | None] | ExecutionResult:
        """Make the client ready; one that cannot be gives the result that its attempt fails with."""
        step = task.at
        try:
            client = self.pool.client(step)
            prepare = getattr(client, "prepare", None)
            if prepare is None:
                return client, None
            return client, await prepare(self.sent.prompt, task.submitted.max_tokens, system=self.sent.system)
        except PromptRefused as error:
            if new:
                raise
            return outcomes.failure(step.model, "invalid_request", str(error), billed=False)
        except ClientUnready as error:
            return outcomes.failure(step.model, error.error_type, str(error), billed=False)

    def _started(self, task: Task, prefix: PromptPrefix | None) -> e.AttemptStarted:
        step, submitted, worker = task.at, task.submitted, self.desk.worker
        request = {
            "model": step.model,
            "max_tokens": submitted.max_tokens,
            "prompt_prefix": prefix,
            "prompt_digest": submitted.prompt_digest,
            "system_digest": submitted.system_digest,
            "output_digest": submitted.output_digest,
        }
        return e.AttemptStarted(
            attempt=task.attempts + 1,
            purpose=task.purpose,
            step=task.step,
            tier=step.tier,
            provider=step.provider,
            request_model=step.model,
            deadline_ms=self.desk.ports.now_ms() + step.timeout_ms,
            fence=task.fence if task.worker == worker else task.fence + 1,
            worker=worker,
            request_digest=digest_of(request),
            prompt_prefix=prefix,
            upper_bound_nano_usd=None,
        )

    async def _begin(self, append: Append, started: e.AttemptStarted, task: Task) -> Stream:
        """Append the start; a caller who is cancelled meanwhile leaves no start without an end."""
        writing = asyncio.ensure_future(self.desk.store.append(append))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing}, timeout=CLEAN_UP_S)
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                await self._interrupted(append.task_id, started, task, billed=False)
            raise

    async def _call(self, client: ModelClient, task_id: str, started: e.AttemptStarted, task: Task) -> ExecutionResult:
        """Call the provider, at most until the deadline and a grace."""
        timeout_s = task.at.timeout_ms / 1000
        options: dict[str, Any] = {"system": self.sent.system, "timeout_s": timeout_s}
        if self.listener.on_text is not None:
            options["on_text"] = self.listener.hear
        if self.sent.schema is not None:
            options["schema"] = self.sent.schema
        self.listener.begin(started.attempt)
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        try:
            async with asyncio.timeout(timeout_s + GRACE_S):
                result = await client.execute(self.sent.prompt, task.submitted.max_tokens, **options)
            if isinstance(result, ExecutionResult):
                return result
            why = f"the client gave a {type(result).__name__}, expected an ExecutionResult"
            failed = outcomes.failure(started.request_model, "other", why, billed=True)
        except TimeoutError:
            why = f"no answer within {timeout_s:g} s, and the client did not end the call itself"
            failed = outcomes.failure(started.request_model, "timeout", why, billed=True)
        except asyncio.CancelledError:
            await self._interrupted(task_id, started, task, billed=True, latency_ms=round((clock() - sent_at) * 1000))
            raise
        except Exception as error:  # noqa: BLE001 - a client's own fault must not lose the record of its call
            why = f"the client itself failed: {type(error).__name__}: {error}"
            failed = outcomes.failure(started.request_model, "other", why, billed=True)
        return failed.model_copy(update={"latency_ms": round((clock() - sent_at) * 1000)})

    async def _interrupted(
        self, task_id: str, started: e.AttemptStarted, task: Task, *, billed: bool, latency_ms: int = 0
    ) -> None:
        """Record that the caller went away during the attempt, within a bound."""
        why = "the caller was interrupted" if billed else "the caller was interrupted before anything was sent"
        failed = outcomes.failure(started.request_model, "interrupted", why, billed=billed)
        result = failed.model_copy(update={"latency_ms": latency_ms})
        recording = asyncio.ensure_future(self._record(task_id, started, result, task))
        await asyncio.wait({recording}, timeout=CLEAN_UP_S)

    def _ended(self, started: e.AttemptStarted, result: ExecutionResult, task: Task) -> outcomes.Ended:
        """Make the record of an end; a result that cannot be recorded is a failure that can."""
        judged_attempt = None if task.answer is None else task.answer.attempt
        try:
            return outcomes.ended(started, result, task.submitted, judged_attempt, self.desk.ports)
        except (ValueError, EventInvalid) as error:
            why = f"the client's result cannot be recorded: {error}"
            failed = outcomes.failure(started.request_model, "other", why, billed=True)
            return outcomes.ended(started, failed, task.submitted, judged_attempt, self.desk.ports)

    async def _record(self, task_id: str, started: e.AttemptStarted, result: ExecutionResult, task: Task) -> Stream:
        done = self._ended(started, result, task)
        seen = self.desk.seen(task.submitted.policy)
        command = c.Record(done.outcome, started.fence, seen, done.verdict)
        return await self.desk.transact(task_id, command, fence=started.fence, payloads=done.payloads)
