"""What a call sends: the texts of its task, or a judge's question about an answer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from clients.judging import judge_request
from ledger.state import Task
from ledger.store.protocol import Store

__all__ = ["JUDGE_TOKENS", "Sent", "output_limit", "sent_anew", "sent_next", "whole_task"]

JUDGE_TOKENS: Final = 1024
"""A verdict's output limit."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The texts of a call."""

    prompt: str
    system: str | None = None
    schema: Mapping[str, Any] | None = None

    @classmethod
    def to_judge(cls, task: str, output: str) -> Sent:
        """Put a judge's question."""
        asked = judge_request(task, output)
        return cls(asked.prompt, asked.system, asked.schema)


def whole_task(prompt: str, system: str | None) -> str:
    """Return what an output is judged by: the prompt, after the system text if there was one."""
    return prompt if system is None else f"{system}\n\n{prompt}"


def output_limit(task: Task) -> int:
    """Return the output limit of the task's next call; inside a generation a verdict has its own."""
    judging = task.purpose == "validate" and task.submitted.kind == "generation"
    return JUDGE_TOKENS if judging else task.submitted.max_tokens


async def sent_next(store: Store, sent: Sent, texts: MutableMapping[str, bytes], task_id: str, task: Task) -> Sent:
    """Return what the task's next call sends: its own texts, or a judge's question about its newest answer.

    Args:
        store: holds the answer if another process had it.
        sent: the task's own texts.
        texts: payloads at hand, by slot; an answer that is read is put there.
        task_id: the task.
        task: what its state knows.
    """
    if task.purpose == "generate" or task.answer is None:
        return sent
    slot = f"response/{task.answer.attempt}"
    if slot not in texts:
        kept = await store.payload(task_id, slot)
        if kept is None:
            return Sent("")  # erased: nothing is left to judge
        texts[slot] = kept.content
    return Sent.to_judge(whole_task(sent.prompt, sent.system), texts[slot].decode())


async def sent_anew(store: Store, task_id: str, *, judging: bool) -> Sent:
    """Put together again what is sent, from the texts that the task was submitted with; nothing if they are erased."""
    texts = {payload.slot: payload.content.decode() for payload in await store.payloads(task_id)}
    if "prompt" not in texts:
        return Sent("")
    if judging:
        return Sent.to_judge(texts["prompt"], texts.get("output", ""))
    return Sent(texts["prompt"], texts.get("system"))
