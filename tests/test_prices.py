"""What a call costs under a small book whose every figure can be checked by hand, and the laws of any book.

``python -m tests.test_prices`` writes the golden book where there is none.
"""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, Final

import pytest
from genai_prices import types as genai
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ledger.errors import ConfigurationError, EventInvalid
from ledger.parts import UsageRow, UsageSource
from ledger.prices.book import PriceBook, read_book
from ledger.prices.costing import Charge, charge, cost, upper_bound
from ledger.prices.source import build_book, compose, source_version
from ledger.prices.tables import PricesTable, PriceTable

GOLDEN: Final = Path(__file__).parent / "golden" / "prices" / "small_book.json"
NOW: Final = 1_795_305_600_000  # 2026-11-22, midnight UTC
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
JUNE: Final = 1_780_272_000_000
COUNTS: Final = (
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)


def usd(text: str, **above: str) -> Decimal | genai.TieredPrices:
    """Return a price, or one with steps: ``usd("1", over_100="2")``."""
    steps = [genai.Tier(int(name.removeprefix("over_")), Decimal(price)) for name, price in above.items()]
    return genai.TieredPrices(Decimal(text), steps) if steps else Decimal(text)


def model(name: str, prices: Any, variants: list[genai.PriceVariant] | None = None) -> genai.ModelInfo:
    return genai.ModelInfo(name, genai.ClauseEquals(name), prices=prices, price_variants=variants)


STEPPED: Final = genai.ModelPrice(
    input_mtok=usd("1", over_100="5"),
    cache_read_mtok=usd("0.1", over_100="0.5"),
    cache_write_mtok=usd("1.25", over_100="6.25"),
    cache_write_1h_mtok=usd("2", over_100="10"),
    output_mtok=usd("4", over_100="20"),
    web_searches_kcount=usd("10"),
)
DATED: Final = [
    genai.ConditionalPrice(prices=genai.ModelPrice(input_mtok=usd("2"), output_mtok=usd("8"))),
    genai.ConditionalPrice(
        genai.StartDateConstraint(date(2026, 6, 1)),
        prices=genai.ModelPrice(input_mtok=usd("1"), output_mtok=usd("4")),
    ),
]
NIGHTLY: Final = [
    genai.ConditionalPrice(prices=genai.ModelPrice(input_mtok=usd("2"), output_mtok=usd("8"))),
    genai.ConditionalPrice(
        genai.TimeOfDateConstraint(time(22), time(6, 30)),
        prices=genai.ModelPrice(input_mtok=usd("1"), output_mtok=usd("4")),
    ),
]
BATCH: Final = genai.PriceVariant(
    {"processing": "batch"}, genai.ModelPrice(input_mtok=usd("0.5")), genai.StartDateConstraint(date(2026, 6, 1))
)
PRIORITY: Final = genai.PriceVariant({"service_tier": "priority"}, genai.ModelPrice(output_mtok=usd("9")))
FAST: Final = genai.PriceVariant({"speed": "fast"}, genai.ModelPrice(output_mtok=usd("90")))
SMALL: Final = genai.Provider(
    "google",
    "Small",
    "https://example\\.invalid",
    models=[
        model("stepped", STEPPED),
        model("dated", DATED, [BATCH, PRIORITY, FAST]),
        model("nightly", NIGHTLY),
        model("halves", genai.ModelPrice(input_mtok=usd("0.0005"), output_mtok=usd("0"), cache_read_mtok=usd("0"))),
        model("fine", genai.ModelPrice(input_mtok=usd("0.10000000000000001"), output_mtok=usd("0.3"))),
        model("embedding", genai.ModelPrice(input_mtok=usd("1"))),
        model("thinking", genai.ModelPrice(input_mtok=usd("0"), output_mtok=usd("1"), output_reasoning_mtok=usd("3"))),
        model("given-away", genai.ModelPrice()),
        model("by-request", genai.ModelPrice(input_mtok=usd("1"), output_mtok=usd("1"), requests_kcount=usd("5"))),
        genai.ModelInfo(
            "dashed",
            genai.ClauseAnd(
                [
                    genai.ClauseOr([genai.ClauseStartsWith("dashed-"), genai.ClauseContains("Dotted")]),
                    genai.ClauseRegex(r"^(?!.*-tts$)"),
                    genai.ClauseEndsWith("-2026-05-06"),
                ]
            ),
            prices=genai.ModelPrice(input_mtok=usd("1"), output_mtok=usd("2")),
        ),
    ],
)
OWN: Final = {
    "gemini/mine": {
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 2.5,
        "cache_read_usd_per_mtok": 0,
        "above": [{"input_tokens": 1000, "input_usd_per_mtok": 3}],
        "inference_geo": {"us": 1.1},
    },
    "my.clients:make/theirs": {"input_usd_per_mtok": 0.25, "output_usd_per_mtok": 0.75},
    "gemini/dated": {"inference_geo": {"EU": 2}},
}


def own(tables: dict[str, Any]) -> PricesTable:
    return TypeAdapter(PricesTable).validate_python(tables)


@cache
def small() -> PriceBook:
    return compose([SMALL], own(OWN))


@cache
def real() -> PriceBook:
    return build_book({})


def row(**given: Any) -> UsageRow:
    """Return a row whose counts are zero where they are not given."""
    names = UsageRow.model_fields
    return UsageRow(**{name: 0 if name.endswith("_tokens") else None for name in names} | given)


def test_the_small_book_is_its_golden_file() -> None:
    """The same source and configuration give these bytes, and these bytes this digest."""
    assert small().text == GOLDEN.read_text(encoding="utf-8").rstrip("\n")
    assert small().digest == "4b68d9d937d30862242c8b6ac0b2f3a384b48f07536228fc9e15a4cbecf4f6db"


def test_a_book_read_back_is_the_same() -> None:
    """A published text prices as the book that it was published from."""
    again = read_book(small().text)
    rows = [row(model="mine", input_uncached_tokens=1001, output_tokens=7, inference_geo="us")]
    assert (again.digest, cost(again, "gemini", "mine", rows, NOW)) == (
        small().digest,
        cost(small(), "gemini", "mine", rows, NOW),
    )


@pytest.mark.parametrize(
    ("name", "counts", "at_ms", "nano_usd"),
    [
        pytest.param("stepped", {"input_uncached_tokens": 100}, NOW, 100_000, id="at a step: the lower price"),
        pytest.param("stepped", {"input_uncached_tokens": 101}, NOW, 505_000, id="above: all at the higher"),
        pytest.param(
            "stepped",
            {"cache_read_tokens": 40, "cache_write_5m_tokens": 30, "cache_write_1h_tokens": 20, "output_tokens": 10},
            NOW,
            4_000 + 37_500 + 40_000 + 40_000,
            id="each part has its price",
        ),
        pytest.param(
            "stepped",
            {"input_uncached_tokens": 1, "cache_read_tokens": 100, "output_tokens": 10},
            NOW,
            5_000 + 50_000 + 200_000,
            id="cached tokens count for the size",
        ),
        pytest.param("dated", {"input_uncached_tokens": 1}, JUNE - 1, 2_000, id="before a date"),
        pytest.param("dated", {"input_uncached_tokens": 1}, JUNE, 1_000, id="on a date"),
        pytest.param("nightly", {"input_uncached_tokens": 1}, NOW - 2 * HOUR_MS, 1_000, id="from ten at night"),
        pytest.param("nightly", {"input_uncached_tokens": 1}, NOW - 2 * HOUR_MS - 1, 2_000, id="before ten at night"),
        pytest.param("nightly", {"input_uncached_tokens": 1}, NOW + 23_399_999, 1_000, id="to half past six"),
        pytest.param("nightly", {"input_uncached_tokens": 1}, NOW + 23_400_000, 2_000, id="at half past six"),
        pytest.param("dated", {"input_uncached_tokens": 1, "service_tier": "batch"}, JUNE, 500, id="a batch"),
        pytest.param(
            "dated",
            {"input_uncached_tokens": 1, "output_tokens": 1, "service_tier": "priority"},
            NOW,
            10_000,
            id="tier",
        ),
        pytest.param("dated", {"input_uncached_tokens": 1, "service_tier": "Standard"}, NOW, 1_000, id="usual tier"),
        pytest.param("dated", {"input_uncached_tokens": 1, "inference_geo": "global"}, NOW, 1_000, id="anywhere"),
        pytest.param("dated", {"input_uncached_tokens": 1, "inference_geo": "eu"}, NOW, 2_000, id="a place's factor"),
        pytest.param("dated", {"cache_write_1h_tokens": 1}, NOW, 1_000, id="no cache price: as other input"),
        pytest.param("halves", {"input_uncached_tokens": 1}, NOW, 0, id="half rounds to even, down"),
        pytest.param("halves", {"input_uncached_tokens": 3}, NOW, 2, id="half rounds to even, up"),
        pytest.param("fine", {"input_uncached_tokens": 10**16}, NOW, 10**18 + 100, id="no digit is lost"),
        pytest.param("thinking", {"output_tokens": 10, "reasoning_tokens": 4}, NOW, 18_000, id="thinking apart"),
        pytest.param("embedding", {"input_uncached_tokens": 7}, NOW, 7_000, id="no output, no price for it"),
        pytest.param("dashed-20260506", {"input_uncached_tokens": 1}, NOW, 1_000, id="a compact date"),
        pytest.param("My-DOTTED-2026-05-06", {"input_uncached_tokens": 1}, NOW, 1_000, id="any case"),
        pytest.param("mine", {"input_uncached_tokens": 1000, "output_tokens": 2}, NOW, 1_005_000, id="our own"),
        pytest.param("mine", {"input_uncached_tokens": 1001, "output_tokens": 2}, NOW, 3_008_000, id="our own step"),
    ],
)
def test_a_cost(name: str, counts: dict[str, Any], at_ms: int, nano_usd: int) -> None:
    """Usage times the price in force, exact."""
    assert cost(small(), "gemini", name, [row(**counts)], at_ms).nano_usd == nano_usd


@pytest.mark.parametrize(
    ("name", "counts", "reason"),
    [
        pytest.param("nobody", {}, "model_unpriced", id="not in the book"),
        pytest.param("given-away", {}, "model_unpriced", id="listed without a price"),
        pytest.param("by-request", {}, "model_unpriced", id="charged by something else, too"),
        pytest.param("dashed-2026-05-06-tts", {}, "model_unpriced", id="excepted by its clause"),
        pytest.param("dated", {"model": "nobody"}, "model_unpriced", id="the served model counts, not the requested"),
        pytest.param("embedding", {"output_tokens": 1}, "part_unpriced", id="output without a price"),
        pytest.param("mine", {"cache_write_5m_tokens": 1}, "part_unpriced", id="our own has none for writes"),
        pytest.param("stepped", {"service_tier": "priority"}, "service_tier_unpriced", id="a tier without a price"),
        pytest.param("dated", {"inference_geo": "us"}, "inference_geo_unpriced", id="a place without a price"),
        pytest.param("dated", {"input_uncached_tokens": None}, "count_unknown", id="input"),
        pytest.param("dated", {"cache_write_1h_tokens": None}, "count_unknown", id="cache writes"),
        pytest.param("dated", {"output_tokens": None}, "count_unknown", id="output"),
        pytest.param("mine", {"input_uncached_tokens": 7, "cache_read_tokens": None}, "count_unknown", id="the size"),
        pytest.param("mine", {"input_uncached_tokens": 1000, "cache_read_tokens": None}, "count_unknown", id="a step"),
        pytest.param("dated", {"output_tokens": 2**62}, "count_unknown", id="more than 64 bits of money"),
        pytest.param("thinking", {"output_tokens": 9, "reasoning_tokens": None}, "count_unknown", id="thinking"),
        pytest.param("thinking", {"output_tokens": 9, "reasoning_tokens": 10}, "count_unknown", id="too much thinking"),
    ],
)
def test_an_unknown_cost_says_why(name: str, counts: dict[str, Any], reason: str) -> None:
    """Nothing unknown is zero."""
    found = cost(small(), "gemini", name, [row(**counts)], NOW)
    assert (found.nano_usd, found.exact, found.reason) == (None, None, reason)


@pytest.mark.parametrize(
    ("name", "counts", "nano_usd"),
    [
        pytest.param("halves", {"input_uncached_tokens": 4, "output_tokens": None}, 2, id="output that is free"),
        pytest.param("halves", {"input_uncached_tokens": 4, "cache_read_tokens": None}, 2, id="reads that are free"),
        pytest.param(
            "mine", {"input_uncached_tokens": 2000, "cache_read_tokens": None}, 6_000_000, id="free, past the last step"
        ),
        pytest.param("dated", {"output_tokens": 1, "reasoning_tokens": None}, 4_000, id="thinking is in the output"),
    ],
)
def test_a_count_that_cannot_matter_may_be_unknown(name: str, counts: dict[str, Any], nano_usd: int) -> None:
    """A missing count of what costs nothing at any size that it allows leaves the cost known."""
    assert cost(small(), "gemini", name, [row(**counts)], NOW).nano_usd == nano_usd


def test_an_attempt_is_rounded_once() -> None:
    """Two halves of different models are one nano-USD; one unknown row makes all unknown; no rows are unknown."""
    half = row(model="halves", input_uncached_tokens=1)
    assert cost(small(), "gemini", "dated", [half, half], NOW).nano_usd == 1
    assert cost(small(), "gemini", "halves", [half, row(model="nobody")], NOW).reason == "model_unpriced"
    assert cost(small(), "gemini", "halves", [], NOW).reason == "usage_missing"


@pytest.mark.parametrize(
    ("provider", "known"),
    [
        pytest.param("gemini", True, id="our name"),
        pytest.param("google", True, id="the source's name"),
        pytest.param("my.clients:make", False, id="another provider's model"),
        pytest.param("simulated", False, id="a provider without prices"),
    ],
)
def test_a_price_is_a_providers(provider: str, known: bool) -> None:  # noqa: FBT001 - a column of the table
    """A model's price holds for its provider only."""
    assert (small().model(provider, "dated") is not None) == known


@pytest.mark.parametrize(
    ("usage_source", "name", "counts", "expected"),
    [
        pytest.param("provider", "dated", {"input_uncached_tokens": 1}, (1_000, None, True, None), id="billed"),
        pytest.param("not_billed", "dated", {}, (0, None, False, None), id="not billed"),
        pytest.param("not_billed", "nobody", {}, (0, None, False, None), id="not billed, unpriced"),
        pytest.param("unknown", "dated", {}, (None, 99, True, "usage_missing"), id="nothing known"),
        pytest.param("stream_partial", "dated", {}, (None, 99, True, "usage_missing"), id="cut off"),
        pytest.param(
            "provider", "dated", {"output_tokens": None}, (None, 99, True, "count_unknown"), id="a count less"
        ),
        pytest.param("provider", "nobody", {}, (None, None, False, "model_unpriced"), id="unpriced"),
    ],
)
def test_an_outcome_has_a_cost_or_an_exposure(
    usage_source: UsageSource, name: str, counts: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    """Known, bounded, or neither; the book is named where one of its prices was used."""
    cost_nano_usd, exposure, has_book, reason = expected
    found = charge(small(), "gemini", name, [row(**counts)], usage_source, NOW, 99)
    assert found == Charge(cost_nano_usd, exposure, small().digest if has_book else None, reason)


@pytest.mark.parametrize(
    ("name", "nano_usd"),
    [
        pytest.param("stepped", 2_158 * 10_000 + 10 * 20_000, id="the highest step, a one-hour write"),
        pytest.param("dated", 2 * (2_158 * 1_000 + 10 * 9_000), id="the dearest service tier and place"),
        pytest.param("halves", 1_079, id="a free output"),
        pytest.param("mine", ceil(Fraction(11, 10) * (2_158 * 3_000 + 10 * 2_500)), id="our own, at its place"),
        pytest.param("embedding", None, id="no output price"),
        pytest.param("given-away", None, id="no price"),
    ],
)
def test_an_upper_bound(name: str, nano_usd: int | None) -> None:
    """Bytes of prompt and system and 2,048 at the dearest input price, the output limit at the dearest output price."""
    assert upper_bound(small(), "gemini", name, 100, 10, 10, NOW) == nano_usd


def test_an_upper_bound_is_rounded_up_and_kept_in_64_bits() -> None:
    """Half a nano-USD is one; what no event could hold is no bound."""
    assert upper_bound(small(), "gemini", "halves", 1, 0, 10, NOW) == 1_025
    assert upper_bound(small(), "gemini", "dated", 1, 0, 2**62, NOW) is None


moments = st.integers(1_700_000_000_000, 1_900_000_000_000)
tokens = st.integers(0, 300_000)
counts_of_all = st.fixed_dictionaries(dict.fromkeys(COUNTS, tokens))
models = st.deferred(
    lambda: st.sampled_from(
        [
            (provider, one.id)
            for provider, listed in real().providers.items()
            for one in listed
            if one.prices and real().model(provider, one.id) is one and "output" in one.prices[0].rates
        ]
    )
)


def exact(book: PriceBook, name: tuple[str, str], counts: dict[str, int], at_ms: int) -> Fraction:
    found = cost(book, *name, [row(**counts)], at_ms).exact
    assert found is not None
    return found


@given(models, counts_of_all, st.sampled_from(COUNTS), tokens, moments)
def test_more_tokens_never_cost_less(
    name: tuple[str, str], counts: dict[str, int], part: str, more: int, at_ms: int
) -> None:
    """A cost is monotone in each count."""
    larger = counts | {part: counts[part] + more}
    assert exact(real(), name, counts, at_ms) <= exact(real(), name, larger, at_ms)


@given(models, counts_of_all, counts_of_all, moments)
def test_rows_and_outputs_add_up(
    name: tuple[str, str], counts: dict[str, int], others: dict[str, int], at_ms: int
) -> None:
    """Rows add up exactly, and so does output at one size of input."""
    both = cost(real(), *name, [row(**counts), row(**others)], at_ms)
    assert both.exact == exact(real(), name, counts, at_ms) + exact(real(), name, others, at_ms)
    silent, talking = counts | {"output_tokens": 0}, counts | {"output_tokens": others["output_tokens"]}
    together = counts | {"output_tokens": counts["output_tokens"] + others["output_tokens"]}
    assert exact(real(), name, together, at_ms) + exact(real(), name, silent, at_ms) == exact(
        real(), name, counts, at_ms
    ) + exact(real(), name, talking, at_ms)


@given(models, counts_of_all, st.sampled_from([None, "batch", "priority", "flex"]), moments)
def test_no_cost_is_above_its_upper_bound(
    name: tuple[str, str], counts: dict[str, int], tier: str | None, at_ms: int
) -> None:
    """What fits into the bytes and the output limit never costs more than the bound, rounded or not."""
    *inputs, output = (counts[part] for part in COUNTS)
    size = max(0, sum(inputs) - 2_048)
    bound = upper_bound(real(), *name, size // 2, size - size // 2, output, at_ms)
    found = cost(real(), *name, [row(**counts, service_tier=tier)], at_ms)
    assert bound is not None
    assert found.nano_usd is None or found.nano_usd <= bound


@pytest.mark.parametrize(
    "tables",
    [
        pytest.param({"haiku": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}, id="no provider"),
        pytest.param({"gemini/": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}, id="no model"),
        pytest.param({"gemini/x": {}}, id="no prices"),
        pytest.param({"gemini/x": {"input_usd_per_mtok": 1}}, id="no output price"),
        pytest.param({"gemini/x": {"inference_geo": {"us": 1.1}, "cache_read_usd_per_mtok": 1}}, id="half a price"),
        pytest.param({"gemini/x": {"input_usd_per_mtok": -1, "output_usd_per_mtok": 1}}, id="a negative price"),
        pytest.param({"gemini/x": {"input_usd_per_mtok": 1e-10, "output_usd_per_mtok": 1}}, id="too fine"),
        pytest.param({"gemini/x": {"input_usd": 1, "output_usd_per_mtok": 1}}, id="an unknown key"),
        pytest.param(
            {
                "gemini/x": {
                    "input_usd_per_mtok": 1,
                    "output_usd_per_mtok": 1,
                    "above": [{"input_tokens": 2}, {"input_tokens": 1}],
                }
            },
            id="steps out of order",
        ),
    ],
)
def test_a_price_that_means_nothing_is_refused(tables: dict[str, Any]) -> None:
    """A table that would leave a price in doubt is no configuration."""
    with pytest.raises(ValidationError):
        own(tables)


def test_a_factor_needs_a_price() -> None:
    """A place's factor for a model that nobody has a price for is refused, by name."""
    with pytest.raises(ConfigurationError, match="gemini/nobody"):
        compose([SMALL], own({"gemini/nobody": {"inference_geo": {"us": 1.1}}}))


def test_our_own_prices_make_another_book() -> None:
    """The version says of what a book is made, whatever the order of the tables; the rest of the book stays."""
    theirs = {"anthropic/claude-haiku-5-5": PriceTable(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(2))}
    also = theirs | {"gemini/x": theirs["anthropic/claude-haiku-5-5"]}
    made = build_book(also)
    assert made.digest == build_book(dict(reversed(also.items()))).digest != real().digest
    assert source_version(also) == source_version(dict(reversed(also.items()))) != source_version(theirs)
    usage = [row(input_uncached_tokens=1_000_000)]
    assert cost(made, "anthropic", "claude-haiku-5-5", usage, NOW).nano_usd == 10**9
    assert cost(made, "gemini", "gemini-2.5-pro", usage, NOW) == cost(real(), "gemini", "gemini-2.5-pro", usage, NOW)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"book": 2}, id="a newer form"),
        pytest.param({"providers": {"google": [{"id": "x"}]}}, id="half a model"),
        pytest.param({"providers": []}, id="no providers"),
        pytest.param({"names": None}, id="no names"),
    ],
)
def test_what_is_no_book_is_refused(change: dict[str, Any]) -> None:
    """A text that cannot be read as a book, or not by this version, is said to be none."""
    with pytest.raises(EventInvalid):
        read_book(json.dumps(json.loads(small().text) | change))


@pytest.mark.parametrize(
    ("part", "written"),
    [
        pytest.param("match", {"like": "x"}, id="an unknown clause"),
        pytest.param("match", {"regex": "("}, id="a broken pattern"),
        pytest.param("match", {"equals": "x", "contains": "y"}, id="two clauses in one"),
        pytest.param("prices", [{"when": {"until_ms": 1}, "rates": {}}], id="an unknown time"),
        pytest.param("prices", [{"when": None, "rates": {"audio": 1}}], id="an unknown part"),
        pytest.param("prices", [{"when": None, "rates": {"input": -1}}], id="a negative rate"),
        pytest.param("prices", [{"when": None, "rates": {"input": True}}], id="no figure"),
        pytest.param("prices", [{"when": None, "rates": {"input": [1, 0]}}], id="a fraction of nothing"),
        pytest.param(
            "prices", [{"when": None, "rates": {"input": {"base": 1, "above": [[2, 1], [1, 1]]}}}], id="mixed-up steps"
        ),
    ],
)
def test_a_book_with_a_broken_model_is_refused(part: str, written: Any) -> None:
    """Nothing in a book is guessed."""
    book = json.loads(small().text)
    book["providers"]["google"][0][part] = written
    with pytest.raises(EventInvalid):
        read_book(json.dumps(book))


if __name__ == "__main__" and not GOLDEN.exists():
    GOLDEN.write_text(small().text + "\n", encoding="utf-8")
