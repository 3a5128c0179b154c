"""Which columns of a report people are shown, and under which headings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ALWAYS", "CHARTED", "EMPTY", "GIVEN_UP", "HEADINGS", "PARTLY"]

HEADINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "cost": {
        "attempts": "attempts",
        "tasks": "tasks",
        "tokens_input": "tokens in",
        "tokens_output": "tokens out",
        "cost_nano_usd": "cost USD",
        "cost_unknown_attempts": "unknown",
        "exposure_nano_usd": "at most more",
        "cost_judges_nano_usd": "judges USD",
        "bought_nothing_share": "for nothing",
        "outputs_accepted": "accepted",
        "cost_per_accepted_known_nano_usd": "USD each",
        "against_nano_usd": "instead USD",
        "saved_nano_usd": "saved USD",
    },
    "latency": {
        "attempts": "answers",
        "mean_ms": "mean ms",
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "max_ms": "max ms",
        "ttft_p50_ms": "ttft p50",
        "ttft_p95_ms": "ttft p95",
        "waits": "waits",
        "waited_ms": "waited ms",
    },
    "reliability": {
        "attempts": "attempts",
        "tasks": "tasks",
        "success_rate": "succeeded",
        "failure_rate": "failed",
        "orphan_rate": "orphaned",
        "retries_per_task": "retries a task",
        "requests_per_task": "requests a task",
        "fallbacks": "fallbacks",
        "waited_ms": "waited ms",
    },
    "routing": {"obstacle": "obstacle", "decisions": "decisions", "wait_ms": "wait ms"},
    "validation": {
        "verdicts": "verdicts",
        "passed": "passed",
        "failed": "failed",
        "errored": "errored",
        "pass_rate": "pass rate",
        "escalated": "ask higher",
        "disagreed": "disagreed",
        "judged_by_person": "by a person too",
        "false_passes": "false passes",
        "judge_cost_nano_usd": "cost USD",
    },
}
"""The columns that people are shown; --format json and csv have all."""
GIVEN_UP: Final[Mapping[str, tuple[str, ...]]] = {
    "cost": (
        "exposure_nano_usd",
        "tokens_output",
        "tokens_input",
        "cost_judges_nano_usd",
        "tasks",
        "bought_nothing_share",
        "outputs_accepted",
        "cost_per_accepted_known_nano_usd",
        "attempts",
    ),
    "latency": ("ttft_p95_ms", "ttft_p50_ms", "waits", "mean_ms", "waited_ms", "p99_ms", "max_ms", "attempts"),
    "reliability": (
        "fallbacks",
        "orphan_rate",
        "tasks",
        "requests_per_task",
        "failure_rate",
        "retries_per_task",
        "waited_ms",
    ),
    "routing": ("wait_ms",),
    "validation": ("escalated", "judged_by_person", "failed", "disagreed", "judge_cost_nano_usd", "false_passes"),
}
"""What a narrow terminal is not shown, the first first."""
CHARTED: Final[Mapping[str, str]] = {
    "cost": "cost_nano_usd",
    "latency": "p95_ms",
    "reliability": "success_rate",
    "routing": "decisions",
    "validation": "pass_rate",
}
PARTLY: Final[Mapping[str, str]] = {
    "cost_nano_usd": "cost_unknown_attempts",
    "cost_per_accepted_known_nano_usd": "tasks_cost_unknown_attempts",
    "judge_cost_nano_usd": "judge_cost_unknown_attempts",
}
"""Money that is only the known part where these attempts are more than none."""
ALWAYS: Final = ("attempts", "cost_nano_usd", "cost_unknown_attempts", "decisions", "verdicts", "passed", "errored")
EMPTY: Final[Mapping[str, str]] = {
    "cost": "no attempts",
    "latency": "no answers",
    "reliability": "no attempts",
    "routing": "no decisions",
    "validation": "no verdicts",
}
