"""The usage and the cost report of Anthropic's Admin API, as JSON: pages of buckets of results.

``GET /v1/organizations/usage_report/messages`` and ``GET /v1/organizations/cost_report``; a file holds one answer, or a
list of them. Amounts of the cost report are decimal texts in cents. Fields that are not read here may be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from ledger.parts import UsageRow
from ledger.reconciling.billed import COUNTS, NANO, Billed, Place, Span

__all__ = ["PROVIDER", "billed_in", "is_cost", "pages_of", "spans_in"]

PROVIDER: Final = "anthropic"
CENTS: Final = 100
NO_COUNTS: Final[dict[str, int | None]] = dict.fromkeys(COUNTS)
DIMENSIONS: Final = ("model", "service_tier", "inference_geo", "context_window", "speed", "workspace_id", "api_key_id")
COST_DIMENSIONS: Final = (*DIMENSIONS, "cost_type", "token_type", "description")
TOKENS: Final = (None, "tokens")

Json = Mapping[str, Any]


def pages_of(document: Any, file: str) -> list[Json]:
    """Return the report's pages.

    Raises:
        RequestRefused: the document is no report.
    """
    pages = document if isinstance(document, list) else [document]
    for number, page in enumerate(pages):
        place = Place(file if not isinstance(document, list) else f"{file}, page {number + 1}")
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            place.wrong("data", "expected a usage or cost report: an object with a list named data")
    return pages


def is_cost(pages: list[Json]) -> bool:
    """Say whether it is the cost report."""
    results = (result for page in pages for bucket in page["data"] for result in _list(bucket, "results"))
    return any(isinstance(result, dict) and "amount" in result for result in results)


def spans_in(pages: list[Json], file: str) -> Iterator[tuple[Place, Span]]:
    """Give the times that the report speaks of, also those in which nothing was billed.

    Raises:
        RequestRefused: a bucket is not as it should be.
    """
    for place, bucket in _buckets(pages, file):
        span = Span(
            place.instant("starting_at", bucket.get("starting_at")), place.instant("ending_at", bucket.get("ending_at"))
        )
        if span.from_ms >= span.until_ms:
            place.wrong("ending_at", "expected an end after starting_at")
        if span.day != (span.until_ms - 1) // 86_400_000:
            place.wrong("ending_at", "expected a bucket within one UTC day: a bucket_width of 1m, 1h or 1d")
        yield place, span


def billed_in(pages: list[Json], file: str) -> Iterator[Billed]:
    """Give the rows of a report.

    Raises:
        RequestRefused: a row is not as it should be.
    """
    of = _cost if is_cost(pages) else _usage
    for (place, span), (_, bucket) in zip(spans_in(pages, file), _buckets(pages, file), strict=True):
        for number, result in enumerate(_list(bucket, "results")):
            here = Place(f"{place.where}.results[{number}]")
            if not isinstance(result, dict):
                here.wrong("result", "expected an object")
            yield of(here, span, result)


def _buckets(pages: list[Json], file: str) -> Iterator[tuple[Place, Json]]:
    for number, page in enumerate(pages):
        before = file if len(pages) == 1 else f"{file}, page {number + 1}"
        for index, bucket in enumerate(page["data"]):
            place = Place(f"{before}: data[{index}]")
            if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
                place.wrong("results", "expected an object with a list named results")
            yield place, bucket


def _list(bucket: Any, name: str) -> list[Any]:
    found = bucket.get(name) if isinstance(bucket, dict) else None
    return found if isinstance(found, list) else []


def _usage(place: Place, span: Span, result: Json) -> Billed:
    model = place.name("model", result.get("model"))
    if model is None:
        place.wrong("model", "found none; ask for the report with group_by[]=model")
    creation = result.get("cache_creation")
    creation = creation if isinstance(creation, dict) else {}
    counts = {
        "input_uncached_tokens": place.natural("uncached_input_tokens", result.get("uncached_input_tokens")),
        "cache_read_tokens": place.natural("cache_read_input_tokens", result.get("cache_read_input_tokens")),
        "cache_write_5m_tokens": place.natural("cache_creation", creation.get("ephemeral_5m_input_tokens")),
        "cache_write_1h_tokens": place.natural("cache_creation", creation.get("ephemeral_1h_input_tokens")),
        "output_tokens": place.natural("output_tokens", result.get("output_tokens")),
    }
    for name, count in counts.items():
        if count is None:
            place.wrong(name, "found none; expected the counts of a usage report or the amount of a cost report")
    return _row(place, span, model, result, DIMENSIONS, counts, None)


def _cost(place: Place, span: Span, result: Json) -> Billed:
    amount = place.usd("amount", result.get("amount"))
    if amount is None:
        place.wrong("amount", "found none; expected an amount in cents")
    if result.get("currency", "USD") != "USD":
        place.wrong("currency", "expected USD")
    model = place.name("model", result.get("model"))
    if model is None and result.get("cost_type") in TOKENS:
        place.wrong("model", "found none; ask for the report with group_by[]=description")
    return _row(place, span, model, result, COST_DIMENSIONS, NO_COUNTS, amount * NANO / CENTS)


def _row(
    place: Place,
    span: Span,
    model: str | None,
    result: Json,
    dimensions: tuple[str, ...],
    counts: Mapping[str, int | None],
    cost: Fraction | None,
) -> Billed:
    named = {name: place.name(name, result.get(name)) for name in dimensions}
    usage = UsageRow(
        **counts,
        model=model,
        reasoning_tokens=None,
        service_tier=named["service_tier"],
        inference_geo=named["inference_geo"],
    )
    return Billed(
        where=place.where,
        at=span,
        provider=PROVIDER,
        model=model,
        usage=usage,
        cost_nano_usd=cost,
        rounding_nano_usd=0,
        request_id=None,
        kind=named["speed"] or "standard",
        mark=tuple(named.values()),
        raw={},
    )
