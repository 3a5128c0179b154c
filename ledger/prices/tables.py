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
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = ["PriceTable", "PricesTable", "RatesTable", "StepTable"]


def _priced(name: str) -> str:
    provider, slash, model = name.partition("/")
    if not (provider and slash and model):
        raise ValueError('expected "provider/model"')
    return name


Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, decimal_places=9)]
Factor = Annotated[Decimal, Field(gt=0, le=100, decimal_places=6)]


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
        only_geo = self.inference_geo and not self.above and self.model_fields_set == {"inference_geo"}
        if not has_prices and not only_geo:
            raise ValueError("expected input_usd_per_mtok and output_usd_per_mtok, or inference_geo alone")
        sizes = [step.input_tokens for step in self.above]
        if sizes != sorted(set(sizes)):
            raise ValueError("expected steps in ascending input_tokens")
        return self


PricesTable = dict[Annotated[str, AfterValidator(_priced)], PriceTable]
