"""A price book charges what genai-prices charges, to the last digit: every model, size, date and service tier."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import localcontext
from fractions import Fraction
from functools import cache
from typing import Final

import pytest
from genai_prices import types as genai
from genai_prices.data import providers

from ledger.parts import UsageRow
from ledger.prices.book import PriceBook
from ledger.prices.costing import cost
from ledger.prices.source import SOURCES, build_book, source_version

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TODAY: Final = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)
DAY: Final = timedelta(days=1)
MILLISECOND: Final = timedelta(milliseconds=1)
OTHERS_SAMPLE: Final = 120
BY_ID: Final = {provider.id: provider for provider in providers}
USUAL: Final = (None, "standard")
UNUSUAL: Final = ("batch", "flex", "priority")

Constraint = genai.StartDateConstraint | genai.TimeOfDateConstraint


@cache
def whole_book() -> PriceBook:
    """Return a book of every provider of the source, made once."""
    return build_book({}, BY_ID)


def drawn(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311 - samples, not secrets


def milliseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MILLISECOND


def constraints(model: genai.ModelInfo) -> Iterator[Constraint]:
    prices = model.prices if isinstance(model.prices, list) else ()
    for one in (*prices, *(model.price_variants or ())):
        if one.constraint is not None:
            yield one.constraint


def moments(model: genai.ModelInfo) -> list[datetime]:
    """Return today, and both sides of every instant at which a price of the model changes."""
    found = {TODAY}
    for constraint in constraints(model):
        if isinstance(constraint, genai.StartDateConstraint):
            day = constraint.start_date
            changes = [datetime(day.year, day.month, day.day, tzinfo=UTC)]
        else:
            times = (constraint.start_time, constraint.end_time)
            changes = [datetime.combine(TODAY, one, tzinfo=one.tzinfo or UTC) for one in times]
        for change in changes:
            found |= {change - MILLISECOND, change, change + MILLISECOND, change + DAY}
    return sorted(found)


def sizes(model: genai.ModelInfo, draw: random.Random) -> list[int]:
    """Return some inputs, and for every step of the model one at, one below and one above it."""
    prices = [one.prices for one in model.prices] if isinstance(model.prices, list) else [model.prices]
    starts = {
        tier.start
        for price in prices
        for value in vars(price).values()
        if isinstance(value, genai.TieredPrices)
        for tier in value.tiers
    }
    return [
        0,
        draw.randrange(20_000),
        draw.randrange(2_000_000),
        *(start + by for start in starts for by in (-1, 0, 1)),
    ]


def drawn_row(size: int, tier: str | None, draw: random.Random) -> UsageRow:
    """Return a row whose input counts add up to ``size``."""
    cuts = sorted(draw.choice((0, size, draw.randint(0, size))) for _ in range(3))
    uncached, read, write_5m, write_1h = (end - start for start, end in zip((0, *cuts), (*cuts, size), strict=True))
    output = draw.choice((0, 1, draw.randrange(100_000)))
    return UsageRow(
        model=None,
        input_uncached_tokens=uncached,
        cache_read_tokens=read,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=output,
        reasoning_tokens=draw.randint(0, output),
        service_tier=tier,
        inference_geo=None,
    )


def theirs(provider: genai.Provider, model: genai.ModelInfo, row: UsageRow, moment: datetime) -> Fraction:
    """Return what the source charges in nano-USD, from its own totals and context."""
    read, write_5m, write_1h = (
        row.cache_read_tokens or 0,
        row.cache_write_5m_tokens or 0,
        row.cache_write_1h_tokens or 0,
    )
    usage = genai.Usage(
        input_tokens=(row.input_uncached_tokens or 0) + read + write_5m + write_1h,
        cache_read_tokens=read,
        cache_write_tokens=write_5m + write_1h,
        cache_write_5m_tokens=write_5m,
        cache_write_1h_tokens=write_1h,
        output_tokens=row.output_tokens,
        output_reasoning_tokens=row.reasoning_tokens,
    )
    context = {} if row.service_tier is None else {"service_tier": row.service_tier}
    if row.service_tier == "batch":
        context["processing"] = "batch"
    with localcontext() as exact:
        exact.prec = 60
        price = model.calc_price(usage, provider, genai_request_timestamp=moment, price_context=context)
    return Fraction(price.total_price) * 10**9


def has_variant(model: genai.ModelInfo, tier: str, moment: datetime) -> bool:
    wanted = ({"service_tier": tier}, {"processing": tier})
    return any(
        one.when in wanted and (one.constraint is None or one.constraint.active(moment))
        for one in model.price_variants or ()
    )


def differences(provider: genai.Provider, model: genai.ModelInfo, draw: random.Random) -> tuple[int, list[str]]:
    """Compare one model at every moment, size and tier; return how many costs were equal, and the others."""
    equal, wrong = 0, []
    for moment in moments(model):
        for size in sizes(model, draw):
            for tier in (*USUAL, *USUAL, draw.choice(UNUSUAL)):
                row = drawn_row(size, tier, draw)
                ours = cost(whole_book(), provider.id, model.id, [row], milliseconds(moment))
                if tier in UNUSUAL and not has_variant(model, tier, moment):
                    expected = "service_tier_unpriced"
                elif model.get_prices(moment).output_mtok is None and row.output_tokens:
                    expected = "part_unpriced"
                else:
                    expected = None
                    equal += 1
                same = ours.reason == expected and (expected or ours.exact == theirs(provider, model, row, moment))
                if not same:
                    wrong.append(f"{provider.id}/{model.id} {moment} {row}: {ours}, expected {expected or 'equal'}")
    return equal, wrong


def found_by(provider: genai.Provider, name: str) -> str | None:
    """Return the model that the source finds, if a book has prices for it."""
    found = provider.find_model(name)
    return None if found is None or not is_priced(found) else found.id


def is_priced(model: genai.ModelInfo) -> bool:
    """Say whether a model is charged by a text's tokens alone."""
    prices = [one.prices for one in model.prices] if isinstance(model.prices, list) else [model.prices]
    foreign = ("requests_kcount", "output_citation_mtok", "input_mchars", "input_text_messages_kcount")
    return all(price.input_mtok is not None and not any(getattr(price, key) for key in foreign) for price in prices)


def is_special(model: genai.ModelInfo) -> bool:
    """Say whether a model has prices by time of day, a price of its own for thinking, or several steps."""
    prices = [one.prices for one in model.prices] if isinstance(model.prices, list) else [model.prices]
    steps = [value for price in prices for value in vars(price).values() if isinstance(value, genai.TieredPrices)]
    return (
        any(isinstance(one, genai.TimeOfDateConstraint) for one in constraints(model))
        or any(price.output_reasoning_mtok is not None for price in prices)
        or any(len(value.tiers) > 1 for value in steps)
    )


@pytest.mark.parametrize("name", SOURCES)
def test_every_cost_is_the_sources(name: str) -> None:
    """Every priced model, on both sides of every date and step, at every service tier: no difference."""
    provider, draw = BY_ID[name], drawn(name)
    models = [one for one in provider.models if is_priced(one) and found_by(provider, one.id) == one.id]
    found = [differences(provider, model, draw) for model in models]
    assert [line for _, lines in found for line in lines] == []
    assert sum(equal for equal, _ in found) > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_a_hundred_thousand_costs_are_the_sources(seed: int) -> None:
    """The same with other counts each time: every model of every provider, date, step and service tier."""
    draw, equal = drawn(f"many {seed}"), 0
    for provider in providers:
        models = [one for one in provider.models if is_priced(one) and found_by(provider, one.id) == one.id]
        for model in models if provider.id in SOURCES else draw.sample(models, min(len(models), 20)):
            same, lines = differences(provider, model, draw)
            assert lines == []
            equal += same
    assert equal > 4_000


def test_the_costs_of_other_providers_are_the_sources() -> None:
    """A sample over all other providers: times of day, finer prices than nano-USD and thinking of its own included."""
    draw = drawn("others")
    models = [
        (provider, model)
        for provider in providers
        if provider.id not in SOURCES
        for model in provider.models
        if is_priced(model) and found_by(provider, model.id) == model.id
    ]
    special = [one for one in models if is_special(one[1])]
    found = [differences(*one, draw) for one in (*special, *draw.sample(models, OTHERS_SAMPLE))]
    assert [line for _, lines in found for line in lines] == []
    assert sum(equal for equal, _ in found) > 2_000


@pytest.mark.parametrize("name", BY_ID)
def test_a_name_means_the_sources_model(name: str) -> None:
    """Ids, their beginnings and dated spellings find the model that the source finds, or none that has no price."""
    provider, book = BY_ID[name], whole_book()
    spellings = [
        spelling
        for model in provider.models[:80]
        for spelling in (model.id, model.id.upper(), f"{model.id}-20251211", f"{model.id}-20250230", f"x{model.id}")
    ]
    found = {one: None if (model := book.model(name, one)) is None else model.id for one in spellings}
    assert found == {one: found_by(provider, one) for one in spellings}


def test_a_book_is_made_the_same_again() -> None:
    """The same source and configuration give the same text; its version says what it was made of."""
    assert build_book({}).text == build_book({}).text
    assert source_version({}).endswith("+book.1")


def test_the_source_is_loaded_only_when_a_book_is_made() -> None:
    """Its 0.3 s are not spent to start, to name its version or to read a published book."""
    code = (
        "import sys; from ledger.prices import book, costing, source, tables; "
        "print(source.source_version({}) != '', 'genai_prices' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "True False\n"
