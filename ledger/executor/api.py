"""``Executor``: dispatch tasks through the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from clients.base import ExecutionResult, OnText
from ledger.config import Config
from ledger.errors import LedgerBusy, TaskNotFound
from ledger.executor import dispatching, replaying
from ledger.executor.checks import checked
from ledger.executor.crew import Crew
from ledger.executor.intake import Dispatched
from ledger.executor.judging import Judging
from ledger.executor.listening import Listener
from ledger.executor.replay_plans import Replay, how_to_replay
from ledger.executor.replaying import Replayed
from ledger.executor.requests import asked_of
from ledger.executor.results import result_of, tell
from ledger.registry import ModelTier

__all__ = ["Executor"]


class Executor(Judging):
    """Runs tasks: every attempt, retry and fallback is in the ledger before it is acted on.

    ``Executor()`` alone works: the default ledger and configuration, opened at first use.

    Args:
        ledger: where everything is recorded; None opens the configured one, and closes it with the executor.
        config: a ``Config``, or the path of a ``dispatch.toml``; None looks where the command line looks.
        ports: clock, sleep, ids and jitter; the real ones by default.
        build: makes a client from provider, model and settings.
        telemetry: tells OpenTelemetry of tasks that end here; None is what ``[telemetry]`` says.
    """

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

    async def finish(self, task_id: str) -> Dispatched:
        """Bring a task to its end; one that waits for a person is let go."""
        return await dispatching.finished(await self._person(), await self._bench(), task_id)

    async def replay(
        self, task_id: str, *, tier: ModelTier | str | None = None, policy: Config | None = None, again: bool = False
    ) -> ExecutionResult:
        """Run a task again as a new one that names it; return what its newest replay came to.

        Args:
            task_id: the task; nothing is written to it.
            tier: begin with this tier, by today's route; None is the old one's.
            policy: whose route, policy and limits to pin; None is what the old one was pinned to.
            again: also where the newest replay has succeeded; else that one is the answer.

        Raises:
            TaskNotFound: there is no such task.
            RequestRefused: it has not ended, or was redacted; nothing was written.
            LedgerError: the ledger cannot be used.
        """
        how = how_to_replay(self.registry, tier, policy, again=again)
        return (await self.replayed(task_id, how)).done.result

    async def replayed(self, task_id: str, how: Replay) -> Replayed:
        """Replay a task, or bring the replay to its end that there is already."""
        return await replaying.replayed(await self._bench(), task_id, how)

    async def standing(self, task_id: str) -> Dispatched | None:
        """Bring a task's newest replay to its end; None where it was never replayed."""
        return await replaying.standing(await self._bench(), task_id)
