"""``Executor``: dispatch tasks through the ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from clients.base import ExecutionResult, ModelClient, OnText
from clients.judging import failed_verdict
from ledger.composition import build_client
from ledger.config import Config, load_config, resolve_ledger
from ledger.errors import ClientError, LedgerBusy, TaskNotFound, UsageError
from ledger.executor import dispatching
from ledger.executor.bench import Bench, Benches
from ledger.executor.checks import checked, checked_listeners
from ledger.executor.crew import Crew
from ledger.executor.intake import Dispatched, Intake
from ledger.executor.listening import Listener
from ledger.executor.pool import Pool
from ledger.executor.requests import Judged, Request, asked_of, judging
from ledger.executor.results import result_of, tell, verdict_of
from ledger.executor.transact import Desk
from ledger.handle import Ledger
from ledger.ports import Ports
from ledger.registry import ModelRegistry, ModelTier

__all__ = ["Executor"]


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
        self._intake = Intake(self.config, self.registry)
        self._named(f"worker:{self._ports.new_id()}")

    def _named(self, worker: str) -> None:
        self._worker = worker
        self._benches = Benches(self.ledger, self._ports, self._pool, self.registry, worker)

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
        asked = asked_of(
            ModelTier(model_tier), prompt, max_tokens, retry_count, idempotency_key, labels, timeout_s, system
        )
        return (await self.dispatch(asked, Listener(on_text, on_restart))).result

    async def submit(
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
    ) -> str:
        """Queue one prompt for whoever works, and return its task's id; the arguments are those of ``execute``.

        Raises:
            UsageError: an argument is wrong, or the key names another request; nothing was written.
            LedgerError: the ledger cannot be used.
        """
        asked = asked_of(
            ModelTier(model_tier), prompt, max_tokens, retry_count, idempotency_key, labels, timeout_s, system
        )
        return await dispatching.enqueued(await self._person(), self._intake, checked(asked))

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
        done = await self.dispatch(judging(task, judged), Listener())
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

    async def resume(self, task_id: str | None = None) -> tuple[ExecutionResult, ...]:
        """Finish what dead workers left, or one task, also one that waits for a person; return the results.

        Raises:
            TaskNotFound: there is no such task.
            LedgerError: the ledger cannot be used.
        """
        if task_id is not None:
            return ((await self.finish(task_id)).result,)
        done: list[Dispatched] = []
        await self.work(drain=True, ownerless=False, on_finished=done.append)
        return tuple(each.result for each in done)

    async def cancel(self, task_id: str) -> str:
        """Call a task off and return its state, not ``cancelled`` if it had ended; a call in flight is given up.

        Raises:
            TaskNotFound: there is no such task.
        """
        return await dispatching.cancelled(await self._person(), task_id)

    async def work(
        self,
        *,
        drain: bool = False,
        ownerless: bool = True,
        concurrency: int | None = None,
        stop: asyncio.Event | None = None,
        on_finished: Callable[[Dispatched], object] | None = None,
        on_away: Callable[[LedgerBusy], object] | None = None,
    ) -> None:
        """Work on tasks that have no living owner, until ``stop`` is set or, with ``drain``, until none is left.

        Args:
            drain: end when nothing is left.
            ownerless: also take tasks that were submitted for nobody in particular; otherwise dead workers' only.
            concurrency: tasks under way at once; None is the sum of the providers' limits, at most 64.
            stop: set, it lets nothing new begin; what is under way is seen to its end.
            on_finished: told of each task that ended or is held.
            on_away: told when the ledger is locked or out of reach; without ``drain`` it is waited for.
        """
        bench, stop = await self._bench(), stop or asyncio.Event()
        drive = partial(dispatching.driven, bench, patient=False, stop=stop)
        most = concurrency or self.registry.usual_concurrency()
        crew = Crew(bench.desk, bench.others, drive, bench.rested, most=most, ownerless=ownerless, on_away=on_away)
        await crew.work(drain=drain, stop=stop, on_finished=on_finished)

    async def dispatch(self, request: Request, listener: Listener) -> Dispatched:
        """Bring a request to its end: as a new task, or as the one that its key names."""
        checked(request)
        checked_listeners(listener.on_text, listener.on_restart)
        return await dispatching.dispatched(await self._bench(), self._intake, request, listener)

    async def finish(self, task_id: str) -> Dispatched:
        """Bring a task to its end; one that waits for a person is let go."""
        return await dispatching.finished(await self._person(), await self._bench(), task_id)

    async def _person(self) -> Desk:
        """Return the desk of those who take no task: nobody needs to know whether they live."""
        return Desk(await self.ledger.store(), self._ports, "person")

    async def _bench(self) -> Bench:
        self._pool.refuse_closed()
        return await self._benches.here()

    async def aclose(self) -> None:
        """End and record the calls in flight, close the clients, and the ledger if the executor opened it."""
        try:
            await self._pool.aclose()
            await self._benches.leave()
        finally:
            if self._owns_ledger:
                await self.ledger.aclose()

    async def __aenter__(self) -> Self:
        await self.ledger.store()
        if self._pool.closed:  # who took this worker for gone must not meet it again under its name
            self._named(f"worker:{self._ports.new_id()}")
            self._pool.closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
