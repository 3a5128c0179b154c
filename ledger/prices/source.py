"""From genai-prices, as it is installed, to a price book; nothing is ever fetched.

What the source (genai-prices 0.2.3) lacks or says otherwise, and what a book makes of it:

- Free and unknown look alike: Gemma's prices are empty, and the source charges 0. A model without an input price, now
  or once, is unpriced here; so are the output tokens of one without an output price, as embeddings.
- Anthropic's US-only inference costs 1.1 times the rest on newer models, and its Priority Tier is bought ahead
  (platform.claude.com, "Service tiers"); the source charges both as usual. Here they are unpriced, the first until
  ``inference_geo`` is configured. Anthropic calls its batches a service tier, the source ``processing``: a served tier
  "batch" is taken for both.
- A variant's history before the day somebody looked (2026-10-14 for most batches) is not in the source, which then
  charges the standard price. Here that is unpriced.
- A step by size is above its start: 200,000 tokens are charged the lower price, 200,001 the higher, all of them.
- The source lends models to a provider that has none of the name, Anthropic's to Google, where regional endpoints cost
  a tenth more. A book does not.
- Web searches, grounding, cache storage, audio, images and video are left out: no call of ours has them, and no usage
  row counts them. A model with a fee for each request, or for tokens that no row counts, is left out whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, assert_never

from ledger.canonical import digest_of
from ledger.prices.book import FORMAT, PriceBook, written_book
from ledger.prices.own import with_own
from ledger.prices.rates import written_usd
from ledger.prices.tables import PriceTable

if TYPE_CHECKING:
    from genai_prices import types as genai

__all__ = ["SOURCE", "SOURCES", "build_book", "compose", "has_prices", "source_version"]

SOURCE: Final = "genai-prices"
"""The ``source`` of ``price_book.published``."""
SOURCES: Final = ("anthropic", "google")
"""The source's providers that a book holds in full."""
NAMES: Final = {"gemini": "google"}
"""Our providers that the source calls something else."""

RATES: Final = {
    "input_mtok": "input",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_reasoning_mtok": "output_reasoning",
}
NEVER_SENT: Final = re.compile(r"audio|image|video|pixels|pages|hours|searches|executions|tool")
"""Prices of what a text without tools never has."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
DAY_MS: Final = 86_400_000

Written = dict[str, Any]


def source_version(own: Mapping[str, PriceTable]) -> str:
    """Return what a book is made of, without making it: the source's version, the book's form, our own prices.

    Equal ones make equal books, so a published one with this ``source_version`` need not be made again (0.3 s).
    """
    parts = [version(SOURCE), f"book.{FORMAT}"]
    if own:
        parts.append("own." + digest_of({name: table.model_dump_json() for name, table in own.items()})[:16])
    return "+".join(parts)


def has_prices(provider: str, own: Mapping[str, PriceTable]) -> bool:
    """Say whether a book of the source and our own prices can hold any of this provider's."""
    return NAMES.get(provider, provider) in SOURCES or any(name.partition("/")[0] == provider for name in own)


def build_book(own: Mapping[str, PriceTable], sources: Iterable[str] = SOURCES) -> PriceBook:
    """Make the book of the installed source and our own prices; the same text for the same two.

    Raises:
        ConfigurationError: ``inference_geo`` alone is given for a model that the source has no price for.
    """
    # The package's own data, never a snapshot that somebody updated: loaded here, since it takes 0.3 s.
    from genai_prices.data import providers  # noqa: PLC0415 - loaded when prices are made

    wanted = set(sources)
    return compose([provider for provider in providers if provider.id in wanted], own)


def compose(providers: Iterable[genai.Provider], own: Mapping[str, PriceTable]) -> PriceBook:
    """Make the book of these providers of the source and our own prices.

    Raises:
        ConfigurationError: ``inference_geo`` alone is given for a model that they have no price for.
    """
    listed = {provider.id: [_model(model) for model in provider.models] for provider in providers}
    return with_own(written_book(NAMES, listed), listed, own)


def _model(model: genai.ModelInfo) -> Written:
    """Return a model as a book has it; without prices where they are not of a text's tokens alone.

    It stands there all the same, so that its names are not taken for those of a model further down.
    """
    dated = (
        [(one.constraint, one.prices) for one in model.prices]
        if isinstance(model.prices, list)
        else [(None, model.prices)]
    )
    prices = [{"when": _when(constraint), "rates": _rates(price)} for constraint, price in dated]
    variants = [
        {"for": dict(one.when), "when": _when(one.constraint), "rates": _rates(one.prices)}
        for one in model.price_variants or ()
    ]
    if any("input" not in (one["rates"] or ()) for one in prices) or any(one["rates"] is None for one in variants):
        prices, variants = [], []
    return {"id": model.id, "match": _clause(model.match), "prices": prices, "variants": variants, "geos": {}}


def _rates(price: genai.ModelPrice) -> Written | None:
    """Return the rates of a text's tokens; None where something else is charged for, too."""
    given = {key: value for key, value in vars(price).items() if value is not None}
    if any(key not in RATES and not NEVER_SENT.search(key) for key in given):
        return None
    return {RATES[key]: _rate(value) for key, value in given.items() if key in RATES}


def _rate(price: Decimal | genai.TieredPrices) -> Any:
    if isinstance(price, Decimal):
        return written_usd(price)
    return {"base": written_usd(price.base), "above": [[step.start, written_usd(step.price)] for step in price.tiers]}


def _when(constraint: genai.StartDateConstraint | genai.TimeOfDateConstraint | None) -> Written | None:
    from genai_prices import types as genai  # noqa: PLC0415 - loaded when prices are made

    match constraint:
        case None:
            return None
        case genai.StartDateConstraint(start_date=day):
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            return {"from_ms": (midnight - EPOCH) // MILLISECOND}
        case genai.TimeOfDateConstraint(start_time=start, end_time=end):
            return {"daily_ms": [_of_day(start), _of_day(end)]}
        case _:
            assert_never(constraint)


def _of_day(moment: time) -> int:
    """Return a time of day in UTC, which it is in where it does not say."""
    zoned = datetime.combine(EPOCH.date(), moment, tzinfo=moment.tzinfo or UTC)
    return (zoned - EPOCH) // MILLISECOND % DAY_MS


def _clause(clause: genai.MatchLogic) -> Written:
    from genai_prices import types as genai  # noqa: PLC0415 - loaded when prices are made

    match clause:
        case genai.ClauseEquals(equals=text):
            return {"equals": text.lower()}
        case genai.ClauseStartsWith(starts_with=text):
            return {"starts_with": text.lower()}
        case genai.ClauseEndsWith(ends_with=text):
            return {"ends_with": text.lower()}
        case genai.ClauseContains(contains=text):
            return {"contains": text.lower()}
        case genai.ClauseRegex(regex=pattern):
            return {"regex": pattern}
        case genai.ClauseOr(or_=parts):
            return {"or": [_clause(part) for part in parts]}
        case genai.ClauseAnd(and_=parts):
            return {"and": [_clause(part) for part in parts]}
        case _:
            assert_never(clause)
