"""The views that anybody may read with SQL, and the indexes that make them fast; made by migration 0003.

Frozen: another migration may make others in their place. The columns and figures are the same on both engines.

A sum is added up in billions and the rest apart, so that no figure, however absurd, breaks a view; one of more than 64
bits is told as the largest. Of what is known nowhere in a group nothing is added up: it stays NULL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["ANSWERED", "DAY", "INDEXES", "LATENCY_MS_MAX", "MODEL", "POSTGRES_VIEWS", "SQLITE_VIEWS", "VIEWS"]

DAY: Final = "(started_at_ms / 86400000)"
"""The UTC day of an attempt, counted from 1970, in the words that the indexes know."""
MODEL: Final = "coalesce(response_model, request_model)"
"""The served model, else the requested one, likewise."""
LATENCY_MS_MAX: Final = 8_000_000_000_000_000_000
"""What a percentile of more is told as."""

INDEXES: Final = {
    "attempts_by_day": (
        f"CREATE INDEX attempts_by_day ON attempts ({DAY}, tier, request_model, response_model, purpose, "
        "cost_nano_usd, exposure_nano_usd, tokens_input, tokens_output, started_at_ms, state, task_id)"
    ),
    # SQLite reads an index alone only if every column named is in it, those of its own condition too.
    "attempts_by_latency": (
        f"CREATE INDEX attempts_by_latency ON attempts ({DAY}, tier, {MODEL}, latency_ms, started_at_ms, "
        "request_model, response_model, purpose, state) WHERE purpose = 'generate' AND state = 'succeeded'"
    ),
}
"""By name, in words that both engines read."""

ANSWERED: Final = "purpose = 'generate' AND state = 'succeeded' AND latency_ms IS NOT NULL"

Columns = Sequence[str]
TASKS: Final = (
    *("task_id", "kind", "state", "waiting_for", "not_before_ms", "tier_requested", "tier_final", "model_final"),
    *("attempt_final", "attempts", "accepted", "created_at_ms", "ended_at_ms", "cost_nano_usd", "cost_known_nano_usd"),
    *("cost_unknown_attempts", "idempotency_key", "replay_of", "judged_task_id", "error_type", "worker"),
    "waiting_since_ms",
)
ATTEMPTS: Final = (
    *("task_id", "attempt", "purpose", "step", "tier", "provider", "request_model", "response_model", "state"),
    *("error_type", "retryable", "status_code", "started_at_ms", "ended_at_ms", "latency_ms", "ttft_ms"),
    *("tokens_input", "tokens_output", "input_uncached_tokens", "cache_read_tokens", "cache_write_5m_tokens"),
    *("cache_write_1h_tokens", "reasoning_tokens", "usage_source", "provider_requests", "cost_nano_usd"),
    *("exposure_nano_usd", "price_book", "finish_reason", "request_id", "worker", "deadline_ms"),
)
INSTANTS: Final = ("not_before_ms", "created_at_ms", "ended_at_ms", "waiting_since_ms", "started_at_ms", "deadline_ms")


def _iso(name: str, columns: Columns, instant: str) -> str:
    """Return a view of a table with each instant as ISO text beside it."""
    instants = [column for column in columns if column in INSTANTS]
    texts = [f"{instant.replace('{ms}', column)} AS {column.removesuffix('_ms')}" for column in instants]
    return f"CREATE VIEW {name}_iso AS SELECT {', '.join((*columns, *texts))} FROM {name}"  # noqa: S608 - our own names


def _parts(name: str, expression: str) -> str:
    return f"sum({expression} / 1000000000) AS {name}_e9, sum({expression} % 1000000000) AS {name}_rest"


def _added(names: Iterable[str]) -> str:
    return ", ".join(f"sum({name}_e9) AS {name}_e9, sum({name}_rest) AS {name}_rest" for name in names)


UNKNOWN: Final = "CASE WHEN cost_nano_usd IS NULL THEN exposure_nano_usd END"
# First as the index has it, without a sort; the few groups of that are put together by the model that answered.
COSTS: Final = f"""
    SELECT day, tier, {MODEL} AS model, purpose, sum(attempts) AS attempts, {_added(("input", "output", "cost"))},
        sum(attempts) - sum(costs) AS cost_unknown, {_added(("exposure",))}, sum(attempts) - sum(bounds) AS unbounded
    FROM (
        SELECT {DAY} AS day, tier, request_model, response_model, purpose, count(1) AS attempts,
            {_parts("input", "tokens_input")}, {_parts("output", "tokens_output")}, {_parts("cost", "cost_nano_usd")},
            count(cost_nano_usd) AS costs, {_parts("exposure", UNKNOWN)},
            count(coalesce(cost_nano_usd, exposure_nano_usd)) AS bounds
        FROM attempts GROUP BY {DAY}, tier, request_model, response_model, purpose
    ) AS as_indexed
    GROUP BY day, tier, {MODEL}, purpose
"""  # noqa: S608 - our own names


def _cost(day: str, total: str, count: str) -> str:
    """Return ``tier_cost`` in an engine's words for a day, a total and a count."""
    cells = [total.replace("{name}", name) for name in ("input", "output", "cost", "exposure")]
    attempts, unknown, unbounded = (count.replace("{name}", name) for name in ("attempts", "cost_unknown", "unbounded"))
    return f"""
CREATE VIEW tier_cost AS
SELECT {day} AS day, tier, model, purpose, {attempts} AS attempts, {cells[0]} AS tokens_input,
    {cells[1]} AS tokens_output, {cells[2]} AS cost_nano_usd, {unknown} AS cost_unknown_attempts,
    CASE WHEN cost_unknown = 0 THEN 0 ELSE {cells[3]} END AS exposure_nano_usd,
    {unbounded} AS exposure_unknown_attempts
FROM ({COSTS}) AS grouped
"""  # noqa: S608 - our own names


# A group's latencies in their order, as texts of 19 digits in a row, are an array from which a rank is cut: a fifth of
# the time that a window function takes. Its second and third layer are kept apart by a limit and a condition, or else
# the row would be made anew for each rank.
RANK: Final = "CAST(substr(took, 19 * ((attempts * {percent} + 99) / 100) - 18, 19) AS INTEGER) - 1000000000000000000"
RANKS: Final = ", ".join(
    f"CAST({RANK.replace('{percent}', percent)} AS INTEGER) AS p{percent}_ms" for percent in ("50", "95", "99")
)
SQLITE_DAY: Final = "strftime('%Y-%m-%d', day * 86400, 'unixepoch')"
SQLITE_ISO: Final = "strftime('%Y-%m-%dT%H:%M:%S', {ms} / 1000, 'unixepoch') || printf('.%03dZ', {ms} % 1000)"
# Too much for 64 bits becomes a float, of which the lesser is the largest integer.
SQLITE_TOTAL: Final = "CAST(min({name}_e9 * 1000000000 + {name}_rest, 9223372036854775807) AS INTEGER)"
SQLITE_LATENCY: Final = f"""
CREATE VIEW tier_latency AS
SELECT {SQLITE_DAY} AS day, tier, model, CAST(attempts AS INTEGER) AS attempts,
    CAST(whole + (2 * rest > attempts OR (2 * rest = attempts AND whole % 2 = 1)) AS INTEGER) AS mean_ms,
    {RANKS},
    CAST(max_ms AS INTEGER) AS max_ms
FROM (
    SELECT day, tier, model, attempts, max_ms,
        e9 / attempts * 1000000000 + (e9 % attempts * 1000000000 + below) / attempts AS whole,
        (e9 % attempts * 1000000000 + below) % attempts AS rest,
        (SELECT group_concat(digits, '') FROM (
            SELECT min(latency_ms, {LATENCY_MS_MAX}) + 1000000000000000000 AS digits FROM attempts
            WHERE {DAY} = grouped.day AND tier = grouped.tier AND {MODEL} = grouped.model AND {ANSWERED}
            ORDER BY latency_ms LIMIT 9223372036854775807
        ) AS sorted) AS took
    FROM (
        SELECT {DAY} AS day, tier, {MODEL} AS model, count(1) AS attempts, max(latency_ms) AS max_ms,
            sum(latency_ms / 1000000000) AS e9, sum(latency_ms % 1000000000) AS below
        FROM attempts WHERE {ANSWERED} GROUP BY {DAY}, tier, {MODEL}
    ) AS grouped LIMIT 9223372036854775807
) AS added WHERE attempts > 0
"""  # noqa: S608 - our own names

SQLITE_VIEWS: Final = {
    "tier_cost": _cost(SQLITE_DAY, SQLITE_TOTAL, "CAST({name} AS INTEGER)"),
    "tier_latency": SQLITE_LATENCY,
    "tasks_iso": _iso("tasks", TASKS, SQLITE_ISO),
    "attempts_iso": _iso("attempts", ATTEMPTS, SQLITE_ISO),
}

# Times of the year 10,000 and later are none that anybody reads; the server would refuse some of them.
POSTGRES_DAY: Final = "CASE WHEN day < 2932897 THEN to_char(date '1970-01-01' + day::integer, 'YYYY-MM-DD') END"
POSTGRES_ISO: Final = (
    "CASE WHEN {ms} < 253402300800000 THEN "
    "to_char(to_timestamp({ms} / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') "
    "|| '.' || lpad(({ms} % 1000)::text, 3, '0') || 'Z' END"
)
# The sums of sums are decimals here, so nothing is too large before it is made less; the lesser of NULL is not NULL.
POSTGRES_TOTAL: Final = (
    "CASE WHEN {name}_e9 IS NOT NULL THEN least({name}_e9 * 1000000000 + {name}_rest, 9223372036854775807) END::bigint"
)
POSTGRES_RANKS: Final = ", ".join(
    f"percentile_disc(0.{percent}) WITHIN GROUP (ORDER BY least(latency_ms, {LATENCY_MS_MAX})) AS p{percent}_ms"
    for percent in (50, 95, 99)
)
POSTGRES_LATENCY: Final = f"""
CREATE VIEW tier_latency AS
SELECT {POSTGRES_DAY} AS day, tier, model, attempts,
    (whole + CASE WHEN 2 * rest > attempts OR (2 * rest = attempts AND whole % 2 = 1) THEN 1 ELSE 0 END)::bigint
        AS mean_ms,
    p50_ms, p95_ms, p99_ms, max_ms
FROM (
    SELECT {DAY} AS day, tier, {MODEL} AS model, count(1) AS attempts, {POSTGRES_RANKS}, max(latency_ms) AS max_ms,
        div(sum(latency_ms), count(1)) AS whole, sum(latency_ms) % count(1) AS rest
    FROM attempts WHERE {ANSWERED} GROUP BY {DAY}, tier, {MODEL}
) AS added
"""  # noqa: S608 - our own names

POSTGRES_VIEWS: Final = {
    "tier_cost": _cost(POSTGRES_DAY, POSTGRES_TOTAL, "{name}::bigint"),
    "tier_latency": POSTGRES_LATENCY,
    "tasks_iso": _iso("tasks", TASKS, POSTGRES_ISO),
    "attempts_iso": _iso("attempts", ATTEMPTS, POSTGRES_ISO),
}

VIEWS: Final = tuple(SQLITE_VIEWS)
