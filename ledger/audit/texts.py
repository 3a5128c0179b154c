"""Checking what stands outside the hashes: texts against their digests, keys against the tasks that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger import events as e
from ledger.audit.told import Told
from ledger.canonical import salted_digest
from ledger.envelope import Payload, Stream, issues_slot
from ledger.errors import EventInvalid
from ledger.store.protocol import Problem

__all__ = ["digests_of", "key_digest", "key_problems", "payload_problems"]


def payload_problems(stream: Stream, events: Told, payloads: Iterable[Payload]) -> Iterator[Problem]:
    """Check every text against the digest that an event holds of it, and every digest for its text."""
    task_id = stream[0].task_id
    digests: dict[str, tuple[int, str]] = {}
    erased: set[str] = set()
    for recorded, event in zip(stream, events, strict=True):
        if isinstance(event, EventInvalid):
            continue  # reported as a schema problem
        if isinstance(event, e.PayloadErased):
            erased.add(event.slot)
        for slot, digest in digests_of(event):
            digests[slot] = recorded.version, digest
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
    for slot, digest in _slots(event):
        if digest is not None:
            yield slot, digest


def _slots(event: e.Event) -> tuple[tuple[str, str | None], ...]:
    """Return the slots that an event may refer to."""
    match event:
        case e.AttemptStarted() | e.TaskSucceeded():
            return ()  # half of all events
        case e.TaskSubmitted():
            return (
                ("prompt", event.prompt_digest),
                ("system", event.system_digest),
                ("output", event.output_digest),
                ("subject", event.subject_digest),
                ("key", event.key_digest),
                ("fingerprint", event.fingerprint),
            )
        case e.AttemptSucceeded():
            return ((f"response/{event.attempt}", event.response_digest),)
        case e.AttemptFailed() | e.AttemptSettled():
            message = f"message/{event.attempt}", event.message_digest
            return ((f"response/{event.attempt}", event.response_digest), message)
        case e.ValidationPassed() | e.ValidationFailed():
            return ((issues_slot(event.judge_attempt), event.issues_digest),)
        case _:
            return ()


def key_digest(events: Told, payloads: Iterable[Payload], salt: bytes) -> bytes | None:
    """Return what the ledger should find this task by; None where it has no key, or only an erased one."""
    submitted = events[0]
    if not isinstance(submitted, e.TaskSubmitted):
        return None
    if submitted.idempotency_key is not None:
        return bytes.fromhex(salted_digest(salt, b"key\n" + submitted.idempotency_key.encode()))
    line = next((payload.content for payload in payloads if payload.slot == "key"), None)
    return None if line is None else bytes.fromhex(salted_digest(salt, b"line\n" + line))


def key_problems(task_id: str, named: str | None) -> Iterator[Problem]:
    """Check that a task's key names it."""
    if named == task_id:
        return
    says = "names no task: the same request would be paid for again" if named is None else f"names task {named}"
    yield Problem("key", task_id, 1, f"the key of this task {says}")
