"""From what a caller asks to a task that can be submitted: checked, pinned to a route, its texts set apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.canonical import canonical, salted_digest
from ledger.envelope import Payload
from ledger.executor.sending import JUDGE_TOKENS
from ledger.parts import ByCaller, TaskRequest, Why
from ledger.policy import Limits, Policy, Step, Tier
from ledger.ports import Ports
from ledger.registry import ModelTier

__all__ = [
    "Draft",
    "Judged",
    "Request",
    "Rules",
    "asked_of",
    "draft",
    "fingerprint",
    "judging",
    "key_digest",
    "same_requests",
]

SUBJECT: Final = "subject"
BY_CALLER: Final = ByCaller(kind="caller")


@dataclass(frozen=True, slots=True)
class Judged:
    """What a validation is about: a text, and the task, attempt and tier that gave it, if it was one of ours."""

    output: str
    task_id: str | None = None
    attempt: int | None = None
    tier: Tier | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One dispatch as asked for; None is the configuration's value."""

    tier: Tier
    prompt: str
    max_tokens: int | None = None
    retry_count: int | None = None
    system: str | None = None
    timeout_s: float | None = None
    key: str | None = None
    default_key: str | None = None
    """A batch line's digest, where the line has no key of its own."""
    labels: Mapping[str, str] = field(default_factory=dict)
    why: Why = BY_CALLER
    judged: Judged | None = None
    validated: bool = False
    """The answer is judged, and a verdict that asks for it goes up the tiers."""


def judging(task: str, judged: Judged) -> Request:
    """Return the request to judge a text by what it was made for."""
    return Request(tier=ModelTier.SONNET.value, prompt=task, max_tokens=JUDGE_TOKENS, judged=judged)


def asked_of(
    tier: ModelTier,
    prompt: str,
    max_tokens: int | None,
    retry_count: int | None,
    key: str | None,
    labels: Mapping[str, str] | None,
    timeout_s: float | None,
    system: str | None,
) -> Request:
    """Return a request as ``execute`` and ``submit`` are asked for one."""
    named = {} if labels is None else labels
    return Request(tier.value, prompt, max_tokens, retry_count, system, timeout_s, key, labels=named)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration pins a task to."""

    route: tuple[Step, ...]
    judge: tuple[Step, ...]
    ladder: tuple[Step, ...]
    policy: Policy
    limits: Limits
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A task that can be submitted."""

    task_id: str
    request: TaskRequest
    payloads: tuple[Payload, ...]


def draft(request: Request, rules: Rules, ports: Ports, owner: str | None) -> Draft:
    """Pin a checked request to its rules and set its texts apart."""
    payloads: dict[str, Payload] = {}

    def keep(slot: str, text: str | None) -> str | None:
        if text is None:
            return None
        payload = payloads[slot] = Payload(slot, ports.new_salt(), text.encode())
        return salted_digest(payload.salt, payload.content)

    labels = dict(request.labels)
    judged = request.judged
    prompt = keep("prompt", request.prompt) or ""
    task = TaskRequest(
        kind="generation" if judged is None else "validation",
        tier=request.tier,
        why=request.why,
        route=_timed(rules.route, request.timeout_s),
        judge=_timed(rules.judge, request.timeout_s),
        ladder=_timed(rules.ladder, request.timeout_s),
        policy=rules.policy,
        limits=rules.limits,
        max_tokens=rules.max_tokens if request.max_tokens is None else request.max_tokens,
        subject_digest=keep(SUBJECT, labels.pop(SUBJECT, None)),
        labels=labels,
        idempotency_key=request.key,
        key_digest=keep("key", request.default_key),
        fingerprint=keep("fingerprint", fingerprint(request).decode()),
        prompt_digest=prompt,
        system_digest=keep("system", request.system),
        output_digest=None if judged is None else keep("output", judged.output),
        owner=owner,
        replay_of=None,
        judged_task_id=None if judged is None else judged.task_id,
        judged_attempt=None if judged is None else judged.attempt,
    )
    return Draft(ports.new_id(), task, tuple(payloads.values()))


def _timed(steps: tuple[Step, ...], timeout_s: float | None) -> tuple[Step, ...]:
    if timeout_s is None:
        return steps
    return tuple(step.model_copy(update={"timeout_ms": max(1, round(timeout_s * 1000))}) for step in steps)


def fingerprint(request: Request) -> bytes:
    """Return what a key stands for: tier, prompt, system, max_tokens, retries and validation as asked, not labels."""
    texts = {
        "prompt": request.prompt,
        "system": request.system,
        "output": None if request.judged is None else request.judged.output,
    }
    hashed = {name: text and hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    asked = {"tier": request.tier, "max_tokens": request.max_tokens, "retries": request.retry_count, **hashed}
    # Only where it is asked for: what other requests are known by has never had it.
    return canonical(asked | {"validated": True} if request.validated else asked)


def same_requests(request: Request, rules: Rules, pinned: TaskRequest) -> tuple[Request, ...]:
    """Return the request and those that mean the same: what was left open, and what the task is pinned to, said."""
    steps = rules.route or rules.judge
    pinned_steps = pinned.route or pinned.judge
    tokens, retries = {request.max_tokens}, {request.retry_count}
    if (request.max_tokens or rules.max_tokens) == pinned.max_tokens:
        tokens |= {None, pinned.max_tokens}
    if steps[0].tries == pinned_steps[0].tries:
        retries |= {None, steps[0].tries - 1}
    return tuple(replace(request, max_tokens=most, retry_count=count) for most in tokens for count in retries)


def key_digest(request: Request, salt: bytes) -> bytes | None:
    """Return what the ledger finds the task by: the caller's key, else a batch's default one, under the salt."""
    if request.key is not None:
        return bytes.fromhex(salted_digest(salt, b"key\n" + request.key.encode()))
    if request.default_key is not None:
        return bytes.fromhex(salted_digest(salt, b"line\n" + request.default_key.encode()))
    return None
