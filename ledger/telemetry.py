"""OpenTelemetry: a finished task as one GenAI span, each attempt a child, told from the task's events.

The names are those of the semantic conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai). Nothing
is measured here: times and tokens are the ledger's, so a task that outlived its process is told whole by the one that
ended it, dead workers' attempts included. No prompt and no answer is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import events as e
from ledger.envelope import Recorded, Stream
from ledger.errors import ConfigurationError
from ledger.parts import Decision, Outcome

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Telemetry"]

SCOPE: Final = "dispatch_ledger"
PROVIDERS: Final[Mapping[str, str]] = {"gemini": "gcp.gemini"}
"""Providers that the conventions have another name for."""
TOLD_MAX: Final = 4096
TOKENS: Final = tuple(4**power for power in range(14))
SECONDS: Final = tuple(0.01 * 2**power for power in range(14))
"""Bounds of the histograms, as the conventions have them."""
NANO: Final = 1_000_000
ENDS: Final = (e.TaskSucceeded, e.TaskFailed, e.TaskCancelled)

Attributes = dict[str, Any]


class Call(NamedTuple):
    """An attempt: its start, and how it ended."""

    started: e.AttemptStarted
    started_at_ms: int
    ended: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned
    ended_at_ms: int

    @property
    def error_type(self) -> str | None:
        """What it ended with; None is a success."""
        match self.ended:
            case e.AttemptFailed():
                return self.ended.error_type
            case e.AttemptOrphaned():
                return "cancelled" if self.ended.cause == "cancelled" else "worker_died"
        return None


class Telemetry:
    """Tells OpenTelemetry of tasks that ended.

    Args:
        tracer_provider: where spans go; None is the global one.
        meter_provider: where metrics go; None is the global one.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import metrics, trace  # noqa: PLC0415 - an extra, loaded where it is asked for
        except ImportError as error:
            raise ConfigurationError(
                "telemetry.opentelemetry is on, and OpenTelemetry is not installed: pip install 'dispatch-ledger[otel]'"
            ) from error
        self._trace = trace
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens that a call used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._duration: Histogram = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="How long a call took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._told: OrderedDict[str, None] = OrderedDict()

    def tell(self, stream: Stream, worker: str) -> None:
        """Tell of a task once, if it was this worker that ended it; of any other stream nothing."""
        end = next((one for one in reversed(stream) if isinstance(one.event(), ENDS)), None)
        if end is None or end.actor != worker or end.task_id in self._told:
            return
        self._told[end.task_id] = None
        while len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        submitted = stream[0].event()
        if isinstance(submitted, e.TaskSubmitted):
            self._task(stream, submitted, end)

    def _task(self, stream: Stream, submitted: e.TaskSubmitted, end: Recorded) -> None:
        attributes = _task_attributes(stream, submitted, end)
        span = self._tracer.start_span(
            f"invoke_workflow {submitted.tier}", start_time=stream[0].recorded_at_ms * NANO, attributes=attributes
        )
        for recorded in stream:
            event = recorded.event()
            if isinstance(event, Decision) and recorded is not stream[0]:
                why = {"dispatch_ledger.reason": event.reason, "dispatch_ledger.rule": event.rule}
                span.add_event(event.TYPE, why, recorded.recorded_at_ms * NANO)
        within = self._trace.set_span_in_context(span)
        for call in _calls(stream):
            attributes = _call_attributes(call, submitted.max_tokens)
            child = self._tracer.start_span(
                f"chat {call.started.request_model}",
                context=within,
                kind=self._trace.SpanKind.CLIENT,
                start_time=call.started_at_ms * NANO,
                attributes=attributes,
            )
            self._end(child, call.error_type, call.ended_at_ms)
            self._measure(call)
        self._end(span, _error_of(end), end.recorded_at_ms)

    def _end(self, span: Span, error_type: str | None, at_ms: int) -> None:
        if error_type is not None:
            span.set_status(self._trace.StatusCode.ERROR, error_type)
        span.end(at_ms * NANO)

    def _measure(self, call: Call) -> None:
        """Record tokens where they are known, and how long it took."""
        shared = _shared(call)
        if isinstance(call.ended, Outcome):
            for kind, count in zip(("input", "output"), _tokens(call.ended), strict=True):
                if count is not None:
                    self._tokens.record(count, {**shared, "gen_ai.token.type": kind})
            if call.ended.latency_ms is not None:
                error = {} if call.error_type is None else {"error.type": call.error_type}
                self._duration.record(call.ended.latency_ms / 1000, {**shared, **error})


def _error_of(end: Recorded) -> str | None:
    """Return what a task ended with; None is a success."""
    event = end.event()
    if isinstance(event, e.TaskFailed):
        return event.error_type
    return "cancelled" if isinstance(event, e.TaskCancelled) else None


def _task_attributes(stream: Stream, submitted: e.TaskSubmitted, end: Recorded) -> Attributes:
    calls = list(_calls(stream))
    costs = [call.ended.cost_nano_usd if isinstance(call.ended, Outcome) else None for call in calls]
    found: dict[str, Any] = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": submitted.tier,
        "dispatch_ledger.task_id": end.task_id,
        "dispatch_ledger.kind": submitted.kind,
        "dispatch_ledger.attempts": len(calls),
        "dispatch_ledger.cost_nano_usd": None if None in costs else sum(cost or 0 for cost in costs),
        "dispatch_ledger.replay_of": submitted.replay_of,
        "error.type": _error_of(end),
    }
    return _known(found) | {f"dispatch_ledger.label.{key}": value for key, value in submitted.labels.items()}


def _calls(stream: Stream) -> Iterator[Call]:
    starts: dict[int, tuple[e.AttemptStarted, int]] = {}
    for recorded in stream:
        event = recorded.event()
        if isinstance(event, e.AttemptStarted):
            starts[event.attempt] = event, recorded.recorded_at_ms
        elif isinstance(event, e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned) and event.attempt in starts:
            yield Call(*starts.pop(event.attempt), event, recorded.recorded_at_ms)


def _shared(call: Call) -> Attributes:
    """Return what a call's span and its measurements have in common."""
    served = call.ended.served_model if isinstance(call.ended, Outcome) else None
    return _known(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDERS.get(call.started.provider, call.started.provider),
            "gen_ai.request.model": call.started.request_model,
            "gen_ai.response.model": served,
        }
    )


def _call_attributes(call: Call, max_tokens: int) -> Attributes:
    found: dict[str, Any] = {
        **_shared(call),
        "gen_ai.request.max_tokens": max_tokens,
        "dispatch_ledger.attempt": call.started.attempt,
        "dispatch_ledger.purpose": call.started.purpose,
        "dispatch_ledger.tier": call.started.tier,
        "error.type": call.error_type,
    }
    if isinstance(call.ended, e.AttemptFailed):
        found["http.response.status_code"] = call.ended.status_code
    if isinstance(call.ended, Outcome):
        found |= _usage(call.ended)
    return _known(found)


def _usage(outcome: Outcome) -> Attributes:
    tokens_input, tokens_output = _tokens(outcome)
    rows = outcome.usage
    writes = [_sum([row.cache_write_5m_tokens for row in rows]), _sum([row.cache_write_1h_tokens for row in rows])]
    return {
        "gen_ai.usage.input_tokens": tokens_input,
        "gen_ai.usage.output_tokens": tokens_output,
        "gen_ai.usage.cache_read.input_tokens": _sum([row.cache_read_tokens for row in rows]),
        "gen_ai.usage.cache_creation.input_tokens": _sum(writes),
        "gen_ai.usage.reasoning.output_tokens": _sum([row.reasoning_tokens for row in rows]),
        "gen_ai.response.finish_reasons": None if outcome.finish_reason is None else [outcome.finish_reason],
        "gen_ai.response.time_to_first_chunk": None if outcome.ttft_ms is None else outcome.ttft_ms / 1000,
        "dispatch_ledger.request_id": outcome.request_id,
        "dispatch_ledger.cost_nano_usd": outcome.cost_nano_usd,
        "dispatch_ledger.exposure_nano_usd": outcome.exposure_nano_usd,
    }


def _tokens(outcome: Outcome) -> tuple[int | None, int | None]:
    """Return all input, cached included, and all output; None where any of it is unknown."""
    rows = outcome.usage
    plain = _sum([row.input_uncached_tokens for row in rows])
    cached = [(row.cache_read_tokens, row.cache_write_5m_tokens, row.cache_write_1h_tokens) for row in rows]
    whole = None if plain is None else plain + sum(count or 0 for row in cached for count in row)
    return whole, _sum([row.output_tokens for row in rows])


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _known(attributes: Attributes) -> Attributes:
    """Leave out what is unknown: an attribute that is not there says so."""
    return {name: value for name, value in attributes.items() if value is not None}
