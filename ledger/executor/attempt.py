"""One attempt: make ready, record the start, call, record the end. No transaction is open during the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clients.base import ExecutionResult, ModelClient, OnText, PromptPrefix
from ledger import commands as c
from ledger import events as e
from ledger.canonical import digest_of
from ledger.dispatch import decide
from ledger.envelope import Append, Payload, Stream
from ledger.evolve import fold
from ledger.executor import outcomes
from ledger.executor.calling import GRACE_S, apart, read_call, say
from ledger.executor.pool import Pool
from ledger.executor.readiness import Sent, readied
from ledger.executor.requests import Draft
from ledger.executor.transact import Desk, state_of
from ledger.state import INITIAL, Ready, State, Task, Waiting

__all__ = ["Attempt", "Listener", "Sent"]


@dataclass(slots=True)
class Listener:
    """The caller's ears: text as it comes, and word of a start over."""

    on_text: OnText | None = None
    on_restart: Callable[[int], object] | None = None
    attempt: int = 0
    """The one that is listened to; 0 is none."""
    heard: bool = False
    fault: Exception | None = None
    """What the caller's own function raised; it must not pass for the provider's failure."""

    def hear(self, attempt: int, text: str) -> None:
        """Pass a piece of text on; a client left behind by an earlier attempt is not heard any more."""
        if attempt != self.attempt:
            return
        self.heard = True
        if self.on_text is None or self.fault is not None:
            return
        try:
            self.on_text(text)
        except Exception as error:  # noqa: BLE001 - raised to the caller once the outcome is recorded
            self.fault = error

    def begin(self, attempt: int) -> None:
        """Say that the text starts over, if some of it was heard."""
        if self.heard and self.on_restart is not None and self.fault is None:
            try:
                self.on_restart(attempt)
            except Exception as error:  # noqa: BLE001 - likewise
                self.fault = error
        self.heard = False
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class Attempt:
    """Makes the attempt that a task's state calls for."""

    desk: Desk
    pool: Pool
    sent: Sent
    listener: Listener
    texts: dict[str, bytes] = field(default_factory=dict)
    """What was recorded here, by slot: whoever made the call need not read its answer back."""

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
        async with self.pool.flight(task.at.provider) as slot:
            ready = await readied(self.pool, self.sent, task, new=version == 0)
            started = self._started(task, None if isinstance(ready, ExecutionResult) else ready[1])
            events = (*before, *decide(state, c.Start(started, self.desk.ports.now_ms())))
            if isinstance(ready, ExecutionResult):
                done = self._ended(started, ready, task)
                record = c.Record(done.outcome, started.fence, self.desk.seen(task.submitted.policy))
                events = (*events, *decide(fold(events[len(before) :], state), record))
                payloads = (*payloads, *done.payloads)
            append = self.desk.sealed(task_id, version, events, fence=started.fence, payloads=payloads, key=key)
            if isinstance(ready, ExecutionResult):
                return await self.pool.unbroken(self.desk.store.append(append))
            stream = await self._begin(append, started, task)
            return await self._call(ready[0], stream, started, task, slot.release)

    def _started(self, task: Task, prefix: PromptPrefix | None) -> e.AttemptStarted:
        step, submitted, worker = task.at, task.submitted, self.desk.worker
        request = {
            "model": step.model,
            "max_tokens": submitted.max_tokens,
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
            deadline_ms=self.desk.ports.now_ms() + step.timeout_ms,
            fence=task.fence if task.worker == worker else task.fence + 1,
            worker=worker,
            request_digest=digest_of(request),
            prompt_prefix=prefix,
            upper_bound_nano_usd=None,
            price_book=None,
        )

    async def _begin(self, append: Append, started: e.AttemptStarted, task: Task) -> Stream:
        """Append the start; a caller who is cancelled meanwhile leaves no start without an end."""
        writing = asyncio.ensure_future(self.desk.store.append(append))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            why = "the caller was interrupted before anything was sent"
            failed = outcomes.failure(started.request_model, "interrupted", why, billed=False)

            async def end() -> None:
                await self._record(await writing, started, failed, task)

            await self.pool.at_last(end())
            raise

    async def _call(
        self,
        client: ModelClient,
        stream: Stream,
        started: e.AttemptStarted,
        task: Task,
        release: Callable[[], None],
    ) -> Stream:
        """Call the provider, at most until the deadline and a grace, and record what came of it, whatever it is."""
        timeout_s = task.at.timeout_ms / 1000
        options: dict[str, Any] = {"system": self.sent.system, "timeout_s": timeout_s}
        if self.listener.on_text is not None:
            options["on_text"] = partial(self.listener.hear, started.attempt)
        if self.sent.schema is not None:
            options["schema"] = self.sent.schema
        self.listener.begin(started.attempt)
        ran = await apart(
            lambda: client.execute(self.sent.prompt, task.submitted.max_tokens, **options),
            timeout_s + GRACE_S,
            self.pool.call,
        )
        release()
        self.listener.attempt = 0
        error = ran.error
        if isinstance(error, GeneratorExit):
            raise error  # the loop itself is being torn down; nothing can be awaited any more
        result = read_call(ran, started.request_model, timeout_s, closed=self.pool.closed)
        recording = self._record(stream, started, result, task)
        if ran.gone is not None:
            await self.pool.at_last(recording)
            raise ran.gone
        recorded = await self.pool.unbroken(recording)
        if error is not None and not isinstance(error, asyncio.CancelledError | Exception):
            raise error  # KeyboardInterrupt, SystemExit and their like are not ours to keep
        return recorded

    def _ended(self, started: e.AttemptStarted, result: ExecutionResult, task: Task) -> outcomes.Ended:
        """Make the record of an end; a result that cannot be recorded is a failure that can."""
        judged_attempt = None if task.answer is None else task.answer.attempt
        try:
            return outcomes.ended(started, result, task.submitted, judged_attempt, self.desk.ports)
        except Exception as error:  # noqa: BLE001 - nothing that a client gives may lose the record of its call
            why = f"the client's result cannot be recorded: {say(error)}"
            failed = outcomes.failure(started.request_model, "other", why, billed=True)
            return outcomes.ended(started, failed, task.submitted, judged_attempt, self.desk.ports)

    async def _record(self, stream: Stream, started: e.AttemptStarted, result: ExecutionResult, task: Task) -> Stream:
        done = self._ended(started, result, task)
        seen = self.desk.seen(task.submitted.policy)
        command = c.Record(done.outcome, started.fence, seen, done.verdict)
        recorded = await self.desk.transact(
            stream[0].task_id, command, fence=started.fence, payloads=done.payloads, known=stream
        )
        self.texts.update((payload.slot, payload.content) for payload in done.payloads)
        return recorded
