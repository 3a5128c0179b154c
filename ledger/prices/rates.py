"""Exact prices: nano-USD for a million tokens, with steps by the size of the input, and how a book writes them.

A book holds integers only. A price is one integer wherever it is a whole number of nano-USD for a million tokens, as
every price of Anthropic and Google is; where the source is finer (some of its figures come from floats and have
eighteen decimals), it is ``[numerator, denominator]`` in lowest terms. So nothing is rounded before an attempt's sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

__all__ = ["MTOK", "Rate", "read_exact", "read_rate", "written_exact", "written_usd"]

MTOK: Final = 1_000_000
"""Tokens that a rate is for."""
NANO: Final = 10**9

Written = int | list[int]


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of one kind of token, in nano-USD for a million.

    ``above`` are steps by ascending size: a request with more input tokens than a step's is charged that step's
    price, all of it.
    """

    base: Fraction
    above: tuple[tuple[int, Fraction], ...] = ()

    def at(self, input_tokens: int) -> Fraction:
        """Return the price in a request of this size."""
        return next((price for start, price in reversed(self.above) if input_tokens > start), self.base)

    def from_size(self, input_tokens: int) -> set[Fraction]:
        """Return every price that a request of this size or a larger one can have."""
        return {self.at(input_tokens)} | {price for start, price in self.above if start >= input_tokens}

    @property
    def dearest(self) -> Fraction:
        """Return the highest price of all sizes."""
        return max(self.base, *(price for _, price in self.above)) if self.above else self.base


def written_exact(value: Fraction) -> Written:
    """Return an exact value as a book has it."""
    return value.numerator if value.denominator == 1 else [value.numerator, value.denominator]


def written_usd(usd: Decimal) -> Written:
    """Return a price in USD as a book has it, in nano-USD."""
    return written_exact(Fraction(usd) * NANO)


def read_exact(value: Any) -> Fraction:
    """Return what ``written_exact`` wrote.

    Raises:
        ValueError: it is something else.
    """
    match value:
        case bool():
            pass
        case int() if value >= 0:
            return Fraction(value)
        case [int(above), int(below)] if above >= 0 and below > 0:
            return Fraction(above, below)
    raise ValueError(f"{value!r} is no price")


def read_rate(value: Any) -> Rate:
    """Return a rate from a book: a price, or ``{"base": price, "above": [[input tokens, price], …]}``.

    Raises:
        ValueError: it is something else.
    """
    match value:
        case {"base": base, "above": [*steps]}:
            above = tuple((int(start), read_exact(price)) for start, price in steps)
            if list(above) != sorted(above, key=lambda step: step[0]):
                raise ValueError(f"{steps!r} are steps out of order")
            return Rate(read_exact(base), above)
        case _:
            return Rate(read_exact(value))
