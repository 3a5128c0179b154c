"""The rest of a day is an attempt's only where it can be nobody else's; bounds follow prices and are never too low."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.prices.costing import upper_bound
from ledger.prices.quotes import dearest_of
from ledger.reconciling.billed import COUNTS, DAY_MS, Span
from ledger.reconciling.exports import Export, Sums
from ledger.reconciling.matching import Day, Match, by_day
from ledger.reconciling.ours import Known, Unknown
from ledger.reports.repricing import translated
from tests.accounts import FLASH, HAIKU, book, dearer

DAY: Final = 20_000
NOW_MS: Final = (DAY + 1) * DAY_MS + 3_600_000
COVERED: Final = (Span(DAY * DAY_MS, (DAY + 1) * DAY_MS),)
ORPHAN: Final = Unknown("t", 1, "haiku", "anthropic", HAIKU, DAY * DAY_MS + 5, None, 10**6, 0)
REPORT: Final = Export(Path("usage.json"), "anthropic_usage")
COST: Final = Export(Path("cost.json"), "anthropic_cost")
STANDARD: Final = ("standard", None, "standard")


def known(**changes: Any) -> Known:
    return replace(Known(tiers={"haiku"}, billable=2, uncounted=1, unknown=1), **changes)


def counted(count: int | None = 5, *kinds: tuple[str, str | None, str]) -> Sums:
    return Sums(dict.fromkeys(COUNTS, count), None, kinds=set(kinds or (STANDARD,)))


def amount(cost: Fraction | None = Fraction(77, 2), rounding: int = 0) -> Sums:
    return Sums(dict.fromkeys(COUNTS), cost, rounding, kinds={STANDARD})


def asked(theirs: Sums, ours: Known, **changes: Any) -> Match | str:
    wanted: dict[str, Any] = {"first": ORPHAN, "now_ms": NOW_MS, "export": REPORT, "covered": COVERED} | changes
    return by_day(Day((DAY, "anthropic", HAIKU), ours, theirs), **wanted)


@pytest.mark.parametrize(
    ("theirs", "ours", "changes", "why"),
    [
        (counted(), known(), {"export": replace(REPORT, is_cut=True)}, "in pages"),
        (counted(), known(), {"now_ms": NOW_MS - 1}, "not over"),
        (counted(), known(), {"covered": (Span(DAY * DAY_MS + 1, (DAY + 1) * DAY_MS),)}, "only a part"),
        (counted(), known(running=1), {}, "still run"),
        (counted(), known(unknown=2), {}, "several attempts"),
        (counted(5, STANDARD, ("batch", None, "standard")), known(), {}, "several service tiers"),
        (counted(), known(uncounted=2), {}, "no whole counts"),
        (counted(), known(), {"first": ORPHAN._replace(counted=1)}, "only a price is missing"),
        (counted(), known(counts=dict.fromkeys(COUNTS, 6)), {}, "counted less"),
        (counted(0), known(), {"export": Export(Path("a.csv"), "plain")}, "nothing is left"),
        (amount(None), known(billable=1), {"export": COST}, "neither whole counts"),
        (amount(rounding=1), known(billable=1), {"export": COST}, "rounded to cents"),
        (amount(), known(), {"export": COST}, "a cost without counts"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_attributed(theirs: Sums, ours: Known, changes: dict[str, Any], why: str) -> None:
    """Each reason alone is enough."""
    told = asked(theirs, ours, **changes)
    assert isinstance(told, str)
    assert why in told


def test_what_can() -> None:
    """Counts are the rest of the day; an amount is one attempt's that has the day to itself."""
    match = asked(counted(), known(counts=dict.fromkeys(COUNTS, 2)))
    assert isinstance(match, Match)
    (row,) = match.usage
    assert {3} == {getattr(row, name) for name in COUNTS}
    assert (HAIKU, "standard", None) == (row.model, row.service_tier, match.cost_nano_usd)
    zero = asked(counted(0), known())
    assert isinstance(zero, Match)
    alone = asked(amount(), known(billable=1), export=COST)
    assert isinstance(alone, Match)
    assert (Fraction(77, 2), ()) == (alone.cost_nano_usd, alone.usage)


@pytest.mark.parametrize(
    ("ours", "theirs", "agrees"),
    [
        (known(unknown=0, uncounted=0, counts=dict.fromkeys(COUNTS, 5)), counted(), True),
        (known(unknown=0, uncounted=0), counted(), False),
        (known(counts=dict.fromkeys(COUNTS, 5)), counted(), False),
        (known(unknown=0, uncounted=0, running=1, counts=dict.fromkeys(COUNTS, 5)), counted(), False),
        (known(unknown=0, cost_nano_usd=38), amount(), True),
        (known(unknown=0, cost_nano_usd=41), amount(), False),
        (known(unknown=0, cost_nano_usd=41), amount(rounding=5), True),
    ],
    ids=["even", "counts", "unknown", "running", "cost", "another cost", "within what was rounded"],
)
def test_what_agrees(ours: Known, theirs: Sums, agrees: bool) -> None:  # noqa: FBT001 - a column of the table
    """Equal counts, costs within their rounding, nothing unknown and nothing running."""
    assert agrees == Day((DAY, "anthropic", HAIKU), ours, theirs).agrees


@settings(max_examples=40)
@given(st.integers(0, 10**7), st.integers(0, 10**5), st.integers(1, 10**6))
def test_a_bound_under_other_prices_is_never_too_low(prompt_bytes: int, system_bytes: int, max_tokens: int) -> None:
    """What was multiplied is no less than what would have been made of the bytes; the same prices change nothing."""

    def bound(which: Callable[[], Any], model: tuple[str, str]) -> int:
        made = upper_bound(which(), *model, prompt_bytes, system_bytes, max_tokens, 0)
        assert made is not None
        return made

    haiku, flash = ("anthropic", HAIKU), ("gemini", FLASH)
    for before, after in (
        ((book, haiku), (dearer, haiku)),
        ((dearer, haiku), (book, flash)),
        ((book, flash), (book, haiku)),
    ):
        old, new = (dearest_of(which(), *model, 0) for which, model in (before, after))
        assert old is not None
        assert new is not None
        found = translated(bound(*before), old, new)
        assert found is not None
        assert found >= bound(*after)
        assert bound(*before) == translated(bound(*before), old, old)
