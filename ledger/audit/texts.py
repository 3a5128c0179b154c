"""Checking what stands outside the hashes: texts against their digests, keys against the tasks that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger import events as e
from ledger.canonical import salted_digest
from ledger.envelope import Payload, Stream, issues_slot
from ledger.errors import EventInvalid
from ledger.parts import Outcome, TaskRequest, Verdict
from ledger.store.protocol import Problem

__all__ = ["digests_of", "key_digest", "key_problems", "payload_problems"]


def payload_problems(task_id: str, stream: Stream, payloads: Iterable[Payload]) -> Iterator[Problem]:
    """Check every text against the digest that an event holds of it, and every digest for its text."""
    digests: dict[str, tuple[int, str]] = {}
    erased: set[str] = set()
    for recorded in stream:
        try:
            event = recorded.event()
        except EventInvalid:
            continue
        if isinstance(event, e.PayloadErased):
            erased.add(event.slot)
        digests |= {slot: (recorded.version, digest) for slot, digest in digests_of(event)}
    kept = {payload.slot: payload for payload in payloads}
    for slot, (version, digest) in digests.items():
        payload = kept.pop(slot, None)
        if payload is None and slot not in erased:
            yield Problem("payload", task_id, version, f"the text {slot} is gone, and no event says that it was erased")
        elif payload is not None and salted_digest(payload.salt, payload.content) != digest:
            yield Problem("payload", task_id, version, f"the text {slot} is not the one that its digest was made of")
    for slot in kept:
        yield Problem("payload", task_id, None, f"no event knows the text {slot}")


def digests_of(event: e.Event) -> Iterator[tuple[str, str]]:
    """Yield the slots that an event refers to, with their digests."""
    found: dict[str, str | None] = {}
    if isinstance(event, TaskRequest):
        names = ("prompt", "system", "output", "subject", "key")
        found = {name: getattr(event, f"{name}_digest") for name in names} | {"fingerprint": event.fingerprint}
    elif isinstance(event, Verdict):
        found = {issues_slot(event.judge_attempt): event.issues_digest}
    elif isinstance(event, Outcome):
        found = {f"response/{event.attempt}": event.response_digest}
        if isinstance(event, e.AttemptFailed | e.AttemptSettled):
            found[f"message/{event.attempt}"] = event.message_digest
    for slot, digest in found.items():
        if digest is not None:
            yield slot, digest


def key_digest(stream: Stream, payloads: Iterable[Payload], salt: bytes) -> bytes | None:
    """Return what the ledger should find this task by; None where it has no key, or only an erased one."""
    try:
        submitted = stream[0].event()
    except EventInvalid:
        return None
    if not isinstance(submitted, e.TaskSubmitted):
        return None
    if submitted.idempotency_key is not None:
        return bytes.fromhex(salted_digest(salt, b"key\n" + submitted.idempotency_key.encode()))
    line = next((payload.content for payload in payloads if payload.slot == "key"), None)
    return None if line is None else bytes.fromhex(salted_digest(salt, b"line\n" + line))


def key_problems(task_id: str, stream: Stream, named: str | None) -> Iterator[Problem]:
    """Check that a task's key names it; redaction takes the key away with the texts."""
    # The key of an erased task may name nothing, or a later task.
    if named == task_id or any(recorded.type == e.PayloadErased.TYPE for recorded in stream):
        return
    says = "names no task: the same request would be paid for again" if named is None else f"names task {named}"
    yield Problem("key", task_id, 1, f"the key of this task {says}")
