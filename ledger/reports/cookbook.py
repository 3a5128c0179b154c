"""Questions that people ask a ledger, with SQL for both engines: those of ``docs/sql.md`` and of Datasette."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["CHARTS", "COOKBOOK", "Question", "datasette_metadata"]


class Question(NamedTuple):
    """A question, how to read its answer, and the statement; no parameter, one row a group, in a fixed order."""

    name: str
    asks: str
    read: str
    sql: str


COOKBOOK: Final = (
    Question(
        "cost_by_tier",
        "What did each tier cost?",
        "`cost_nano_usd` is the known part, in billionths of a dollar; beside it what is unknown, and its bound.",
        """\
SELECT tier, sum(attempts) AS attempts, sum(cost_nano_usd) AS cost_nano_usd,
       sum(cost_unknown_attempts) AS unknown, sum(exposure_nano_usd) AS at_most_more
FROM tier_cost GROUP BY tier ORDER BY tier""",
    ),
    Question(
        "cost_by_day",
        "What was spent on each day, by model and purpose?",
        "Days are UTC, of the attempt's start; `model` is the one that answered, else the one that was asked for.",
        """\
SELECT day, tier, model, purpose, attempts, tokens_input, tokens_output, cost_nano_usd
FROM tier_cost ORDER BY day, tier, model, purpose""",
    ),
    Question(
        "latency",
        "How long does an answer take?",
        "Nearest rank: each percentile is a latency that occurred.",
        "SELECT day, tier, model, attempts, p50_ms, p95_ms, max_ms FROM tier_latency ORDER BY day, tier, model",
    ),
    Question(
        "failures",
        "What fails, and what did the failures cost?",
        "A refused call was not billed and costs 0; one that broke off may have been: NULL, and its bound.",
        """\
SELECT tier, error_type, count(*) AS attempts, sum(cost_nano_usd) AS cost_nano_usd,
       sum(CASE WHEN cost_nano_usd IS NULL THEN exposure_nano_usd END) AS at_most_more
FROM attempts WHERE state IN ('failed', 'orphaned') GROUP BY tier, error_type ORDER BY tier, error_type""",
    ),
    Question(
        "cheap_enough",
        "Is the cheap tier cheap?",
        "By the tier asked for: all tries, fallbacks and judges of a task count, over the tasks that succeeded.",
        """\
SELECT tier_requested, count(*) AS tasks, count(CASE WHEN state = 'succeeded' THEN 1 END) AS succeeded,
       sum(cost_known_nano_usd) AS known_nano_usd, sum(cost_unknown_attempts) AS unknown,
       CAST(sum(cost_known_nano_usd) AS BIGINT) / nullif(count(CASE WHEN state = 'succeeded' THEN 1 END), 0) AS "each"
FROM tasks GROUP BY tier_requested ORDER BY tier_requested""",
    ),
    Question(
        "why",
        "Why did tasks go where they went?",
        "One row a decision in `decisions`, from the route at the submission to the end.",
        """\
SELECT decision, reason, tier_from, tier_to, count(*) AS times
FROM decisions GROUP BY decision, reason, tier_from, tier_to
ORDER BY decision, reason, coalesce(tier_from, ''), coalesce(tier_to, '')""",
    ),
    Question(
        "downgrades",
        "Which model answered, where another one was asked for?",
        "Cost follows the model that answered.",
        """\
SELECT request_model, response_model, count(*) AS answers FROM attempts
WHERE response_model <> request_model GROUP BY request_model, response_model ORDER BY request_model, response_model""",
    ),
    Question(
        "amplification",
        "How many requests did the providers see for one task?",
        "A client that asks again by itself shows here; `unknown` are calls of which nobody can say.",
        """\
SELECT provider, count(DISTINCT task_id) AS tasks, count(*) AS attempts, sum(provider_requests) AS requests,
       count(*) - count(provider_requests) AS unknown
FROM attempts GROUP BY provider ORDER BY provider""",
    ),
    Question(
        "judges",
        "What do the judges say, and what do they cost?",
        "A verdict that could not be had (`error_type`) is never a pass.",
        """\
SELECT judged.tier AS judged, sum(verdict.pass) AS passed, count(*) - sum(verdict.pass) AS not_passed,
       count(verdict.error_type) AS errors, sum(judge.cost_nano_usd) AS cost_nano_usd
FROM validations AS verdict
JOIN attempts AS judged ON judged.task_id = verdict.task_id AND judged.attempt = verdict.judged_attempt
LEFT JOIN attempts AS judge ON judge.task_id = verdict.judge_task_id AND judge.attempt = verdict.judge_attempt
GROUP BY judged.tier ORDER BY judged.tier""",
    ),
    Question(
        "by_label",
        "Who spent it?",
        "Labels are in `task_labels`, one row each.",
        """\
SELECT label.value AS team, count(*) AS tasks, sum(task.cost_known_nano_usd) AS known_nano_usd,
       sum(task.cost_unknown_attempts) AS unknown
FROM task_labels AS label JOIN tasks AS task ON task.task_id = label.task_id
WHERE label.key = 'team' GROUP BY label.value ORDER BY label.value""",
    ),
    Question(
        "lost_waiting",
        "How much time went by in waits?",
        "Backoff, breakers and budgets; what was decided, in milliseconds.",
        """\
SELECT tier_to AS tier, reason, count(*) AS waits, sum(not_before_ms - recorded_at_ms) AS wait_ms
FROM decisions WHERE decision = 'retry' GROUP BY tier_to, reason ORDER BY tier_to, reason""",
    ),
    Question(
        "unknown_money",
        "Which calls may have been billed, and nobody knows?",
        "`reconcile` settles them from the provider's own export.",
        """\
SELECT tier, state, usage_source, count(*) AS attempts, sum(exposure_nano_usd) AS at_most_nano_usd,
       count(*) - count(exposure_nano_usd) AS without_bound
FROM attempts WHERE cost_nano_usd IS NULL GROUP BY tier, state, usage_source ORDER BY tier, state, usage_source""",
    ),
)

CHARTS: Final = {
    "cost": ("Cost by day and tier", "SELECT day, tier, sum(cost_nano_usd) / 1e9 AS usd FROM tier_cost GROUP BY 1, 2"),
    "latency": (
        "95th percentile by day and tier",
        "SELECT day, tier, max(p95_ms) AS p95_ms FROM tier_latency GROUP BY 1, 2",
    ),
}


def datasette_metadata(database: str) -> dict[str, Any]:
    """Return metadata for Datasette: canned queries, and a dashboard for its plugin ``datasette-dashboards``.

    Args:
        database: what Datasette calls the ledger, the file's name without its ending.
    """
    queries = {
        question.name: {"title": question.asks, "description": question.read, "sql": question.sql}
        for question in COOKBOOK
    }
    charts = {
        name: {
            "title": title,
            "db": database,
            "query": sql,
            "library": "vega-lite",
            "display": {
                "mark": {"type": "line", "point": True, "tooltip": True},
                "encoding": {
                    "x": {"field": "day", "type": "temporal"},
                    "y": {"field": sql.split(" AS ")[1].split()[0], "type": "quantitative"},
                    "color": {"field": "tier", "type": "nominal"},
                },
            },
        }
        for name, (title, sql) in CHARTS.items()
    }
    dashboard = {"title": "Dispatch ledger", "layout": [["cost"], ["latency"]], "charts": charts}
    return {
        "title": "Dispatch ledger",
        "databases": {database: {"queries": queries}},
        "plugins": {"datasette-dashboards": {"dispatch-ledger": dashboard}},
    }
