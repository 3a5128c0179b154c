"""``[prices]`` of the configuration: prices of our own, by ``"provider/model"``, in USD for a million tokens.

::

    [prices."anthropic/claude-haiku-5-5"]
    input_usd_per_mtok = 0.10
    output_usd_per_mtok = 0.50
    above = [{ input_tokens = 100_000, input_usd_per_mtok = 0.50, output_usd_per_mtok = 2.50 }]

    [prices."anthropic/claude-opus-5-5"]        # the source's prices, and a factor by place of inference
    inference_geo = { us = 1.1 }
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = ["PriceTable", "PricesTable", "RatesTable", "StepTable"]


def _priced(name: str) -> str:
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise ValueError('expected "provider/model"')
    return name


def _number(most: int, decimals: int, what: str) -> BeforeValidator:
    """Check a number from 0 on, exact to so many decimals, and keep it as the decimal that a person would write."""
    expected = f"{what} from 0 to {most:_} with at most {decimals} decimals"

    def check(value: Any) -> Decimal:
        if isinstance(value, float):
            value = Decimal(float.__repr__(value))
        exact = Decimal(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else Decimal("nan")
        if not exact.is_finite() or not 0 <= exact <= most or exact != round(exact, decimals):
            raise ValueError(f"expected {expected}")
        return exact

    return BeforeValidator(check)


Usd = Annotated[Decimal, _number(1_000_000, 9, "a number of USD")]
Factor = Annotated[Decimal, _number(100, 6, "a factor"), Field(gt=0)]


class RatesTable(BaseModel):
    """The prices of each kind of token; a cache price that is left out is unknown, not that of other input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_usd_per_mtok: Usd | None = None
    output_usd_per_mtok: Usd | None = None
    cache_read_usd_per_mtok: Usd | None = None
    cache_write_5m_usd_per_mtok: Usd | None = None
    cache_write_1h_usd_per_mtok: Usd | None = None


class StepTable(RatesTable):
    """What a whole request with more input tokens than ``input_tokens`` is charged; the rest stays as it is."""

    input_tokens: Annotated[int, Field(ge=0, le=10**12)]


class PriceTable(RatesTable):
    """``[prices."provider/model"]``: replaces what the source says of this model, service tiers included.

    Without input and output prices the source's stay, and ``inference_geo`` is added to them.
    """

    above: tuple[StepTable, ...] = ()
    inference_geo: dict[str, Factor] = {}
    """A factor on every price by place of inference, as ``us = 1.1``."""

    @model_validator(mode="after")
    def _whole(self) -> PriceTable:
        has_prices = self.input_usd_per_mtok is not None and self.output_usd_per_mtok is not None
        rates = (getattr(self, name) for name in RatesTable.model_fields)
        only_geo = self.inference_geo and not self.above and all(rate is None for rate in rates)
        if not has_prices and not only_geo:
            raise ValueError("expected input_usd_per_mtok and output_usd_per_mtok, or inference_geo alone")
        sizes = [step.input_tokens for step in self.above]
        if sizes != sorted(set(sizes)):
            raise ValueError("expected steps in ascending input_tokens")
        return self


PricesTable = dict[Annotated[str, AfterValidator(_priced)], PriceTable]
