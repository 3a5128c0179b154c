"""What replaying a task comes to: whether it can be, what its replay is pinned to, and which one there is already.

What is replayed next is found by the ledger's keys: each task's replay stands under a key made of that task's id, so
the ledger takes one only, however many ask at once. A replay that failed is replayed in its turn, and the newest of
such a chain answers for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ledger.canonical import salted_digest
from ledger.config import Config
from ledger.envelope import Payload
from ledger.errors import LedgerCorrupt, RequestRefused, TaskNotFound
from ledger.executor.requests import Draft
from ledger.executor.results import Story, tell
from ledger.parts import ByCaller, TaskRequest, Why
from ledger.policy import Limits, Policy, Step, Tier
from ledger.ports import Ports
from ledger.questions import asked_for
from ledger.registry import ModelRegistry, ModelTier
from ledger.state import Ended
from ledger.store.protocol import Store

__all__ = ["Pinned", "Plan", "Replay", "how_to_replay", "newest_replay", "planned", "replay_draft", "replay_key"]

TEXTS: Final[Mapping[str, str]] = {
    "prompt": "prompt_digest",
    "system": "system_digest",
    "output": "output_digest",
    "subject": "subject_digest",
}
"""What a request is made of, and the fields that say that there was one."""
CHAIN_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Replay:
    """How tasks are replayed."""

    today: ModelRegistry
    """What the executor is configured to."""
    tier: Tier | None = None
    """Another tier to begin with, by today's route; None is the old one's."""
    policy: ModelRegistry | None = None
    """Whose route, policy and limits to pin instead of the old ones."""
    again: bool = False
    """Also where the newest replay has succeeded."""
    asked_at_ms: int | None = None
    """A replay made since then answers as it stands, also if it has failed: this or another run has just made it."""


def how_to_replay(
    today: ModelRegistry, tier: ModelTier | str | None, policy: Config | None, *, again: bool, at_ms: int | None = None
) -> Replay:
    """Return how to replay, as callers say it.

    Raises:
        TierUnknown: no tier has this name.
        ConfigurationError: the policy's fallbacks make a circle.
    """
    named: Tier | None = None if tier is None else ModelTier(tier).value
    registry = None if policy is None else ModelRegistry(policy)
    return Replay(today, named, registry, again, at_ms)


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a replay is pinned to."""

    tier: Tier
    why: Why
    route: tuple[Step, ...]
    judge: tuple[Step, ...]
    ladder: tuple[Step, ...]
    policy: Policy
    limits: Limits
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What replaying a task comes to, before anything is written."""

    old: Story
    texts: Mapping[str, Payload]
    """The old task's, by slot."""
    pinned: Pinned
    newest: Story | None
    """The newest replay there is; None where the task was never replayed."""
    stands: bool
    """The newest replay answers: it has succeeded, goes on still, waits for a person, or was made just now."""

    @property
    def follows(self) -> str:
        """The task whose key the next replay takes: the end of the chain."""
        return self.old.task_id if self.newest is None else self.newest.task_id


async def newest_replay(store: Store, task_id: str) -> str | None:
    """Return the replay at the end of a task's chain, None where it was never replayed.

    Raises:
        LedgerCorrupt: the chain has no end.
    """
    salt, newest = await store.key_salt(), None
    at: str | None = task_id
    for _ in range(CHAIN_MAX):
        at = await store.task_of_key(replay_key(salt, at or ""))
        if at is None:
            return newest
        newest = at
    raise LedgerCorrupt(f"the replays of task {task_id} never end; run `verify`")


async def planned(store: Store, task_id: str, how: Replay) -> Plan:
    """Say what replaying a task comes to.

    Raises:
        TaskNotFound: there is no such task.
        RequestRefused: it cannot be replayed.
    """
    old = tell(task_id, await store.read(task_id))
    if old is None:
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    texts = {payload.slot: payload for payload in await store.payloads(task_id)}
    _refuse(old, texts, how)
    pinned = _pinned(old.task.submitted, texts, how)
    newest_id = await newest_replay(store, task_id)
    if newest_id is None:
        return Plan(old, texts, pinned, None, stands=False)
    stream = await store.read(newest_id)
    newest = tell(newest_id, stream)
    if newest is None:
        raise LedgerCorrupt(f"the replay {newest_id} of task {task_id} is gone; run `verify`")
    fresh = how.asked_at_ms is not None and stream[0].recorded_at_ms >= how.asked_at_ms
    stands = fresh or not isinstance(newest.state, Ended) or (newest.answering is not None and not how.again)
    return Plan(old, texts, pinned, newest, stands=stands)


def _refuse(old: Story, texts: Mapping[str, Payload], how: Replay) -> None:
    submitted, task_id = old.task.submitted, old.task_id
    why = None
    if not isinstance(old.state, Ended):
        why = f"has not ended, it is {old.state_name}; `resume` or `cancel` end it"
    elif not (submitted.route or submitted.judge):
        why = "is a person's verdict; give another one with `validate --task-id`"
    elif any(getattr(submitted, field) is not None and slot not in texts for slot, field in TEXTS.items()):
        why = "was redacted: the texts of its request were erased, so there is nothing to send"
    elif how.tier is not None and submitted.kind == "validation":
        why = "is a validation, which has no tier to choose; leave --tier out"
    if why is not None:
        raise RequestRefused(f"task {task_id} cannot be replayed: it {why}", field="task_id")


def _pinned(submitted: TaskRequest, texts: Mapping[str, Payload], how: Replay) -> Pinned:
    """Return the old one's route and policy, or those asked for instead; what was judged is judged again."""
    tier, why = (submitted.tier, submitted.why) if how.tier is None else (how.tier, ByCaller(kind="caller"))
    if how.tier is None and how.policy is None:
        pinned = submitted.route, submitted.judge, submitted.ladder
        return Pinned(tier, why, *pinned, submitted.policy, submitted.limits, submitted.max_tokens)
    registry = how.policy or how.today
    first = (submitted.route or submitted.judge)[0]
    asked = _asked(texts)
    retries = first.tries - 1 if how.policy is None else asked.get("retries")
    named = asked.get("max_tokens") is not None
    again = registry.config.retry.retry_count if retries is None else retries
    # A judge has the configuration's tries, whatever retries the caller named.
    judge = submitted.judge if how.policy is None or not submitted.judge else registry.judge()
    return Pinned(
        tier,
        why,
        registry.route(tier, retries) if submitted.route else (),
        judge,
        registry.ladder(tier, again) if submitted.ladder else (),
        submitted.policy if how.policy is None else registry.policy(),
        submitted.limits if how.policy is None else registry.limits(),
        submitted.max_tokens if how.policy is None or named else registry.config.retry.max_tokens,
    )


def _asked(texts: Mapping[str, Payload]) -> Mapping[str, Any]:
    """Return what the caller named; what is null or missing was left to the configuration, or is not known."""
    fingerprint = texts.get("fingerprint")
    asked: dict[str, Any] = {} if fingerprint is None else orjson.loads(fingerprint.content)
    return asked


def replay_draft(plan: Plan, ports: Ports, owner: str) -> Draft:
    """Make the replay's task: its texts copied under new salts. Keys stay with the old task, and labels come along."""
    submitted, pinned = plan.old.task.submitted, plan.pinned
    key = Payload("key", ports.new_salt(), _said(plan.follows))
    copies = {
        slot: Payload(slot, ports.new_salt(), plan.texts[slot].content)
        for slot in (*TEXTS, "fingerprint")
        if slot in plan.texts
    }
    digests = {field: _digest(copies.get(slot)) for slot, field in TEXTS.items()}
    changes = {
        "tier": pinned.tier,
        "why": pinned.why,
        "route": pinned.route,
        "judge": pinned.judge,
        "ladder": pinned.ladder,
        "policy": pinned.policy,
        "limits": pinned.limits,
        "max_tokens": pinned.max_tokens,
        "idempotency_key": None,
        "key_digest": _digest(key),
        "fingerprint": _digest(copies.get("fingerprint")),
        "owner": owner,
        "replay_of": plan.old.task_id,
        **digests,
    }
    request = asked_for(submitted).model_copy(update=changes)
    return Draft(ports.new_id(), request, (*copies.values(), key))


def _digest(payload: Payload | None) -> str | None:
    return None if payload is None else salted_digest(payload.salt, payload.content)


def replay_key(salt: bytes, task_id: str) -> bytes:
    """Return what the ledger finds a task's replay by: a default key, as the lines of a batch have them."""
    return bytes.fromhex(salted_digest(salt, b"line\n" + _said(task_id)))


def _said(task_id: str) -> bytes:
    """Return a replay's default key; that of a line is a hexadecimal digest, so no line has one like it."""
    return b"replay of " + task_id.encode()
