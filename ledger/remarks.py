"""What is worth knowing about the configured models before they cost anything; never a refusal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from clients.anthropic_models import SdkModels
from clients.gemini_models import KNOWN, REWRITTEN
from ledger.config import Config
from ledger.registry import ModelRegistry, ModelTier

__all__ = ["Remark", "remarks"]


@dataclass(frozen=True, slots=True)
class Remark:
    """A model that may not be what the tier's owner thinks."""

    tier: str
    model: str
    kind: Literal["rewritten", "unknown", "deprecated"]
    said: str
    advice: str


def remarks(
    config: Config, sdk: SdkModels | None = None, *, tiers: Collection[str] | None = None
) -> tuple[Remark, ...]:
    """Return what is to be said of the tiers' models.

    Args:
        config: the configuration.
        sdk: the Anthropic SDK's tables; without them nothing is said of its models, since reading them takes seconds.
        tiers: those that tasks are to begin with; what they may be handed to counts too. None is all.
    """
    registry = ModelRegistry(config)
    asked = [tier.value for tier in ModelTier] if tiers is None else tiers
    concerned = {step.tier for tier in asked for step in registry.route(tier)}
    entries = [registry.entry(tier) for tier in ModelTier if tier.value in concerned]
    return tuple(
        remark
        for entry in entries
        for remark in (
            *(_gemini(entry.tier.value, entry.model) if entry.provider == "gemini" else ()),
            *(_anthropic(entry.tier.value, entry.model, sdk) if entry.provider == "anthropic" and sdk else ()),
        )
    )


def _gemini(tier: str, model: str) -> Iterator[Remark]:
    if model in REWRITTEN:
        sent = REWRITTEN[model]
        said = f"tiers.{tier}: the Gemini CLI silently asks for {sent} where it is told {model}"
        yield Remark(tier, model, "rewritten", said, f'write model = "{sent}" if that is what you want')
    elif model.startswith("auto"):
        said = f"tiers.{tier}: {model} lets the Gemini CLI choose by extra, billed calls; each task will fail"
        yield Remark(tier, model, "unknown", said, "name one model")
    elif model not in KNOWN:
        yield _unknown(tier, model, "the Gemini CLI", KNOWN)


def _anthropic(tier: str, model: str, sdk: SdkModels) -> Iterator[Remark]:
    if model in sdk.deprecated:
        said = f"tiers.{tier}: the Anthropic SDK calls {model} deprecated; it ends on {sdk.deprecated[model]}"
        yield Remark(tier, model, "deprecated", said, "choose a newer model")
    elif sdk.known and model not in sdk.known:
        yield _unknown(tier, model, f"the Anthropic SDK {sdk.version}", sdk.known)


def _unknown(tier: str, model: str, who: str, known: frozenset[str]) -> Remark:
    near = get_close_matches(model, sorted(known), n=1)
    advice = f"did you mean {near[0]}?" if near else "check the name; a new model may well be right"
    return Remark(tier, model, "unknown", f"tiers.{tier}: {who} does not know {model}, and will ask for it", advice)
