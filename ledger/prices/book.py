"""A price book: dated prices of models by provider, as canonical JSON text that its SHA-256 names.

The text is all there is: a book read back from ``price_book.published`` prices an attempt as it was priced then.

::

    {"book": 1, "names": {"gemini": "google"}, "providers": {"google": [model, …], …}}
    model   {"id", "match": clause, "prices": [{"when", "rates"}, …], "variants": [{"for", "when", "rates"}, …], "geos"}
    when    null, {"from_ms"}, or {"daily_ms": [from, to]} of the UTC day, past midnight where to < from
    rates   {"input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "output", "output_reasoning"}

A model is the first of its provider's whose clause fits; without prices it is unpriced. Of its prices the last whose
``when`` holds is in force, else the first. A variant's rates replace the price's own, key by key, the first that fits
winning. A rate that is left out is the next broader one's (a cache read costs what input costs); NULL is a rate that
nobody knows. ``geos`` are factors on every rate by place of inference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import orjson

from ledger.canonical import canonical
from ledger.errors import EventInvalid
from ledger.prices.matching import Clause, check_clause, dashed, matches
from ledger.prices.rates import Rate, read_exact, read_rate

__all__ = ["FORMAT", "PARTS", "Dated", "Model", "PriceBook", "Rates", "Variant", "When", "read_book", "written_book"]

FORMAT: Final = 1
PARTS: Final = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "output_reasoning",
)
DAY_MS: Final = 86_400_000

Rates = Mapping[str, Rate | None]


@dataclass(frozen=True, slots=True)
class When:
    """From an instant on, or between two times of every UTC day; the end is outside."""

    from_ms: int | None = None
    daily_ms: tuple[int, int] | None = None

    def holds(self, at_ms: int) -> bool:
        """Say whether it holds at an instant."""
        if self.daily_ms is None:
            return self.from_ms is None or at_ms >= self.from_ms
        start, end = self.daily_ms
        of_day = at_ms % DAY_MS
        return of_day >= start or of_day < end if end < start else start <= of_day < end


@dataclass(frozen=True, slots=True)
class Dated:
    """Rates and when they hold."""

    when: When
    rates: Rates


@dataclass(frozen=True, slots=True)
class Variant:
    """Rates that replace a model's own for some requests, as those of a service tier."""

    fits: Mapping[str, str]
    when: When
    rates: Rates


@dataclass(frozen=True, slots=True)
class Model:
    """A model's prices."""

    id: str
    match: Clause
    prices: tuple[Dated, ...]
    variants: tuple[Variant, ...]
    geos: Mapping[str, Fraction]

    def standard(self, at_ms: int) -> Rates:
        """Return the rates in force at an instant, whatever the request."""
        dated = next((price for price in reversed(self.prices) if price.when.holds(at_ms)), self.prices[0])
        return dated.rates


@dataclass(frozen=True, slots=True, eq=False)
class PriceBook:
    """A book that was read; two are the same where their digests are.

    Attributes:
        text: its canonical JSON.
        digest: the SHA-256 of the text, in hex: events' ``price_book``.
    """

    text: str
    digest: str
    names: Mapping[str, str]
    providers: Mapping[str, tuple[Model, ...]]
    worked_out: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)
    """What ``ledger.prices.quotes`` remembers of it."""

    def model(self, provider: str, name: str) -> Model | None:
        """Return the model that a provider means by a name, or None where the book has no price for it."""
        return _found(self, self.names.get(provider, provider), name)


# A name is looked for through some seventy clauses, a tenth of a millisecond and more, and it is always the same few.
@lru_cache(maxsize=256)
def _found(book: PriceBook, provider: str, name: str) -> Model | None:
    models, lower = book.providers.get(provider, ()), name.lower()
    for spelling in dict.fromkeys((lower, dashed(lower))):
        for model in models:
            if matches(model.match, spelling):
                return model if model.prices else None
    return None


def written_book(names: Mapping[str, str], providers: Mapping[str, Any]) -> PriceBook:
    """Return the book with these models.

    Raises:
        EventInvalid: they are no book.
    """
    return read_book(canonical({"book": FORMAT, "names": dict(names), "providers": dict(providers)}).decode())


def read_book(text: str) -> PriceBook:
    """Read a book's text.

    Raises:
        EventInvalid: it is no book, or one of a newer form.
    """
    try:
        written = orjson.loads(text)
        if written["book"] != FORMAT:
            raise EventInvalid(f"a price book of form {written['book']!r}; this version reads {FORMAT}")
        models = {name: tuple(_model(one) for one in listed) for name, listed in written["providers"].items()}
        names = {str(name): str(source) for name, source in written["names"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EventInvalid(f"no price book can be read: {error}") from error
    return PriceBook(text, hashlib.sha256(text.encode()).hexdigest(), names, models)


def _model(written: Mapping[str, Any]) -> Model:
    prices = tuple(Dated(_when(one["when"]), _rates(one["rates"])) for one in written["prices"])
    return Model(
        id=written["id"],
        match=check_clause(written["match"]),
        prices=prices,
        variants=tuple(Variant(one["for"], _when(one["when"]), _rates(one["rates"])) for one in written["variants"]),
        geos={geo: read_exact(factor) for geo, factor in written["geos"].items()},
    )


def _when(written: Any) -> When:
    match written:
        case None:
            return When()
        case {"from_ms": int(from_ms)}:
            return When(from_ms=from_ms)
        case {"daily_ms": [int(start), int(end)]}:
            return When(daily_ms=(start, end))
    raise ValueError(f"{written!r} is no time")


def _rates(written: Mapping[str, Any]) -> Rates:
    if unknown := written.keys() - set(PARTS):
        raise ValueError(f"rates of {', '.join(sorted(unknown))}")
    return {part: None if rate is None else read_rate(rate) for part, rate in written.items()}
