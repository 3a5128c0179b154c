"""OpenTelemetry, by the SDK's in-memory exporters: a span a task, a child an attempt, tokens once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ledger import Config, Executor, Ledger, ModelTier
from ledger.telemetry import Telemetry
from tests.world import START_MS, World, answer, fail

TOKENS = "gen_ai.client.token.usage"
DURATION = "gen_ai.client.operation.duration"


@dataclass
class Told:
    """What came out of an executor's telemetry."""

    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)

    def telemetry(self) -> Telemetry:
        """Tell into memory."""
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        return Telemetry(tracers, MeterProvider((self.reader,), shutdown_on_exit=False))

    def points(self, metric: str) -> list[tuple[dict[str, Any], float, int]]:
        """Give a histogram's attributes, sums and counts."""
        data = self.reader.get_metrics_data()
        metrics = [
            one
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for one in scope.metrics
        ]
        return [
            (dict(point.attributes or {}), point.sum, point.count)
            for one in metrics
            if one.name == metric
            for point in one.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Give what a span says."""
    return dict(span.attributes or {})


async def test_a_fallback_is_told_with_its_failures_and_waits(tmp_path: Path) -> None:
    """One span for the task, with its decisions as events, and one for each attempt, failed ones included."""
    world = World(tmp_path, scripts={"gemini-2.5-flash": [fail("overloaded", status_code=503)]}, script=[answer()])
    told = Told()
    async with world.executor(telemetry=told.telemetry()) as executor:
        result = await executor.execute(ModelTier.FLASH, "Name a river", retry_count=1, labels={"team": "geo"})
    *children, task = told.spans.get_finished_spans()
    assert ("invoke_workflow flash", SpanKind.INTERNAL, None) == (task.name, task.kind, task.parent)
    assert {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "flash",
        "dispatch_ledger.task_id": result.task_id,
        "dispatch_ledger.kind": "generation",
        "dispatch_ledger.attempts": 3,
        "dispatch_ledger.label.team": "geo",
    } == attributes(task)
    assert ["retry.scheduled", "fallback.selected", "task.succeeded"] == [event.name for event in task.events]
    assert ["chat gemini-2.5-flash", "chat gemini-2.5-flash", "chat claude-haiku-5-5"] == [
        child.name for child in children
    ]
    assert {task.context.span_id} == {child.parent.span_id for child in children if child.parent}
    failed, answered = attributes(children[0]), attributes(children[2])
    assert (StatusCode.ERROR, "overloaded", 503, "gcp.gemini") == (
        children[0].status.status_code,
        failed["error.type"],
        failed["http.response.status_code"],
        failed["gen_ai.provider.name"],
    )
    assert "gen_ai.usage.input_tokens" not in failed
    assert ("anthropic", 10, 5, ("end_turn",)) == (
        answered["gen_ai.provider.name"],
        answered["gen_ai.usage.input_tokens"],
        answered["gen_ai.usage.output_tokens"],
        answered["gen_ai.response.finish_reasons"],
    )
    assert START_MS * 1_000_000 == task.start_time
    shown = "\n".join(span.to_json() for span in told.spans.get_finished_spans())
    assert "Name a river" not in shown


async def test_tokens_and_durations_are_measured_where_they_are_known(tmp_path: Path) -> None:
    """An unknown count is no zero: it is not measured."""
    world = World(tmp_path, script=[fail("timeout"), answer()])
    told = Told()
    async with world.executor(telemetry=told.telemetry()) as executor:
        await executor.execute(ModelTier.SONNET, "Name a lake")
    tokens = {point["gen_ai.token.type"]: (total, count) for point, total, count in told.points(TOKENS)}
    assert {"input": (10, 1), "output": (5, 1)} == tokens
    durations = {point.get("error.type"): (total, count) for point, total, count in told.points(DURATION)}
    assert {"timeout": (0, 1), None: (0.007, 1)} == durations


async def test_a_task_is_told_once(tmp_path: Path) -> None:
    """The same key again tells of nothing; nor does who only follows another worker's task to its end."""
    world, told = World(tmp_path), Told()
    telemetry = told.telemetry()
    async with world.executor(telemetry=telemetry) as executor:
        for _ in range(2):
            await executor.execute(ModelTier.SONNET, "Name a hill", idempotency_key="hill")
    async with world.executor(telemetry=telemetry) as another:
        await another.execute(ModelTier.SONNET, "Name a hill", idempotency_key="hill")
    assert ["chat claude-sonnet-5-5", "invoke_workflow sonnet"] == [
        span.name for span in told.spans.get_finished_spans()
    ]


async def test_the_configuration_turns_it_on(tmp_path: Path) -> None:
    """``[telemetry] opentelemetry = true`` uses the global providers: without an SDK there, nothing happens."""
    config = Config.from_mapping(
        {"telemetry": {"opentelemetry": True}, "tiers": {"haiku": {"provider": "simulated", "model": "quick"}}}
    )
    async with Ledger.open(tmp_path / "dispatch.db") as ledger, Executor(ledger, config) as executor:
        assert (await executor.execute("haiku", "Name a wood")).success
