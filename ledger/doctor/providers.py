"""The tiers' providers: whether each could be called now, asked without sending anything to anybody."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clients.anthropic_models import SdkModels, sdk_models
from clients.base import ExecutionResult, ModelClient
from clients.errors import ClientUnready
from clients.gemini_lockdown import LIMIT, PROMPT, SYSTEM, Sent, departures, loopback
from ledger.composition import build_client
from ledger.doctor.findings import Finding
from ledger.errors import DispatchError
from ledger.registry import Entry, ModelRegistry
from ledger.remarks import Remark, remarks

__all__ = ["Hindrance", "Probed", "anthropic_sdk", "probe_gemini", "tell_models", "unready"]

PROBE_TIMEOUT_S: Final = 60.0
PREPARE_TIMEOUT_S: Final = 30.0
PROBES_AT_ONCE: Final = 2
"""Each starts a process of two CPU-seconds and some 200 MB."""
ELSEWHERE: Final = "it needs Node.js 20 or later; if it is installed, say where in providers.gemini.command"
UPGRADE: Final = "install a version that was tried: npm install -g @google/gemini-cli@0.61.0"


@dataclass(frozen=True, slots=True)
class Probed:
    """What one call of the real CLI to a loopback port showed."""

    asked: str
    result: ExecutionResult
    sent: tuple[Sent, ...]
    seconds: float
    kept: bool = False
    """By a process for many calls."""
    why_not_kept: str | None = None
    """What kept such a process, which was wanted, from taking the call."""

    @property
    def rewritten(self) -> str | None:
        """The model that was asked for instead, if it was another one."""
        models = [one.model for one in self.sent if one.model]
        return models[0] if models and models[0] != self.asked else None


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What keeps a tier's own provider from being called."""

    said: str
    refused: bool = False
    """Its tasks are refused, where else each would fail and go to its fallback."""


async def unready(entry: Entry, registry: ModelRegistry) -> Hindrance | None:
    """Say what keeps a tier's own provider from being called, None if nothing does."""
    settings = registry.settings(entry.provider)
    if entry.provider == "gemini":
        settings = {**settings, "mode": "process"}  # which needs the same, and starts nothing
    try:
        client = build_client(entry.provider, entry.model, settings)
    except (DispatchError, ValueError) as error:
        return Hindrance(str(error), refused=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say of a model is a finding of its own
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                if hasattr(client, "prepare"):
                    await client.prepare("ready?")
    except TimeoutError:
        return Hindrance(f"its client was not ready within {PREPARE_TIMEOUT_S:g} s")
    except Exception as error:  # noqa: BLE001 - whatever a client of somebody else's raises is the finding
        return Hindrance(str(error) or type(error).__name__)
    finally:
        await _closed(client)
    return None


async def _closed(client: ModelClient) -> None:
    if hasattr(client, "aclose"):
        await client.aclose()


async def anthropic_sdk() -> tuple[SdkModels | None, Finding]:
    """Import the Anthropic SDK, as the first call would."""
    started_at = time.monotonic()
    try:
        sdk = await asyncio.to_thread(sdk_models)
    except ClientUnready as error:
        return None, Finding("anthropic", "warning", str(error), "pip install 'anthropic>=2.12'")
    seconds = time.monotonic() - started_at
    return sdk, Finding("anthropic", "ok", f"the Anthropic SDK {sdk.version} imports, in {seconds:.1f} s")


async def probe_gemini(models: Sequence[str], settings: Mapping[str, Any]) -> tuple[tuple[Probed, ...], Finding]:
    """Call the real CLI once for each model, against a port of our own, and say whether the lock-down holds."""
    places = asyncio.Semaphore(PROBES_AT_ONCE)

    async def probe(model: str) -> Probed:
        async with places, loopback() as port:
            env = port.env(os.environ.get("PATH", os.defpath))
            client = build_client("gemini", model, {**settings, "env": env})
            started_at = time.monotonic()
            try:
                result = await client.execute(PROMPT, LIMIT, system=SYSTEM, timeout_s=PROBE_TIMEOUT_S)
            finally:
                await _closed(client)
            seconds = time.monotonic() - started_at
            why_not = getattr(client, "why_not_kept", None)
            kept = settings.get("mode") == "warm" and why_not is None
            return Probed(result.model, result, tuple(port.sent), seconds, kept, why_not)

    try:
        probed = tuple(await asyncio.gather(*map(probe, models)))
    except (OSError, ValueError, DispatchError) as error:
        return (), Finding("gemini", "warning", f"the Gemini CLI could not be tried: {error}")
    return probed, _lockdown(probed)


def _lockdown(probed: Sequence[Probed]) -> Finding:
    version = next((sent.version for one in probed for sent in one.sent if sent.version), None)
    name = f"the Gemini CLI {version}" if version else "the Gemini CLI"
    for one in probed:
        if one.result.error_type == "client_missing":
            return Finding("gemini", "warning", str(one.result.error), ELSEWHERE)
        if not one.sent:
            return Finding("gemini", "warning", f"{name} does not work here: {one.result.error}", UPGRADE)
        left = departures(one.sent)
        if left:
            said = f"{name} does not keep to the lock-down: {'; '.join(left)}"
            return Finding("gemini", "warning", said, UPGRADE)
        if not one.result.success:
            return Finding("gemini", "warning", f"{name} does not give its answer: {one.result.error}", UPGRADE)
    seconds = max((one.seconds for one in probed), default=0.0)
    said = f"{name} keeps to the lock-down: one request, no tools, the texts as they are"
    costs = f"costs {seconds:.1f} s beside the model's own time"
    for one in probed:
        if one.why_not_kept is not None:
            why = f"but it cannot be kept warm, so each call {costs}: {one.why_not_kept}"
            return Finding(
                "gemini", "warning", f"{said}; {why}", f'{UPGRADE}, or write providers.gemini.mode = "process"'
            )
    which = "the first call of a process, which is then kept for many," if probed and probed[0].kept else "each call"
    return Finding("gemini", "ok", f"{said}; {which} {costs}")


def tell_models(
    registry: ModelRegistry, entries: Sequence[Entry], sdk: SdkModels | None, probed: Sequence[Probed]
) -> list[Finding]:
    """Say which models may not be what they seem; what the CLI was seen to do goes before what is written of it."""
    seen = {one.asked: one.rewritten for one in probed if one.sent}
    told: list[Remark] = [
        remark for remark in remarks(registry.config, sdk) if not (remark.kind == "rewritten" and remark.model in seen)
    ]
    found = [Finding("models", "warning", remark.said, remark.advice) for remark in told]
    for entry in entries:
        sent = seen.get(entry.model) if entry.provider == "gemini" else None
        if sent is not None:
            said = f"tiers.{entry.tier}: the Gemini CLI silently asks for {sent} where it is told {entry.model}"
            found.append(Finding("models", "warning", said, f'write model = "{sent}" if that is what you want'))
    if not found:
        found = [Finding("models", "ok", ", ".join(f"{entry.tier}: {entry.model}" for entry in entries))]
    return found
