"""A model that is played: seeded and scripted, it costs nothing and always does the same again."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from clients.base import ErrorType, ExecutionResult, ModelClient, OnText, PromptPrefix, Usage
from clients.prompts import check_texts
from clients.simulation import (
    FAULTS,
    Draw,
    Outcome,
    cut_up,
    read_failures,
    read_latency_ms,
    read_outcomes,
    read_table,
    refuse_unknown,
)

__all__ = ["SimulatedClient"]

PROMPT_BYTES_MAX = 32 * 2**20
BYTES_PER_TOKEN = 4
SETTINGS = ("seed", "latency_ms", "failures", "script", "models", "concurrency")
"""``concurrency`` is the executor's and only let through, so that the whole table can be given."""
MODEL_SETTINGS = ("latency_ms", "failures", "script")


class SimulatedClient(ModelClient):
    """A simulated model.

    What happens to the n-th call with a prompt depends on the seed, the model, the prompt and n, never on other calls
    or on time; the client counts the calls of each prompt for as long as it lives.

    Args:
        model: a name; it also is a part of the seed.
        seed: another seed, other answers and failures.
        script: how the first calls with each prompt end, in order: "ok", an error type, or a table with
            ``error_type``, ``retry_after_s``, ``tokens_input``, ``tokens_output``, ``latency_ms``, ``text``,
            ``partial``, ``stop_reason``, ``verdict``.
        failures: the chance of each error type after the script.
        latency_ms: the least and the most.
        sleep: how latency passes, in seconds.
        text: the answer, instead of one that names the prompt.

    Raises:
        ValueError: a script, a chance or a latency that makes no sense.
    """

    def __init__(
        self,
        model: str = "simulated-flash",
        *,
        seed: int = 0,
        script: Iterable[str | Mapping[str, Any]] = (),
        failures: Mapping[str, float] | None = None,
        latency_ms: int | Sequence[int] = (20, 80),
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        text: str | None = None,
    ) -> None:
        self.model = model
        self._seed = seed
        self._script = read_outcomes(script)
        self._failures = read_failures(failures or {})
        self._latency_ms = read_latency_ms(latency_ms)
        self._sleep = sleep
        self._text = text
        self._calls: Counter[bytes] = Counter()

    @classmethod
    def from_settings(cls, model: str, settings: Mapping[str, Any]) -> Self:
        """Make what ``[providers.simulated]`` describes; a table under ``models`` overrides the rest for that model.

        Raises:
            ValueError: an unknown key, with the nearest known one, or a value that makes no sense.
        """
        refuse_unknown(settings, SETTINGS, "key of a simulated provider")
        by_model = read_table(settings, "models")
        for name in by_model:
            refuse_unknown(read_table(by_model, name), MODEL_SETTINGS, f"key of the simulated model {name}")
        chosen = {**settings, **read_table(by_model, model)}
        seed = chosen.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed must be an integer, not {seed!r}")  # noqa: TRY004 - settings raise one kind
        script = chosen.get("script", ())
        if isinstance(script, str) or not isinstance(script, Sequence):
            raise ValueError(f"script must be a list, not {script!r}")  # noqa: TRY004 - settings raise one kind
        return cls(
            model,
            seed=seed,
            script=script,
            failures=read_table(chosen, "failures"),
            latency_ms=chosen.get("latency_ms", (20, 80)),
        )

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        """Check the texts, as a real client does.

        Raises:
            PromptRefused: empty, not Unicode, or more than any provider takes.
        """
        check_texts(prompt, system, bytes_max=PROMPT_BYTES_MAX)
        return None

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Play one call; with a ``schema`` the answer is a judge's verdict."""
        await self.prepare(prompt, max_tokens, system=system)
        number = self._count(prompt)
        draw = Draw(self._seed, self.model, prompt, number)
        outcome = self._outcome(number, draw)
        latency_ms = draw.latency_ms(self._latency_ms) if outcome.latency_ms is None else outcome.latency_ms
        if timeout_s is not None and latency_ms > timeout_s * 1000:
            latency_ms = int(timeout_s * 1000)
            outcome = Outcome(error_type="timeout")
        texts_in = prompt + (system or "")
        if outcome.error_type is not None and outcome.error_type != "output_invalid":
            heard = outcome.partial if on_text is not None else None
            result = self._failed(outcome.error_type, outcome, draw, latency_ms, texts_in, heard or "")
            return await self._tell(result, heard or "", on_text)
        said = self._say(prompt, number, outcome, draw, judging=schema is not None)
        if said:
            result = self._answered(said, outcome, draw, latency_ms, texts_in, max_tokens)
        else:
            result = self._wordless(self._usage(texts_in, said, outcome, draw), draw, latency_ms)
        return await self._tell(result, result.response, on_text)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    async def _tell(self, result: ExecutionResult, text: str, on_text: OnText | None) -> ExecutionResult:
        """Let the latency pass; a text that is listened to comes in pieces over it."""
        if on_text is None or not text:
            await self._sleep(result.latency_ms / 1000)
            return result
        pieces = cut_up(text, result.latency_ms)
        for wait_ms, piece in pieces:
            await self._sleep(wait_ms / 1000)
            on_text(piece)
        return result.model_copy(update={"ttft_ms": pieces[0][0]})

    def _count(self, prompt: str) -> int:
        digest = hashlib.sha256(prompt.encode()).digest()[:16]
        self._calls[digest] += 1
        return self._calls[digest]

    def _outcome(self, number: int, draw: Draw) -> Outcome:
        if number <= len(self._script):
            return self._script[number - 1]
        return Outcome(error_type=draw.error_type(self._failures))

    def _say(self, prompt: str, number: int, outcome: Outcome, draw: Draw, *, judging: bool) -> str:
        if outcome.text is not None:
            return outcome.text
        if outcome.error_type == "output_invalid":
            return "I would rather not say yes or no."
        if judging:
            return json.dumps(outcome.verdict if outcome.verdict is not None else draw.verdict())
        if self._text is not None:
            return self._text
        return f"[{self.model} {draw.digest[:8]}] answer {number} to: {prompt.strip()[:80]}"

    def _answered(
        self, said: str, outcome: Outcome, draw: Draw, latency_ms: int, texts_in: str, max_tokens: int
    ) -> ExecutionResult:
        usage = self._usage(texts_in, said, outcome, draw)
        stop_reason = outcome.stop_reason or "end_turn"
        if outcome.tokens_output is None and usage.output_tokens is not None and usage.output_tokens > max_tokens:
            said = said[: max(1, max_tokens * BYTES_PER_TOKEN)]
            usage = usage.model_copy(update={"output_tokens": max_tokens})
            stop_reason = outcome.stop_reason or "max_tokens"
        return self._billed(usage, draw, latency_ms).model_copy(
            update={"response": said, "success": True, "finish_reason": stop_reason, "status_code": 200}
        )

    def _failed(
        self, error_type: ErrorType, outcome: Outcome, draw: Draw, latency_ms: int, texts_in: str, heard: str
    ) -> ExecutionResult:
        fault = FAULTS[error_type]
        source = "stream_partial" if heard and fault.usage_source != "provider" else fault.usage_source
        retry_after_ms = None if outcome.retry_after_s is None else int(outcome.retry_after_s * 1000)
        if source in {"provider", "stream_partial"}:
            result = self._billed(self._usage(texts_in, heard, outcome, draw), draw, latency_ms)
        else:
            result = ExecutionResult(model=self.model, success=False, latency_ms=latency_ms)
        return result.model_copy(
            update={
                "error": f"simulated: {outcome.text or fault.message}",
                "error_type": error_type,
                "status_code": fault.status_code,
                "usage_source": source,
                "provider_requests": fault.provider_requests,
                "finish_reason": outcome.stop_reason or fault.finish_reason,
                "retry_after_ms": retry_after_ms,
            }
        )

    def _wordless(self, usage: Usage, draw: Draw, latency_ms: int) -> ExecutionResult:
        failed = {"error": "simulated: an answer without text", "error_type": "api_error", "status_code": 200}
        return self._billed(usage, draw, latency_ms).model_copy(update={**failed, "finish_reason": "end_turn"})

    def _billed(self, usage: Usage, draw: Draw, latency_ms: int) -> ExecutionResult:
        counts = {"input_tokens": usage.input_uncached_tokens, "output_tokens": usage.output_tokens}
        return ExecutionResult(
            model=self.model,
            success=False,
            latency_ms=latency_ms,
            tokens_input=usage.tokens_input,
            tokens_output=usage.output_tokens,
            usage=(usage,),
            usage_source="provider",
            raw_usage=json.dumps(counts),
            request_id=f"sim_{draw.digest[:16]}",
            served_model=self.model,
            provider_requests=1,
        )

    def _usage(self, texts_in: str, said: str, outcome: Outcome, draw: Draw) -> Usage:
        tokens_input, tokens_output = outcome.tokens_input, outcome.tokens_output
        return Usage(
            model=self.model,
            input_uncached_tokens=_tokens(texts_in, draw.tokens_input) if tokens_input is None else tokens_input,
            cache_read_tokens=0,
            cache_write_5m_tokens=0,
            cache_write_1h_tokens=0,
            output_tokens=_tokens(said, draw.tokens_output) if tokens_output is None else tokens_output,
            reasoning_tokens=0,
        )


def _tokens(text: str, chance: float) -> int:
    """Make a plausible count out of a text's length and a draw."""
    return 1 + len(text.encode()) // BYTES_PER_TOKEN + int(chance * 8)
