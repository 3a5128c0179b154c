"""Exports as CSV: our own plain form, and what Anthropic's Console saves of its usage and cost pages.

The plain form has a header with ``day`` or ``time``, ``provider`` and ``model``, and of ``PLAIN`` what there is; a
field that is empty is unknown. The Console's cost is rounded to cents, row by row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Final, TextIO

from ledger.parts import UsageRow
from ledger.reconciling.anthropic_reports import PROVIDER
from ledger.reconciling.billed import COUNTS, NANO, Billed, Place, Span

__all__ = ["PLAIN", "billed_in_csv", "form_of"]

PLAIN: Final = (
    "day",
    "time",
    "provider",
    "model",
    "request_id",
    *COUNTS,
    "cost_usd",
    "service_tier",
    "inference_geo",
)
CONSOLE_COUNTS: Final = {
    "input_uncached_tokens": "usage_input_tokens_no_cache",
    "cache_read_tokens": "usage_input_tokens_cache_read",
    "cache_write_5m_tokens": "usage_input_tokens_cache_write_5m",
    "cache_write_1h_tokens": "usage_input_tokens_cache_write_1h",
    "output_tokens": "usage_output_tokens",
}
CONSOLE_FIGURES: Final = frozenset({*CONSOLE_COUNTS.values(), "web_search_count", "cost_usd", "list_price_usd"})
TOKEN_COST: Final = frozenset({"", "token", "tokens"})
HALF_A_CENT: Final = NANO // 200

Row = Mapping[str, str]
Form = Callable[[Place, Row], Billed]


def form_of(file: TextIO, name: str) -> str:
    """Return which form a file has: ``plain``, ``console_usage`` or ``console_cost``.

    Raises:
        RequestRefused: none of them.
    """
    place = Place(f"{name}: line 1")
    _, header = next(_lines(file, name), (0, []))
    if not header:
        place.wrong("header", "found none; expected the names of the columns")
    return _form(place, header)


def billed_in_csv(file: TextIO, name: str) -> Iterator[Billed]:
    """Give the rows of a file, from its beginning.

    Raises:
        RequestRefused: a row is not as it should be.
    """
    header: Sequence[str] | None = None
    read: Form = _plain
    for line, fields in _lines(file, name):
        place = Place(f"{name}: line {line}")
        if header is None:
            header = fields
            read = {"plain": _plain, "console_usage": _console_usage, "console_cost": _console_cost}[
                _form(place, header)
            ]
            continue
        if not fields:
            continue  # an empty line
        if len(fields) != len(header):
            place.wrong("fields", f"expected {len(header)} of them as in the header, found {len(fields)}")
        yield read(place, dict(zip(header, fields, strict=True)))


def _lines(file: TextIO, name: str) -> Iterator[tuple[int, list[str]]]:
    """Give the rows with the numbers of the lines that they end on."""
    reader = csv.reader(_checked(file, name), strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            Place(f"{name}: line {reader.line_num}").wrong("row", str(error))
        yield reader.line_num, [field.strip() for field in fields]


def _checked(file: TextIO, name: str) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                Place(f"{name}: line {number}").wrong("row", "found a NUL character; expected text")
            yield line
    except UnicodeDecodeError as error:
        Place(f"{name}: after line {number}").wrong("row", f"expected UTF-8: {error.reason}")


def _form(place: Place, header: Sequence[str]) -> str:
    names = set(header)
    if len(names) != len(header) or "" in names:
        twice = next(name for name in header if name == "" or header.count(name) > 1)
        place.wrong("header", f"found the column {twice!r} twice, or without a name")
    if "usage_date_utc" in names:
        usage, cost = {"model_version", *CONSOLE_COUNTS.values()}, {"model", "token_type", "cost_usd"}
        if usage <= names or cost <= names:
            return "console_usage" if usage <= names else "console_cost"
        place.wrong("header", f"expected the columns of the Console's usage export: {', '.join(sorted(usage))}")
    if not {"provider", "model"} <= names or not names & {"day", "time"}:
        place.wrong("header", "expected the columns day or time, provider, model and of the rest what there is")
    if {"day", "time"} <= names:
        place.wrong("header", "expected day or time, found both")
    for name in header:
        if name not in PLAIN:
            near = get_close_matches(name, PLAIN, 1)
            said = f"; did you mean {near[0]}?" if near else f"; expected {', '.join(PLAIN)}"
            place.wrong("header", f"found the unknown column {name!r}{said}")
    return "plain"


def _plain(place: Place, row: Row) -> Billed:
    counts = {name: place.natural(name, row.get(name)) for name in COUNTS}
    cost = place.usd("cost_usd", row.get("cost_usd"))
    if cost is None and all(count is None for count in counts.values()):
        place.wrong("cost_usd", "found neither a count nor a cost")
    model = place.needed("model", row["model"])
    return _billed(
        place,
        row,
        _span(place, row),
        (place.needed("provider", row["provider"]), model),
        counts,
        None if cost is None else cost * NANO,
        request_id=place.name("request_id", row.get("request_id")),
        figures=frozenset({*COUNTS, "cost_usd"}),
    )


def _span(place: Place, row: Row) -> Span:
    if "day" in row:
        return place.day("day", row["day"])
    at_ms = place.instant("time", row["time"])
    return Span(at_ms, at_ms + 1)


def _console_usage(place: Place, row: Row) -> Billed:
    counts = {ours: place.natural(theirs, row[theirs]) for ours, theirs in CONSOLE_COUNTS.items()}
    for ours, count in counts.items():
        if count is None:
            place.wrong(CONSOLE_COUNTS[ours], "expected a count, found nothing")
    named = (PROVIDER, place.needed("model_version", row["model_version"]))
    return _billed(place, row, place.day("usage_date_utc", row["usage_date_utc"]), named, counts, None)


def _console_cost(place: Place, row: Row) -> Billed:
    cost = place.usd("cost_usd", row["cost_usd"])
    if cost is None:
        place.wrong("cost_usd", "expected an amount, found nothing")
    model = place.name("model", row["model"])
    if model is None and row.get("cost_type", "") in TOKEN_COST:
        place.wrong("model", "expected a model, found nothing")
    # A name for people, as Claude Haiku 5.5; the model is claude-haiku-5-5.
    model = None if model is None else model.lower().replace(" ", "-").replace(".", "-")
    span = place.day("usage_date_utc", row["usage_date_utc"])
    counts: dict[str, int | None] = dict.fromkeys(COUNTS)
    return _billed(place, row, span, (PROVIDER, model), counts, cost * NANO, rounding_nano_usd=HALF_A_CENT)


def _billed(
    place: Place,
    row: Row,
    at: Span,
    named: tuple[str, str | None],
    counts: Mapping[str, int | None],
    cost: Fraction | None,
    *,
    rounding_nano_usd: int = 0,
    request_id: str | None = None,
    figures: frozenset[str] = CONSOLE_FIGURES,
) -> Billed:
    provider, model = named
    fields: dict[str, Any] = {
        **counts,
        "model": model,
        "reasoning_tokens": None,
        "service_tier": place.name("service_tier", row.get("service_tier", row.get("usage_type"))),
        "inference_geo": place.name("inference_geo", row.get("inference_geo")),
    }
    return Billed(
        where=place.where,
        at=at,
        provider=provider,
        model=model,
        usage=UsageRow(**fields),
        cost_nano_usd=cost,
        rounding_nano_usd=rounding_nano_usd,
        request_id=request_id,
        kind=place.name("speed", row.get("speed")) or "standard",
        mark=tuple(value for name, value in row.items() if name not in figures),
        raw=row,
    )
