"""Whether this machine can dispatch, and what to do where it cannot; nothing is sent and nothing is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clients.anthropic_models import SdkModels
from ledger.config import Config, resolve_ledger
from ledger.config.load import load
from ledger.doctor import machine
from ledger.doctor.findings import Finding, Level
from ledger.doctor.place import Place, look
from ledger.doctor.providers import Hindrance, Probed, anthropic_sdk, probe_gemini, tell_models, unready
from ledger.errors import ConfigurationError, DispatchError
from ledger.ports import Ports
from ledger.registry import Entry, ModelRegistry, ModelTier

__all__ = ["Examination", "Finding", "examine"]

BUILT_IN: Final = "the built-in defaults"


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was looked at."""

    findings: tuple[Finding, ...]
    tiers: Mapping[str, str | None]
    """From a tier to what keeps its own provider from being called, None where nothing does."""

    @property
    def can_dispatch(self) -> bool:
        """Whether at least one tier can be called and recorded."""
        return not any(found.level == "stop" for found in self.findings)


async def examine(
    config: str | None = None,
    ledger: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    ports: Ports | None = None,
) -> Examination:
    """Look at everything that a dispatch needs; a configuration that cannot be used is a finding as well.

    Args:
        config: the file, when the caller names one.
        ledger: the ledger, likewise.
        environ: the environment of configuration and keys.
        ports: clock and sleep; the real ones by default.
    """
    now_ms = (ports or Ports()).now_ms
    since_ms, since_s = now_ms(), time.monotonic()
    found = [machine.python(), machine.packages(), machine.sqlite()]
    configured, finding = _configured(config, environ)
    found.append(finding)
    place = await _place(ledger, configured, environ, now_ms)
    found += [*place.findings, machine.keys(environ)]
    registry = ModelRegistry(configured)
    entries = [registry.entry(tier) for tier in ModelTier]
    found += await _providers(registry, entries)
    kept = {entry.tier.value: await unready(entry, registry) for entry in entries}
    found += _tiers(entries, kept)
    stepped_ms = now_ms() - since_ms - round((time.monotonic() - since_s) * 1000)
    found.append(machine.clock(now_ms(), place.newest_ms, stepped_ms))
    return Examination(tuple(found), {tier: None if why is None else why.said for tier, why in kept.items()})


def _configured(named: str | None, environ: Mapping[str, str]) -> tuple[Config, Finding]:
    try:
        loaded = load(named, environ=environ)
    except ConfigurationError as error:
        advice = "mend it; everything below was looked at with the built-in defaults"
        return Config(), Finding("configuration", "stop", str(error), advice)
    said = f"{loaded.source or BUILT_IN}; `dispatch-ledger config` shows it"
    return loaded.config, Finding("configuration", "ok", said)


async def _place(ledger: str | None, config: Config, environ: Mapping[str, str], now_ms: Callable[[], int]) -> Place:
    try:
        url = resolve_ledger(ledger, config, environ)
    except DispatchError as error:
        return Place((Finding("ledger", "stop", str(error), "name one by --ledger, or unset the variable"),))
    return await look(url, now_ms)


async def _providers(registry: ModelRegistry, entries: Sequence[Entry]) -> list[Finding]:
    """Look at the programs and libraries behind the tiers, and at what their models are."""
    found: list[Finding] = []
    sdk: SdkModels | None = None
    probed: Sequence[Probed] = ()
    models = dict.fromkeys(entry.model for entry in entries if entry.provider == "gemini")
    if models:
        probed, finding = await probe_gemini(tuple(models), registry.settings("gemini"))
        found.append(finding)
    if any(entry.provider == "anthropic" for entry in entries):
        sdk, finding = await anthropic_sdk()
        found.append(finding)
    return found + tell_models(registry, entries, sdk, probed)


def _tiers(entries: Sequence[Entry], tiers: Mapping[str, Hindrance | None]) -> list[Finding]:
    """Say which tiers can be called; that none can is what keeps a machine from dispatching."""
    kept: dict[Hindrance, list[Entry]] = {}
    for entry in entries:
        why = tiers[entry.tier.value]
        if why is not None:
            kept.setdefault(why, []).append(entry)
    level: Level = "warning" if any(why is None for why in tiers.values()) else "stop"
    found = [
        Finding("tiers", level, f"{_names(those)} cannot be called: {why.said}", _way_out(those, why, tiers))
        for why, those in kept.items()
    ]
    return found or [Finding("tiers", "ok", f"{_names(entries)} can be called")]


def _names(entries: Sequence[Entry]) -> str:
    return ", ".join(entry.tier.value for entry in entries)


def _way_out(entries: Sequence[Entry], why: Hindrance, tiers: Mapping[str, Hindrance | None]) -> str:
    where = " and ".join(f"[tiers.{entry.tier}]" for entry in entries)
    if why.refused:
        return f"until then tasks for {_names(entries)} are refused; mend it, or name another provider in {where}"
    handed_on = [
        f"until then {entry.tier} is handed to {entry.fallback}"
        for entry in entries
        if entry.fallback is not None and tiers[entry.fallback.value] is None
    ]
    return "; ".join((*handed_on, f"or name another provider in {where}"))
