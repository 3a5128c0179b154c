"""One attempt: make ready, record the start, call, record the end. No transaction is open during the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from clients.base import ExecutionResult, ModelClient
from ledger import commands as c
from ledger import events as e
from ledger.breakers import Closed
from ledger.dispatch import decide
from ledger.envelope import Append, Payload, Stream
from ledger.evolve import fold
from ledger.executor import outcomes
from ledger.executor.bench import Bench
from ledger.executor.calling import GRACE_S, apart, read_call
from ledger.executor.listening import Listener
from ledger.executor.readiness import readied
from ledger.executor.recording import ended, record
from ledger.executor.requests import Draft
from ledger.executor.sending import Sent, output_limit, sent_next
from ledger.executor.starting import Braked, Stopped, refuse_braked, shared_limits, started_event
from ledger.executor.transact import state_of
from ledger.policy import PPM
from ledger.state import INITIAL, Ready, State, Task, Waiting
from ledger.store.protocol import CapReached, LimitReached

__all__ = ["Attempt"]

PLACE_S: Final = 0.1
"""About how often a place among a provider's calls, all of which other processes have, is asked for again."""

Drawn = tuple[Append, e.AttemptStarted]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Makes the attempt that a task's state calls for."""

    bench: Bench
    sent: Sent
    listener: Listener
    texts: dict[str, bytes] = field(default_factory=dict)
    """What was recorded here, by slot: whoever made the call need not read its answer back."""
    stop: asyncio.Event | None = None
    """Set, it lets no attempt begin any more."""

    async def first(self, draft: Draft, key: bytes | None) -> Stream:
        """Submit a task and make its first attempt; the two are one transaction, unless it has to wait for its turn.

        Raises:
            PromptRefused: the text cannot be sent; nothing was written.
            KeyTaken: the key names another task; nothing was written or called.
        """
        desk = self.bench.desk
        submitted = decide(INITIAL, c.Submit(draft.request, desk.seen(draft.request.policy)))
        state = fold(submitted)
        if not isinstance(state, Ready):
            raise TypeError(f"a task that was just submitted is {type(state).__name__}")
        if isinstance(await self.bench.brakes.standing(state.task.at.provider, state.task.at.model), Closed):
            try:
                return await self._make(draft.task_id, 0, submitted, state, draft.payloads, key)
            except (Braked, LimitReached):
                pass  # it waits for its turn as a task of the ledger
            except CapReached as reached:
                submitted += decide(state, c.Budget(desk.seen(draft.request.policy, reached.budgets)))
        else:
            await readied(self.bench.pool, self.sent, state.task, new=True)
        append = desk.sealed(draft.task_id, 0, submitted, fence=0, payloads=draft.payloads, key=key)
        return await self.bench.pool.unbroken(desk.store.append(append))

    async def next(self, task_id: str, stream: Stream, *, trial: bool = False) -> Stream:
        """Make the next attempt of a task that is ready or due; a trial is the only one of its model in flight.

        Raises:
            Stopped: nothing new is to begin.
            VersionConflict: somebody else was first; nothing was called.
            LimitReached: somebody else makes the trial.
            CapReached: it does not fit under a cap.
        """
        return await self._make(task_id, len(stream), (), state_of(stream), trial=trial)

    async def _make(
        self,
        task_id: str,
        version: int,
        before: tuple[e.Event, ...],
        state: State,
        payloads: tuple[Payload, ...] = (),
        key: bytes | None = None,
        *,
        trial: bool = False,
    ) -> Stream:
        """Make ready, append ``before`` and the start, call, record."""
        if not isinstance(state, Ready | Waiting):
            raise TypeError(f"no attempt can follow {type(state).__name__}")
        task, desk, pool = state.task, self.bench.desk, self.bench.pool
        sent = await sent_next(desk.store, self.sent, self.texts, task_id, task)
        async with pool.flight(task.at.provider) as slot, self.bench.gate.passed(alone=task.orphans > 0):
            self._refuse_late()
            ready = await readied(pool, sent, task, new=version == 0)
            await refuse_braked(self.bench, task, trial=trial)
            sealed = partial(desk.sealed, task_id, version, key=key)
            book = await self.bench.books.of(task.at.provider)
            if isinstance(ready, ExecutionResult):
                started = started_event(self.bench, task, None, sent, book)
                begun = (*before, *decide(state, c.Start(started, desk.ports.now_ms())))
                done = ended(desk.ports, started, ready, task, outcomes.Terms(book, desk.ports.now_ms()), pool.hide)
                after = c.Record(done.outcome, started.fence, desk.seen(task.submitted.policy))
                events = (*begun, *decide(fold(begun[len(before) :], state), after))
                append = sealed(events, fence=started.fence, payloads=(*payloads, *done.payloads))
                recorded = await pool.unbroken(desk.store.append(append))
                await self.bench.brakes.after(task_id, started.provider, started.request_model, recorded)
                return recorded
            client, prefix = ready
            start = partial(started_event, self.bench, task, prefix, sent, book)
            drawn = partial(self._drawn, start, state, before, partial(sealed, payloads=payloads), trial=trial)
            stream, started = await self._begin(drawn, task, trial=trial, wait=version > 0)
            pool.flying.add(task_id)
            try:
                return await self._call(client, sent, stream, started, task, slot.release)
            finally:
                pool.flying.discard(task_id)

    def _drawn(
        self,
        start: Callable[[], e.AttemptStarted],
        state: Ready | Waiting,
        before: tuple[e.Event, ...],
        sealed: Callable[..., Append],
        *,
        trial: bool,
    ) -> Drawn:
        """Draw up the start as of now, with what has to hold for it."""
        self._refuse_late()
        started, task = start(), state.task
        events = (*before, *decide(state, c.Start(started, self.bench.desk.ports.now_ms())))
        limits = shared_limits(self.bench.pool, task, trial=trial)
        caps = self.bench.budgets.caps(task.submitted, task.at.tier)
        return sealed(events, fence=started.fence, limits=limits, caps=caps), started

    def _refuse_late(self) -> None:
        """Let nothing begin that had to wait for its turn too long.

        Raises:
            Stopped: nothing new is to begin.
            UsageError: the executor was closed meanwhile.
            LedgerError: an answer had to be kept beside the ledger.
        """
        self.bench.pool.refuse_closed()
        if self.stop is not None and self.stop.is_set():
            raise Stopped("nothing new is to begin")

    async def _begin(
        self, drawn: Callable[[], Drawn], task: Task, *, trial: bool, wait: bool
    ) -> tuple[Stream, e.AttemptStarted]:
        """Append the start; where the provider's places are all taken, ask again until there is one.

        Only one caller a provider asks at a time, so that many who wait cost no more than one; nobody overtakes them.
        """
        door, ports = self.bench.doors[task.at.provider], self.bench.desk.ports
        if not door.is_queued_at:
            try:
                return await self._appended(*drawn(), task)
            except LimitReached as full:
                if not wait or full.limit.model is not None:
                    raise
        elif not wait:
            raise LimitReached(shared_limits(self.bench.pool, task, trial=False)[0])
        async with door.turn():
            while True:
                await refuse_braked(self.bench, task, trial=trial)
                try:
                    return await self._appended(*drawn(), task)
                except LimitReached as full:
                    if full.limit.model is not None:
                        raise
                await self.bench.sweep()
                await door.wait(ports.sleep(PLACE_S * (1 + ports.draw_ppm(PPM // 2) / PPM)))

    async def _appended(self, append: Append, started: e.AttemptStarted, task: Task) -> tuple[Stream, e.AttemptStarted]:
        """Append the start; a caller who is cancelled meanwhile leaves no start without an end."""
        desk = self.bench.desk
        desk.ports.passing("before start")
        try:
            stream = await desk.store.append(append)
        except asyncio.CancelledError:
            why = "the caller was interrupted before anything was sent"
            failed = outcomes.failure(started.request_model, "interrupted", why, billed=False)

            async def end() -> None:
                # Whether the first one is written or not, after this it is, once.
                await self._record(await desk.store.append(append), started, failed, task)

            await self.bench.pool.at_last(end())
            raise
        desk.ports.passing("after start")
        return stream, started

    async def _call(
        self,
        client: ModelClient,
        sent: Sent,
        stream: Stream,
        started: e.AttemptStarted,
        task: Task,
        release: Callable[[], None],
    ) -> Stream:
        """Call the provider, at most until the deadline and a grace, and record what came of it, whatever it is."""
        timeout_s, pool = task.at.timeout_ms / 1000, self.bench.pool
        options: dict[str, Any] = {"system": sent.system, "timeout_s": timeout_s}
        if started.purpose == "generate":  # a judge's words are not for the caller's ears
            self.listener.begin(started.attempt)
            if self.listener.on_text is not None:
                options["on_text"] = partial(self.listener.hear, started.attempt)
        if sent.schema is not None:
            options["schema"] = sent.schema
        self.bench.desk.ports.passing("before call")
        ran = await apart(
            lambda: client.execute(sent.prompt, output_limit(task), **options),
            timeout_s + GRACE_S,
            pool.call,
        )
        self.bench.desk.ports.passing("after call")
        release()
        self.listener.attempt = 0
        error = ran.error
        if isinstance(error, GeneratorExit):
            raise error  # the loop itself is being torn down; nothing can be awaited any more
        result = read_call(ran, started.request_model, timeout_s, closed=pool.closed)
        recording = self._record(stream, started, result, task)
        if ran.gone is not None:
            await pool.at_last(recording)
            raise ran.gone
        recorded = await pool.unbroken(recording)
        if error is not None and not isinstance(error, asyncio.CancelledError | Exception):
            raise error  # KeyboardInterrupt, SystemExit and their like are not ours to keep
        return recorded

    async def _record(self, stream: Stream, started: e.AttemptStarted, result: ExecutionResult, task: Task) -> Stream:
        terms = self.bench.books.terms(stream, started)
        done = ended(self.bench.desk.ports, started, result, task, terms, self.bench.pool.hide)
        recorded = await record(self.bench, stream, started, done, task)
        self.bench.doors[started.provider].knock()
        self.texts.update((payload.slot, payload.content) for payload in done.payloads)
        return recorded
