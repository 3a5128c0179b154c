"""The tables of the configuration, as the file has them: frozen, closed, with every default.

Durations are in seconds, as written; ``ledger.registry`` turns them into the integers that a task is pinned to.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, model_validator

from ledger.config import values
from ledger.config.refusals import Circle
from ledger.policy import Tier

__all__ = [
    "AnthropicTable",
    "BreakersTable",
    "EscalationTable",
    "ForeignTable",
    "GeminiTable",
    "ProviderTable",
    "ProvidersTable",
    "RedactTable",
    "RetryTable",
    "SimulatedModelTable",
    "SimulatedTable",
    "Table",
    "TelemetryTable",
    "TierTable",
    "TiersTable",
    "circle",
]

TIERS: Final[tuple[Tier, ...]] = get_args(Tier)

Wait = Annotated[Decimal, values.number("0", "604800", "seconds from {} to {} (7 days)"), values.AS_NUMBER]
Timeout = Annotated[Decimal, values.number("0.001", "86400", "seconds from {} to {} (24 hours)"), values.AS_NUMBER]
Factor = Annotated[Decimal, values.number("1", "100"), values.AS_NUMBER]
Share = Annotated[Decimal, values.number("0", "1"), values.AS_NUMBER]
Concurrency = Annotated[int, values.whole(1, 1000)]
Fallback = Annotated[Tier | None, values.fallback(TIERS)]
Rungs = Annotated[tuple[Annotated[Tier, values.choice(*TIERS)], ...], values.once]


class Table(BaseModel):
    """A table whose keys are all known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RetryTable(Table):
    """``[retry]``: how failures are answered, and what a request that does not say gets."""

    retry_count: Annotated[int, values.whole(0, 100)] = 2
    """Retries after the first try on the first step."""
    max_tokens: Annotated[int, values.whole(1, 10_000_000)] = 4096
    backoff_initial_s: Wait = Decimal("1.0")
    backoff_multiplier: Factor = Decimal("2.0")
    backoff_max_s: Wait = Decimal("60.0")
    jitter: Share = Decimal("0.2")
    retry_after_max_s: Wait = Decimal("300.0")
    """A longer retry-after of the provider ends the step."""
    on_unknown: Annotated[Literal["retry", "hold", "fail"], values.choice("retry", "hold", "fail")] = "retry"
    max_orphans: Annotated[int, values.whole(0, 1000)] = 5
    on_truncated: Annotated[Literal["accept", "retry", "fail"], values.choice("accept", "retry", "fail")] = "accept"


class TierTable(Table):
    """``[tiers.…]``: who answers for a tier."""

    provider: Annotated[str, values.provider]
    model: Annotated[str, values.text("a model's name")]
    fallback: Fallback = None
    """The tier after this one; "none" in a file, which takes a built-in one away."""
    timeout_s: Timeout = Decimal(120)


BUILT_IN: Final[Mapping[str, TierTable]] = {
    "flash": TierTable(provider="gemini", model="gemini-2.5-flash", fallback="haiku", timeout_s=Decimal(30)),
    "pro": TierTable(provider="gemini", model="gemini-2.5-pro"),
    "haiku": TierTable(provider="anthropic", model="claude-haiku-5-5", timeout_s=Decimal(30)),
    "sonnet": TierTable(provider="anthropic", model="claude-sonnet-5-5"),
    "opus": TierTable(provider="anthropic", model="claude-opus-5-5"),
}


class TiersTable(Table):
    """``[tiers]``: all five; what a file leaves out of one is built in."""

    flash: TierTable = BUILT_IN["flash"]
    pro: TierTable = BUILT_IN["pro"]
    haiku: TierTable = BUILT_IN["haiku"]
    sonnet: TierTable = BUILT_IN["sonnet"]
    opus: TierTable = BUILT_IN["opus"]

    @model_validator(mode="before")
    @classmethod
    def _merge(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {
            name: {**BUILT_IN[name].model_dump(), **tier} if name in TIERS and isinstance(tier, Mapping) else tier
            for name, tier in given.items()
        }

    @model_validator(mode="after")
    def _end(self) -> TiersTable:
        chain = circle(self)
        if chain is not None:
            raise Circle(chain)
        return self


def circle(tiers: TiersTable) -> tuple[str, ...] | None:
    """Return the first fallback chain that comes back to a tier, with that tier at both ends, or None."""
    for first in TIERS:
        chain: list[str] = []
        name: Tier | None = first
        while name is not None and name not in chain:
            chain.append(name)
            name = getattr(tiers, name).fallback
        if name == first:
            return (*chain, first)
    return None


class ProviderTable(Table):
    """A provider's limits and what its clients are made with."""

    concurrency: Concurrency = 8
    """Calls at once, over all processes that share the ledger."""

    def settings(self) -> dict[str, Any]:
        """Return what the provider's clients are made with: everything but ``concurrency``."""
        return self.model_dump(exclude={"concurrency"})


class GeminiTable(ProviderTable):
    """``[providers.gemini]``: the CLI."""

    command: Annotated[str, values.text("a command", most=1024, blanks=True)] = "gemini"
    mode: Annotated[Literal["process", "warm"], values.choice("process", "warm")] = "warm"
    """A process a call, or one that is kept for many."""
    concurrency: Concurrency = 2


class AnthropicTable(ProviderTable):
    """``[providers.anthropic]``: the SDK."""

    transport: Annotated[Literal["aiohttp", "httpx"], values.choice("aiohttp", "httpx")] = "aiohttp"
    """What carries its requests; httpx where aiohttp is not installed or the environment names a proxy."""
    concurrency: Concurrency = 16


class SimulatedModelTable(Table):
    """``[providers.simulated.models.…]``: how one simulated model behaves."""

    latency_ms: Annotated[tuple[int, int], values.latency] = (20, 80)
    failures: Annotated[dict[Annotated[str, values.error_type], Share], values.chances] = {}
    """The chance of each error type."""
    script: tuple[Annotated[Any, values.outcome], ...] = ()
    """How the first calls with each prompt end."""


class SimulatedTable(SimulatedModelTable, ProviderTable):
    """``[providers.simulated]``: how a model behaves that costs nothing."""

    seed: Annotated[int, values.whole(-(2**63), 2**63 - 1, "a whole number of 64 bits")] = 0
    models: dict[str, SimulatedModelTable] = {}
    concurrency: Concurrency = 64

    def settings(self) -> dict[str, Any]:
        """Return only what was written, since a model's own table overrides the rest key by key."""
        return self.model_dump(exclude={"concurrency"}, exclude_unset=True)


class ForeignTable(ProviderTable):
    """``[providers."package.module:factory"]``: whatever its factory takes."""

    model_config = ConfigDict(extra="allow")


class ProvidersTable(Table):
    """``[providers]``: three that are built in, and foreign ones under the name of their factory."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, values.provider_table], ForeignTable]

    gemini: GeminiTable = GeminiTable()
    anthropic: AnthropicTable = AnthropicTable()
    simulated: SimulatedTable = SimulatedTable()

    def named(self, provider: str) -> ProviderTable:
        """Return a provider's table, the defaults where it has none."""
        if provider in values.PROVIDERS:
            table: ProviderTable = getattr(self, provider)
            return table
        return (self.__pydantic_extra__ or {}).get(provider, ForeignTable())


class BreakersTable(Table):
    """``[breakers]``: one for each provider and model."""

    failures: Annotated[int, values.whole(0, 10_000)] = 20
    """In a row, from at least 3 tasks, until one opens; 0 is none."""
    open_s: Wait = Decimal("5.0")
    open_max_s: Wait = Decimal("60.0")


class EscalationTable(Table):
    """``[escalation]``: where an answer goes whose verdict asks for a higher tier."""

    ladder: Rungs = ("flash", "haiku", "sonnet", "opus")
    """Upwards. A tier that is no rung goes to those abler than it: pro, which stands beside haiku, to sonnet."""


class TelemetryTable(Table):
    """``[telemetry]``: who else is told."""

    opentelemetry: bool = False


class RedactTable(Table):
    """``[redact]``: what else is a secret and must not be written down."""

    patterns: Annotated[tuple[Annotated[str, values.pattern], ...], values.few_patterns] = ()
    """Regular expressions of bounded length, for providers' messages and the like; prompts and answers stay exact."""
