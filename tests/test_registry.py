"""The registry: from a tier to its steps, in integers."""

from __future__ import annotations

import pickle
from decimal import Decimal, localcontext
from typing import Any

import pytest

from clients.simulated import SimulatedClient
from ledger.config import Config
from ledger.errors import ConfigurationError, RequestRefused
from ledger.policy import Limits, Policy, Step, Tier
from ledger.registry import Entry, ModelRegistry, ModelTier, TierUnknown

MODELS: dict[Tier, tuple[str, str, int]] = {
    "flash": ("gemini", "gemini-2.5-flash", 30_000),
    "pro": ("gemini", "gemini-2.5-pro", 120_000),
    "haiku": ("anthropic", "claude-haiku-5-5", 30_000),
    "sonnet": ("anthropic", "claude-sonnet-5-5", 120_000),
    "opus": ("anthropic", "claude-opus-5-5", 120_000),
}


def step(tier: Tier, tries: int) -> Step:
    provider, model, timeout_ms = MODELS[tier]
    return Step(tier=tier, provider=provider, model=model, tries=tries, timeout_ms=timeout_ms)


def registry(**tables: Any) -> ModelRegistry:
    return ModelRegistry(Config.from_mapping(tables))


@pytest.mark.parametrize(
    ("tier", "retry_count", "expected"),
    [
        ("flash", None, (step("flash", 3), step("haiku", 1))),
        ("flash", 0, (step("flash", 1), step("haiku", 1))),
        ("FLASH", 5, (step("flash", 6), step("haiku", 1))),
        ("pro", None, (step("pro", 3),)),
        ("haiku", None, (step("haiku", 3),)),
        (ModelTier.SONNET, None, (step("sonnet", 3),)),
        ("Opus", 1, (step("opus", 2),)),
    ],
    ids=["flash", "no retries", "more retries", "pro", "haiku", "sonnet", "opus"],
)
def test_built_in_routes(tier: str, retry_count: int | None, expected: tuple[Step, ...]) -> None:
    """The first step has the retries; a fallback step has one try."""
    assert expected == ModelRegistry().route(tier, retry_count)


def test_route_follows_every_fallback() -> None:
    """A chain of fallbacks is a step each, with the configuration's retries on the first only."""
    chained = registry(retry={"retry_count": 4}, tiers={"haiku": {"fallback": "opus"}, "opus": {"fallback": "pro"}})
    assert [("flash", 5), ("haiku", 1), ("opus", 1), ("pro", 1)] == [
        (one.tier, one.tries) for one in chained.route("flash")
    ]


def test_sonnet_judges() -> None:
    """The judge is one step of Sonnet, without its fallback."""
    fallback = registry(tiers={"sonnet": {"fallback": "opus"}})
    assert (step("sonnet", 3),) == fallback.judge()
    assert (step("sonnet", 1),) == fallback.judge(0)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("flash", ("haiku", "sonnet", "opus")),
        ("pro", ("sonnet", "opus")),
        ("haiku", ("sonnet", "opus")),
        ("sonnet", ("opus",)),
        ("opus", ()),
    ],
    ids=["flash", "pro", "haiku", "sonnet", "opus"],
)
def test_ladder_leads_upwards(tier: str, expected: tuple[Tier, ...]) -> None:
    """Above a tier stand the stronger ones, each with one try."""
    assert tuple(step(above, 1) for above in expected) == ModelRegistry().ladder(tier)


def test_policy_is_the_configuration_in_integers() -> None:
    """The default policy, in ms and ppm."""
    expected = Policy(
        backoff_initial_ms=1000,
        backoff_multiplier_ppm=2_000_000,
        backoff_max_ms=60_000,
        jitter_ppm=200_000,
        retry_after_max_ms=300_000,
        on_unknown="retry",
        max_orphans=5,
        on_truncated="accept",
    )
    assert expected == ModelRegistry().policy()
    assert Limits(attempts=1000, cost_nano_usd=None) == ModelRegistry().limits()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (0.2, 200_000),
        (0.1, 100_000),
        (0.29, 290_000),
        (Decimal("0.0000005"), 0),
        (Decimal("0.0000015"), 2),
        (Decimal("0.0000025"), 2),
        (Decimal("0.00000250000000000000000000000000001"), 3),
        (Decimal("1e-999999"), 0),
        (1, 1_000_000),
    ],
    ids=str,
)
def test_decimals_are_rounded_half_to_even(written: float | Decimal, expected: int) -> None:
    """A share is exactly what was written, whatever the caller's decimal context is."""
    subject = registry(retry={"jitter": written})
    with localcontext() as context:
        context.prec = 2
        assert expected == subject.policy().jitter_ppm


def test_shortest_timeout_is_a_millisecond() -> None:
    """A timeout never rounds to nothing."""
    assert registry(tiers={"pro": {"timeout_s": 0.001}}).entry("pro").timeout_ms == 1


def test_entry_tells_a_tier() -> None:
    """An entry has the provider, the model, the fallback and the limits."""
    expected = Entry(ModelTier.FLASH, "gemini", "gemini-2.5-flash", ModelTier.HAIKU, 30_000, 2)
    assert expected == ModelRegistry().entry("flash")
    assert ModelRegistry().entry("opus").fallback is None


@pytest.mark.parametrize(
    ("provider", "concurrency", "settings"),
    [
        ("gemini", 2, {"command": "gemini", "mode": "warm"}),
        ("anthropic", 16, {"transport": "aiohttp"}),
        ("simulated", 64, {}),
        ("package.module:make", 8, {}),
        ("my.models:make", 3, {"rate": 0.5, "steps": [1, {"share": 0.25}], "on": True}),
    ],
    ids=["gemini", "anthropic", "simulated", "foreign", "foreign with settings"],
)
def test_providers_have_limits_and_settings(provider: str, concurrency: int, settings: dict[str, Any]) -> None:
    """Settings are the provider's table without its limit, with plain numbers."""
    foreign = {"concurrency": 3, "rate": Decimal("0.5"), "steps": [1, {"share": Decimal("0.25")}], "on": True}
    subject = registry(providers={"my.models:make": foreign})
    assert (concurrency, settings) == (subject.concurrency(provider), subject.settings(provider))


def test_settings_are_the_callers_own() -> None:
    """Changing them changes nothing for the next caller."""
    subject = registry(providers={"my.models:make": {"steps": [1]}})
    subject.settings("my.models:make")["steps"].append(2)
    assert subject.settings("my.models:make") == {"steps": [1]}


def test_simulated_client_takes_its_settings() -> None:
    """All that the table may hold, and only what it holds, reaches the simulated client."""
    table: dict[str, Any] = {
        "seed": 3,
        "latency_ms": [1, 2],
        "failures": {"timeout": 0.25},
        "script": ["ok", {"error_type": "rate_limited", "retry_after_s": Decimal("0.5")}],
        "models": {"m": {"latency_ms": 5}},
    }
    settings = registry(providers={"simulated": {"concurrency": 2, **table}}).settings("simulated")
    assert settings == {
        "seed": 3,
        "latency_ms": [1, 2],
        "failures": {"timeout": 0.25},
        "script": ["ok", {"error_type": "rate_limited", "retry_after_s": 0.5}],
        "models": {"m": {"latency_ms": [5, 5]}},
    }
    assert SimulatedClient.from_settings("m", settings).model == "m"


def test_circle_is_refused_wherever_it_comes_from() -> None:
    """A configuration that went past the checks is refused too."""
    tiers = Config().tiers
    opus = tiers.opus.model_copy(update={"fallback": "opus"})
    circular = Config().model_copy(update={"tiers": tiers.model_copy(update={"opus": opus})})
    with pytest.raises(ConfigurationError, match="the fallbacks make a circle: opus -> opus"):
        ModelRegistry(circular)


@pytest.mark.parametrize("name", ["flash", "FLASH", "Flash", ModelTier.FLASH], ids=repr)
def test_tiers_are_found_in_any_case(name: str) -> None:
    """A tier's name may be written in any case; its value is lower case."""
    assert (ModelTier.FLASH, "flash") == (ModelTier(name), str(ModelTier(name)))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("gpt", "'gpt'"), ("", "''"), ("x" * 41, "a str"), (3, "a int"), (None, "a NoneType")],
    ids=["another", "empty", "long", "number", "None"],
)
def test_unknown_tier_lists_the_tiers(name: Any, shown: str) -> None:
    """A name that no tier has is a refused request and a ValueError, and names all tiers."""
    with pytest.raises(TierUnknown) as refused:
        ModelTier(name)
    assert f"{shown} is no tier, expected one of flash, pro, haiku, sonnet, opus" == str(refused.value)
    assert (True, True) == (isinstance(refused.value, RequestRefused), isinstance(refused.value, ValueError))
    assert refused.value.field == "model_tier"


def test_tiers_travel() -> None:
    """A tier is the same after pickling, as other processes need it."""
    assert ModelTier.PRO is pickle.loads(pickle.dumps(ModelTier.PRO))  # noqa: S301 - our own bytes
