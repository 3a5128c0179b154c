"""Bytes: canonical JSON, events through their codec, and the recipe of the hash, each against somebody else's code."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.canonical import INT64_MAX, canonical
from ledger.envelope import FIRST_PREV_HASH, NewEvent, Recorded, seal
from ledger.errors import EventInvalid
from ledger.events import Event
from ledger.upcasting import decode
from tests.anything import events, json_values, texts


@given(json_values)
def test_canonical_is_json(value: Any) -> None:
    """The bytes are those of the standard library: sorted keys, compact, unescaped."""
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert expected.encode() == canonical(value)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.0, id="a float"),
        pytest.param(float("nan"), id="no number"),
        pytest.param(INT64_MAX + 1, id="an integer of 65 bits"),
        pytest.param("\ud800", id="half a character"),
        pytest.param({"\udfff": 1}, id="half a character as a key"),
        pytest.param({1: "one"}, id="a number as a key"),
        pytest.param([{"deep": [b"bytes"]}], id="bytes"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """What another language would read otherwise is never written."""
    with pytest.raises(EventInvalid):
        canonical(value)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(events)
def test_an_event_survives_the_codec(event: Event) -> None:
    """Written and read again it is the same event, and its bytes are the same bytes."""
    data = event.data()
    again = decode(event.TYPE, event.SCHEMA_VERSION, data.decode())
    assert again == event
    assert again.data() == data


def plain_hash(recorded: Recorded) -> bytes:
    """Compute a hash as the documentation says, with nothing of ours."""
    digest = hashlib.sha256(b"dispatch-ledger event 1\n" + recorded.prev_hash)
    fields = (
        recorded.event_id,
        recorded.task_id,
        recorded.version,
        recorded.type,
        recorded.schema_version,
        recorded.recorded_at_ms,
        recorded.actor,
        recorded.fence,
    )
    for text in (str(field).encode() for field in fields):
        digest.update(struct.pack(">I", len(text)) + text)
    digest.update(hashlib.sha256(recorded.data.encode()).digest())
    return digest.digest()


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(events, texts, texts, st.integers(1, 10**6), st.integers(0, INT64_MAX), st.integers(0, 9))
def test_the_hash_is_as_documented(
    event: Event, event_id: str, task_id: str, version: int, recorded_at_ms: int, fence: int
) -> None:
    """Ten lines of other code give the same hash, and a chain's next event holds it."""
    first = seal(
        NewEvent(event_id, event, "system", fence),
        task_id=task_id,
        version=version,
        recorded_at_ms=recorded_at_ms,
        prev_hash=FIRST_PREV_HASH,
    )
    assert first.hash == plain_hash(first) == first.computed_hash()


def test_the_hash_of_one_event_is_frozen() -> None:
    """A hash that was written once can be checked for ever."""
    recorded = Recorded(7, "e", "t", 1, "x", 1, 2, "system", 0, '{"a":1}', bytes(32), b"")
    assert recorded.computed_hash() == plain_hash(recorded)
    assert recorded.computed_hash().hex() == "da9dac446c3afbb191c2b8db27736130e01171fa160d9448873f9d6ac836a686"
