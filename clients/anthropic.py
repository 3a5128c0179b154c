"""Claude through Anthropic's SDK: one request a call, every failure a result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from clients.anthropic_answers import Received, read_answer
from clients.anthropic_errors import Failure, read_exception
from clients.anthropic_sdk import ModelDeprecated, Transport, build, load, warn_if_deprecated
from clients.anthropic_stream import UNSTREAMED_TOKENS_MAX, Came, stream
from clients.base import ExecutionResult, ModelClient, OnText, PromptPrefix
from clients.errors import ClientUnready, PromptRefused
from clients.judging import VerdictInvalid, failed_verdict, judge_request, read_verdict
from clients.pieces import Pieces
from clients.prompts import check_texts

if TYPE_CHECKING:
    import anthropic
    import httpx2

__all__ = ["AnthropicClient", "ModelDeprecated"]

MODELS: Mapping[str, str] = {
    "haiku": "claude-haiku-5-5",
    "sonnet": "claude-sonnet-5-5",
    "opus": "claude-opus-5-5",
}

PROMPT_BYTES_MAX = 32 * 2**20
"""The API's limit on a whole request."""
TIMEOUT_S_DEFAULT = 600.0
CONNECT_TIMEOUT_S_MAX = 10.0
CLOSE_TIMEOUT_S = 5.0
ERROR_CHARS_MAX = 600


class AnthropicClient(ModelClient):
    """One Claude model; connections are pooled between calls and released by ``aclose``.

    Key and address are read from ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL when the client is made ready, unless
    given. A client belongs to the event loop in which it is used: met in another one it opens new connections, so
    call ``aclose`` before a loop ends.

    Args:
        model: ``haiku``, ``sonnet``, ``opus`` or the id of a model.
        api_key: instead of ANTHROPIC_API_KEY.
        base_url: instead of ANTHROPIC_BASE_URL.
        transport: what carries the SDK's requests, of which aiohttp is the faster one. httpx is used in its place
            where aiohttp is not installed, and where the environment names a proxy.

    Raises:
        ValueError: no such transport.
    """

    def __init__(
        self,
        model: str = "haiku",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        transport: Transport = "aiohttp",
    ) -> None:
        if transport not in get_args(Transport):
            raise ValueError(f'{transport!r} is no transport; choose "aiohttp" or "httpx"')
        self.model = MODELS.get(model, model)
        self._transport = transport
        self._api_key = api_key
        self._base_url = base_url
        self._secret = ""
        self._sdk: anthropic.AsyncAnthropic | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        """Check the texts, import the SDK and build its client; nothing is put before a prompt.

        Raises:
            PromptRefused: empty, not Unicode, or more than the API takes.
            ClientUnready: no SDK, no key or no usable address.
        """
        check_texts(prompt, system, bytes_max=PROMPT_BYTES_MAX)
        await self._ready()
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
        """Make one request; ``on_text`` is called in the event loop, its time counts, and its errors are the caller's.

        A long answer is streamed also without ``on_text``. One that breaks off leaves the usage known so far.
        """
        check_texts(prompt, system, bytes_max=PROMPT_BYTES_MAX)
        try:
            sdk = await self._ready()
        except ClientUnready as error:
            failure = Failure(error.error_type, str(error), usage_source="not_billed", provider_requests=0)
            return self._failed(failure, latency_ms=0)
        limit_s = TIMEOUT_S_DEFAULT if timeout_s is None else timeout_s
        body = _body(prompt, max_tokens, system, schema)
        if on_text is not None or max_tokens > UNSTREAMED_TOKENS_MAX:
            return await self._streamed(sdk, body, limit_s, on_text)
        sent_at = time.monotonic()
        outcome = await self._send(sdk, body, limit_s)
        latency_ms = int((time.monotonic() - sent_at) * 1000)
        if isinstance(outcome, Failure):
            return self._failed(outcome, latency_ms)
        return read_answer(
            Received(
                model=self.model,
                status_code=outcome.status_code,
                request_id=outcome.headers.get("request-id"),
                content_type=outcome.headers.get("content-type", "no content type"),
                body=outcome.content,
                latency_ms=latency_ms,
            )
        )

    async def validate(self, task: str, output: str, max_tokens: int = 1024) -> dict[str, Any]:
        """Judge an output for a task: exactly ``pass``, ``issues``, ``confidence``, ``escalate``.

        Any trouble gives a verdict that does not pass and asks for escalation.
        """
        if not (isinstance(task, str) and isinstance(output, str) and isinstance(max_tokens, int)):
            return failed_verdict("task and output have to be texts, and max_tokens a whole number")
        request = judge_request(task, output)
        try:
            result = await self.execute(request.prompt, max_tokens, system=request.system, schema=request.schema)
        except PromptRefused as error:
            return failed_verdict(str(error))
        if not result.success:
            return failed_verdict(result.error or "the judge's call failed")
        try:
            return read_verdict(result.response, result.finish_reason).as_dict()
        except VerdictInvalid as error:
            return failed_verdict(str(error))

    async def aclose(self) -> None:
        """Close the connections; the client opens new ones when it is used again."""
        sdk, self._sdk = self._sdk, None
        if sdk is not None and self._loop is asyncio.get_running_loop():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await sdk.close()

    async def _ready(self) -> anthropic.AsyncAnthropic:
        loop = asyncio.get_running_loop()
        if self._sdk is None or self._loop is not loop:
            await asyncio.to_thread(load, self._transport)
            warn_if_deprecated(self.model)
        if self._sdk is None or self._loop is not loop:
            self._secret = self._api_key or os.environ.get("ANTHROPIC_API_KEY", "")
            base_url = self._base_url or os.environ.get("ANTHROPIC_BASE_URL")
            self._sdk = build(self._secret, base_url, self._transport)
            self._loop = loop
        return self._sdk

    async def _send(
        self, sdk: anthropic.AsyncAnthropic, body: dict[str, Any], timeout_s: float
    ) -> httpx2.Response | Failure:
        """Make the request, with a deadline over the whole of it as well: the SDK's own starts anew with each byte."""
        try:
            async with asyncio.timeout(timeout_s):
                raw = await sdk.messages.with_raw_response.create(model=self.model, timeout=_timeout(timeout_s), **body)
        except Exception as error:  # noqa: BLE001 - all of them become results; CancelledError is none of these
            return read_exception(error)
        response: httpx2.Response = raw.http_response
        return response

    async def _streamed(
        self, sdk: anthropic.AsyncAnthropic, body: dict[str, Any], limit_s: float, on_text: OnText | None
    ) -> ExecutionResult:
        """Make the request as a stream; a body that is none, as a proxy may send, is heard as a whole."""
        pieces = Pieces(on_text)
        try:
            came = await stream(sdk, {"model": self.model, "timeout": _timeout(limit_s), **body}, limit_s, pieces)
        finally:
            pieces.close()
        known = ExecutionResult(model=self.model, success=False)
        if came.body or came.failure is None:
            told = Received(
                self.model, came.status_code or 0, came.request_id, came.content_type, came.body, came.latency_ms
            )
            known = read_answer(told).model_copy(update={"ttft_ms": came.ttft_ms})
        if came.failure is not None:
            return self._broken(came, came.failure, known)
        if not came.streamed and known.success and on_text is not None:
            on_text(known.response)
        return known

    def _broken(self, came: Came, failure: Failure, known: ExecutionResult) -> ExecutionResult:
        """Tell why a stream broke, and of its usage what it said until then: the least that is billed."""
        kept = ("usage", "tokens_input", "tokens_output", "raw_usage", "served_model", "finish_reason", "ttft_ms")
        update: dict[str, Any] = {name: getattr(known, name) for name in kept}
        update |= {"request_id": came.request_id, "status_code": came.status_code}
        update |= {"usage_source": "stream_partial"} if known.usage_source == "provider" else {}
        update = {name: value for name, value in update.items() if value is not None}
        return self._failed(failure, came.latency_ms).model_copy(update=update)

    def _failed(self, failure: Failure, latency_ms: int) -> ExecutionResult:
        # The provider may echo what it was sent, so the key is taken out before anything is cut.
        message = failure.message.replace(self._secret, "[key]") if self._secret else failure.message
        return ExecutionResult(
            model=self.model,
            latency_ms=latency_ms,
            success=False,
            error=_bounded(message),
            error_type=failure.error_type,
            request_id=failure.request_id,
            usage_source=failure.usage_source,
            status_code=failure.status_code,
            retryable=failure.retryable,
            retry_after_ms=failure.retry_after_ms,
            provider_requests=failure.provider_requests,
        )


def _body(prompt: str, max_tokens: int, system: str | None, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": max_tokens, "messages": [{"role": "user", "content": prompt}]}
    if system:
        body["system"] = system
    if schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": dict(schema)}}
    return body


def _timeout(timeout_s: float) -> httpx2.Timeout:
    """Give connecting less than the whole: a connection that never opened is known not to be billed."""
    import anthropic  # noqa: PLC0415 - loaded by now

    return anthropic.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S_MAX, timeout_s / 2))


def _bounded(message: str) -> str:
    whole = message.encode("utf-8", "replace").decode()
    return whole if len(whole) <= ERROR_CHARS_MAX else f"{whole[:ERROR_CHARS_MAX]}…"
