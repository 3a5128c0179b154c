"""Another policy laid over what a task was pinned to: what its file does not write stays as it was. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.parts import TaskRequest
from ledger.policy import Policy, Step, Tier
from ledger.registry import ModelRegistry

__all__ = ["Asked", "Overlay"]

POLICY: Final[Mapping[str, str]] = {
    "backoff_initial_s": "backoff_initial_ms",
    "backoff_multiplier": "backoff_multiplier_ppm",
    "backoff_max_s": "backoff_max_ms",
    "jitter": "jitter_ppm",
    "retry_after_max_s": "retry_after_max_ms",
    "on_unknown": "on_unknown",
    "max_orphans": "max_orphans",
    "on_truncated": "on_truncated",
}
"""The keys of ``[retry]`` that a task's policy holds, and what they are called there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller named, which no policy changes; None was left to the configuration, or is not known any more."""

    retries: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Overlay:
    """A policy's file: what it writes, and the registries to read that with.

    Attributes:
        written: the tables as they stand in the file.
        own: the registry of the file.
        today: the configuration's, for a tier that neither the task nor the file knows.
    """

    written: Mapping[str, Any]
    own: ModelRegistry
    today: ModelRegistry

    def request(self, pinned: TaskRequest, asked: Asked) -> TaskRequest:
        """Return a task's request with this policy's route and rules."""
        changes: dict[str, Any] = {"policy": self._policy(pinned.policy)}
        if pinned.route:
            first, *others = self._route(pinned)
            changes["route"] = (self._tried(first, asked), *others)
        # A rung has the retries that the caller named, a judge always those of the configuration.
        changes["judge"] = tuple(self._tried(self._step(step), Asked()) for step in pinned.judge)
        changes["ladder"] = tuple(self._tried(self._step(step), asked) for step in pinned.ladder)
        return pinned.model_copy(update=changes)

    def other_tokens(self, pinned: TaskRequest, asked: Asked) -> bool:
        """Say whether the task's calls would have had another limit of tokens."""
        return (
            "max_tokens" in self._retry
            and bool(pinned.route)  # a judge's limit is its own
            and asked.max_tokens is None
            and self.own.config.retry.max_tokens != pinned.max_tokens
        )

    @property
    def _retry(self) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self.written.get("retry", {})
        return table

    def _tier(self, tier: Tier) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self.written.get("tiers", {}).get(tier, {})
        return table

    def _policy(self, pinned: Policy) -> Policy:
        mine = self.own.policy()
        names = [name for key, name in POLICY.items() if key in self._retry]
        return pinned.model_copy(update={name: getattr(mine, name) for name in names})

    def _tried(self, step: Step, asked: Asked) -> Step:
        """Give a step the retries that the file writes, unless the caller had named some."""
        if "retry_count" not in self._retry or asked.retries is not None:
            return step
        return step.model_copy(update={"tries": 1 + self.own.config.retry.retry_count})

    def _route(self, pinned: TaskRequest) -> Iterator[Step]:
        """Follow the fallbacks: the file's, else the task's own, else today's."""
        steps = {step.tier: step for step in reversed(pinned.route)}
        after = {step.tier: following.tier for step, following in zip(pinned.route, pinned.route[1:], strict=False)}
        seen: set[Tier] = set()
        tier: Tier | None = pinned.tier
        while tier is not None and tier not in seen:
            seen.add(tier)
            yield self._step(steps[tier]) if tier in steps else self._step(self._today(tier))
            if tier in steps and "fallback" not in self._tier(tier):
                tier = after.get(tier)
                continue
            registry = self.own if "fallback" in self._tier(tier) else self.today
            named = registry.entry(tier).fallback
            tier = None if named is None else named.value

    def _step(self, step: Step) -> Step:
        entry, table = self.own.entry(step.tier), self._tier(step.tier)
        changes: dict[str, Any] = {name: getattr(entry, name) for name in ("provider", "model") if name in table}
        if "timeout_s" in table:
            changes["timeout_ms"] = entry.timeout_ms
        return step.model_copy(update=changes)

    def _today(self, tier: Tier) -> Step:
        entry = self.today.entry(tier)
        return Step(tier=tier, provider=entry.provider, model=entry.model, tries=1, timeout_ms=entry.timeout_ms)
