"""The part of an executor that has outputs judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from clients.base import ExecutionResult, OnText
from clients.judging import failed_verdict
from ledger.errors import ClientError, RequestRefused, UsageError
from ledger.executor.intake import Dispatched
from ledger.executor.lifetime import Lifetime
from ledger.executor.listening import Listener
from ledger.executor.requests import Judged, asked_of, judging
from ledger.executor.results import verdict_of
from ledger.executor.verdicts import judged_by_person, stored_answer
from ledger.registry import ModelTier

__all__ = ["Judging"]


class Judging(Lifetime):
    """Has outputs judged; the judge's calls are in the ledger like all others."""

    async def execute_validated(
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
        """Dispatch one prompt, have Sonnet judge the answer, and go up the tiers while the verdict asks for it.

        The arguments are those of ``execute``; ``retry_count`` holds for each tier that is gone up to as well. The
        result is the answer of the highest tier that gave one, ``accepted`` what the judge said of it; ``verdict`` is
        None where no verdict could be had, which is never a pass and never goes up. All of it is one task: a key names
        it apart from the same request without a judge, cost and attempts are the judge's too, tokens the answer's.

        Raises:
            UsageError: an argument is wrong, or the key names another request; nothing was written.
            PromptRefused: the tier's client can never send this text; nothing was written.
            LedgerError: the ledger cannot be used.
        """
        asked = asked_of(
            ModelTier(model_tier), prompt, max_tokens, retry_count, idempotency_key, labels, timeout_s, system
        )
        return (await self.dispatch(replace(asked, validated=True), Listener(on_text, on_restart))).result

    async def validate_output(
        self, task: str, output: str, *, labels: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Judge an output; return exactly ``pass``, ``issues``, ``confidence`` and ``escalate``.

        Any trouble gives ``{"pass": False, "issues": [why], "confidence": 0, "escalate": True}``. Nothing links the
        verdict to where the output came from; the label ``subject`` lets both texts be erased with that subject's.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        try:
            verdict, _ = await self.judge(task, Judged(output), labels)
        except (UsageError, ClientError) as error:
            return failed_verdict(str(error))
        return verdict

    async def validate_task(
        self, task_id: str, verdict: Literal["pass", "fail"] | None = None, *, issues: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Judge a finished task's answer; return the verdict, with its own ``task_id`` and the ``judged_task_id``.

        Each verdict is a task of its own; the judged one is left as it is.

        Args:
            task_id: whose answer.
            verdict: a person's, recorded without a call; None asks the judge.
            issues: what a person found wrong, at most 3 short texts.

        Raises:
            TaskNotFound: there is no such task.
            RequestRefused: it has no answer, or its texts were erased; nothing was written.
            LedgerError: the ledger cannot be used.
        """
        found, done = await self.judge_task(task_id, verdict, issues)
        return {**found, "task_id": done.story.task_id, "judged_task_id": task_id}

    async def judge_task(
        self, task_id: str, verdict: Literal["pass", "fail"] | None = None, issues: Sequence[str] = ()
    ) -> tuple[dict[str, Any], Dispatched]:
        """Judge a finished task's answer; return the verdict with the task that it is."""
        if verdict not in (None, "pass", "fail"):
            raise RequestRefused(f"verdict is {verdict!r}, expected pass or fail", field="verdict")
        if issues and verdict is None:
            raise RequestRefused("issues are a person's; give the verdict with them", field="issues")
        store = await self.ledger.store()
        task, judged = await stored_answer(store, task_id)
        if verdict is None:
            return await self.judge(task, judged)
        person = await self._person()
        done = await judged_by_person(person, self._intake, task, judged, passed=verdict == "pass", issues=issues)
        return done.result.verdict or {}, done

    async def judge(
        self, task: str, judged: Judged, labels: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], Dispatched]:
        """Judge an output as a task of its own; return the verdict with that task."""
        asked = judging(task, judged)
        done = await self.dispatch(asked if labels is None else replace(asked, labels=labels), Listener())
        verdict = await verdict_of(await self.ledger.store(), done.story)
        return verdict or failed_verdict(done.result.error or "the judge gave no verdict"), done
