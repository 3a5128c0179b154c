"""Stored bytes are for ever: a golden file for every type and version, whole histories, and the recipe of the hash.

``python -m tests.test_events`` writes the golden files of new samples; it never touches one that exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import base
from ledger import events as e
from ledger import parts, policy, upcasting
from ledger import system_events as s
from ledger.canonical import canonical, digest_of, salted_digest
from ledger.dispatch import DECIDERS, decide
from ledger.envelope import FIRST_PREV_HASH, NewEvent, Recorded, seal
from ledger.errors import EventInvalid
from ledger.evolve import evolve
from ledger.parts import ByRule, ByScore, DecisionKind
from ledger.state import INITIAL, Ended
from tests.histories import DIGEST, START_MS, WORKER, question, request, step, told, validation

GOLDEN: Final = Path(__file__).parent / "golden"
HISTORIES: Final = GOLDEN / "histories"
LAW: Final = settings(max_examples=300, deadline=None, derandomize=True, database=None)

OTHER_DIGEST: Final = "0123456789abcdef" * 4
AWKWARD: Final = 'quoted "text", a \\, a\ttab,\na line, \x00 \x1f \x7f \u2028, \xe9\xdf, \u4e16\u754c, \U0001f600'


def decision(kind: DecisionKind, reason: str, rule: str, outcome: parts.Answered | None = None) -> dict[str, Any]:
    """Make what every decision holds, with all that can be seen."""
    seen_brake = parts.BrakeSeen(provider="gemini", model="gemini-2.5-flash", until_ms=START_MS + 5000, position=41)
    seen_cap = parts.BudgetSeen(
        cap="max_usd_per_day", limit=50_000_000_000, settled=7, unknown=None, reserved=9, asked=None, position=42
    )
    inputs = parts.Inputs(
        decided_at_ms=START_MS,
        jitter_ppm=-199_999,
        outcome=outcome,
        policy_hash=OTHER_DIGEST,
        decider=1,
        brakes=(seen_brake,),
        budgets=(seen_cap,),
    )
    return {"decision": kind, "reason": reason, "rule": rule, "policy_hash": OTHER_DIGEST, "inputs": inputs}


ROW: Final = parts.UsageRow(
    model="claude-haiku-5-5",
    input_uncached_tokens=11,
    cache_read_tokens=22,
    cache_write_5m_tokens=33,
    cache_write_1h_tokens=44,
    output_tokens=55,
    reasoning_tokens=6,
    service_tier="standard",
    inference_geo="eu",
)
OUTCOME: Final[dict[str, Any]] = {
    "attempt": 4,
    "response_digest": DIGEST,
    "served_model": "claude-haiku-5-5",
    "usage": (ROW, parts.UsageRow(**dict.fromkeys(parts.UsageRow.model_fields))),
    "usage_source": "provider",
    "raw_usage": '{"input_tokens": 11}',
    "provider_requests": 1,
    "latency_ms": 1234,
    "ttft_ms": 56,
    "finish_reason": "end_turn",
    "request_id": "req_011CQ",
    "cost_nano_usd": 2**63 - 1,
    "exposure_nano_usd": 5_000_000,
    "price_book": OTHER_DIGEST,
}
FAILED: Final = parts.Answered(event="attempt.failed", attempt=4, error_type="rate_limited")
SUBMITTED: Final = request(
    judge=(step("sonnet", 2, provider="anthropic", model="claude-sonnet-5-5"),),
    ladder=(step("opus", 1, provider="anthropic", model="claude-opus-5-5", timeout_ms=120_000),),
    labels={"team": "a", "\u540d": AWKWARD, "Z": "", "\U0001f600": "astral", "\uff5e": "below it"},
    idempotency_key="invoice/7",
    key_digest=DIGEST,
    fingerprint=OTHER_DIGEST,
    system_digest=DIGEST,
    subject_digest=OTHER_DIGEST,
    owner=WORKER,
    replay_of="01990000-0000-7000-8000-00000000000a",
)
JUDGED: Final = {
    "judged_task_id": "01990000-0000-7000-8000-00000000000b",
    "judged_attempt": 4,
    "judge_attempt": 5,
}
VERDICT: Final = JUDGED | {
    "issues": 3,
    "issues_digest": DIGEST,
    "confidence_thousandths": 875,
    "escalate": True,
}


def submitted(asked: e.TaskRequest, reason: str) -> e.TaskSubmitted:
    """Make a submission of a request."""
    fields = {name: getattr(asked, name) for name in e.TaskRequest.model_fields}
    return e.TaskSubmitted(**fields, **decision("route", reason, "submitted"))


def samples() -> dict[str, e.Event]:
    """Return an event of every type with something in every field, and variants where a field has several shapes."""
    by_rule = request(why=ByRule(kind="rule", rule="long prompts"))
    by_score = request(why=ByScore(kind="score", scorer="length", score_ppm=-420_000))
    judging = validation(judged_task_id="01990000-0000-7000-8000-00000000000b", judged_attempt=4)
    variants = {"rule": submitted(by_rule, "rule"), "score": submitted(by_score, "score")}
    variants |= {"validation": submitted(judging, "caller")}
    named = {f"{event.TYPE}.v{event.SCHEMA_VERSION}.{name}": event for name, event in variants.items()}
    whole = (*attempt_samples(), *decision_samples(), *other_samples(), submitted(SUBMITTED, "caller"))
    return {f"{event.TYPE}.v{event.SCHEMA_VERSION}": event for event in whole} | named


def attempt_samples() -> tuple[e.Event, ...]:
    """Return the events of an attempt."""
    error: dict[str, Any] = {"error_type": "rate_limited", "status_code": 429, "message_digest": OTHER_DIGEST}
    start = {"attempt": 4, "purpose": "generate", "step": 2, "tier": "haiku", "provider": "anthropic"}
    sent = {
        "price_book": DIGEST,
        "request_model": "claude-haiku-5-5",
        "deadline_ms": START_MS + 30_000,
        "request_digest": DIGEST,
    }
    more = {"fence": 3, "worker": WORKER, "prompt_prefix": "newline", "upper_bound_nano_usd": 5_000_000}
    return (
        e.AttemptStarted.model_validate(start | sent | more),
        e.AttemptSucceeded(**OUTCOME),
        e.AttemptFailed(**OUTCOME, **error, retryable=True, retry_after_ms=7000),
        e.AttemptOrphaned(attempt=4, cause="worker_gone", exposure_nano_usd=5_000_000),
        e.AttemptSettled(**OUTCOME, **error, via="late", outcome="failed"),
    )


def decision_samples() -> tuple[e.Event, ...]:
    """Return the decisions after the submission."""
    retry = {"next_attempt": 5, "purpose": "generate", "step": 2, "tier": "haiku"}
    wait = {"wait_ms": 1150, "not_before_ms": START_MS + 1150}
    move: dict[str, Any] = {"from_step": 1, "to_step": 2, "from_tier": "flash", "to_tier": "haiku"}
    verdict = parts.Answered(event="validation.failed", attempt=5, error_type=None)
    answer = parts.Answered(event="validation.passed", attempt=5, error_type=None)
    orphan = parts.Answered(event="attempt.orphaned", attempt=4, error_type=None)
    return (
        e.RetryScheduled.model_validate(
            decision("retry", "rate_limited", "worth_another_try", FAILED) | retry | wait,
        ),
        e.FallbackSelected(**decision("fallback", "rate_limited", "tries_spent", FAILED), **move, purpose="generate"),
        e.EscalationSelected(
            **decision("escalate", "validation.failed", "next_rung", verdict), **move, judged_attempt=4, judge_attempt=5
        ),
        e.BudgetRefused(**decision("refused", "budget_refused", "cap"), cap="max_usd_per_day", step=1, tier="flash"),
        e.TaskHeld(**decision("hold", "orphaned", "on_unknown_hold", orphan), tier="flash"),
        e.TaskReleased(**decision("release", "person", "released"), tier="flash"),
        e.TaskSucceeded(**decision("succeed", "judged", "passed", answer), tier="haiku", attempt=4, accepted=True),
        e.TaskFailed(
            **decision("exhausted", "rate_limited", "tries_spent", FAILED),
            tier="haiku",
            attempt=4,
            error_type="rate_limited",
        ),
        e.TaskCancelled(**decision("cancel", "requested", "cancelled"), tier="haiku"),
    )


def other_samples() -> tuple[e.Event, ...]:
    """Return verdicts, erasures, and the events of streams that are not tasks."""
    event_ids = ("01990000-0000-7000-8000-0000000000e1", "01990000-0000-7000-8000-0000000000e2")
    brake: dict[str, Any] = {"provider": "gemini", "model": "gemini-2.5-flash"}
    anchor = {"first_position": 1, "last_position": 100, "events": 99, "root": DIGEST, "previous": OTHER_DIGEST}
    signed = {"ledger": OTHER_DIGEST, "sealed_at_ms": START_MS, "signature": "c1", "public_key": "e2"}
    return (
        e.ValidationPassed.model_validate(VERDICT),
        e.ValidationFailed.model_validate(VERDICT),
        e.ValidationErrored.model_validate(JUDGED | {"error_type": "output_invalid"}),
        e.PayloadErased(slot="response/4", digest=DIGEST, reason=AWKWARD),
        s.BreakerOpened(**brake, cause="failures", until_ms=START_MS + 5000, open_ms=5000, failures=event_ids),
        s.BreakerClosed(**brake, trial_event_id=event_ids[0]),
        s.PriceBookPublished(
            price_book=DIGEST, source="genai-prices", source_version="0.0.40", as_of_ms=START_MS, content='{"a":1}'
        ),
        s.AnchorSealed.model_validate(anchor | signed),
    )


SAMPLES: Final = samples()
FILES: Final = {path.stem: path for path in sorted(GOLDEN.glob("*.json"))}


def type_and_version(name: str) -> tuple[str, int]:
    """Read ``task.submitted.v1`` or ``task.submitted.v1.variant``."""
    named = re.fullmatch(r"(.+)\.v(\d+)(\.\w+)?", name)
    assert named is not None, name
    return named[1], int(named[2])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_bytes_of_an_event_never_change(name: str) -> None:
    """Today's sample gives exactly what its golden file holds."""
    assert name in FILES, "a new event needs a golden file: python -m tests.test_events"
    assert FILES[name].read_bytes() == SAMPLES[name].data() + b"\n"


def test_every_type_and_version_has_a_golden_file() -> None:
    """Of each version ever written, up to today's."""
    versions = {
        (name, version)
        for name, known in upcasting.EVENT_TYPES.items()
        for version in range(1, known.SCHEMA_VERSION + 1)
    }
    assert versions == {type_and_version(name) for name in FILES}


def test_every_class_of_event_can_be_read() -> None:
    """No event can be written that the table of types does not hold, each under its own name."""
    classes = {value for module in (e, s) for value in vars(module).values() if is_event(value)}
    assert classes == set(upcasting.EVENT_TYPES.values())
    assert {known.TYPE: known for known in classes} == upcasting.EVENT_TYPES


def is_event(value: object) -> bool:
    """Say whether this is a class of event that can be written."""
    return isinstance(value, type) and issubclass(value, e.Event) and value is not e.Event


@pytest.mark.parametrize("name", FILES)
def test_a_golden_file_can_be_read(name: str) -> None:
    """Whatever was written is today's event; today's versions give the same bytes again."""
    event_type, version = type_and_version(name)
    stored = FILES[name].read_bytes().removesuffix(b"\n")
    event = upcasting.decode(event_type, version, stored)
    assert event_type == event.TYPE
    if version == event.SCHEMA_VERSION:
        assert stored == event.data()
        assert event == upcasting.decode(event_type, version, stored.decode())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_leaves_no_field_out(name: str) -> None:
    """A golden file with something in every field shows every field's shape; variants may be sparse."""
    sparse = {"judged_task_id", "judged_attempt", "output_digest"}
    empty = {key for key, value in SAMPLES[name].model_dump().items() if value in (None, (), {}, "")}
    assert name.count(".") > 2 or empty <= sparse


def numbers_in(schema: Any) -> list[dict[str, Any]]:
    """Return every number that a JSON schema allows, at any depth."""
    inside = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    found = [number for value in inside for number in numbers_in(value)]
    return [schema, *found] if isinstance(schema, dict) and schema.get("type") in ("integer", "number") else found


@pytest.mark.parametrize("name", upcasting.EVENT_TYPES)
def test_every_number_of_an_event_can_be_written(name: str) -> None:
    """Integers only, each with bounds within 64 bits: what can be built has bytes."""
    numbers = numbers_in(upcasting.EVENT_TYPES[name].model_json_schema())
    unbounded = [
        number
        for number in numbers
        if number["type"] != "integer"
        or number.get("minimum", -(2**64)) < -(2**63)
        or number.get("maximum", 2**64) >= 2**63
    ]
    assert [] == unbounded


@LAW
@given(st.data())
def test_what_decodes_has_one_form(data: st.DataObject) -> None:
    """Any change of a field is refused, or comes back as the bytes that ``json`` gives: nothing is bent on the way."""
    name = data.draw(st.sampled_from(sorted(SAMPLES)))
    fields = json.loads(SAMPLES[name].data())
    inside = data.draw(
        st.sampled_from([fields, *(value for value in fields.values() if value and type(value) is dict)])
    )
    key = data.draw(st.sampled_from(sorted(inside)))
    leaves = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text() | st.floats()
    inside[key] = data.draw(leaves | st.just(inside[key]))
    try:
        event = upcasting.decode(*type_and_version(name), json.dumps(fields, ensure_ascii=False).encode())
    except EventInvalid:
        return
    assert plain_json(fields) == event.data()


def plain_json(value: Any) -> bytes:
    """Write canonical JSON with the standard library alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@LAW
@given(JSON_VALUES)
def test_canonical_bytes_are_those_of_json(value: Any) -> None:
    """Sorted by code point, compact, unescaped: what any language's library can make."""
    assert plain_json(value) == canonical(value)


def nested(depth: int) -> list[Any]:
    """Make lists in lists."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Word(StrEnum):
    """Text that is more than text."""

    ONE = "one"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.0, id="a float"),
        pytest.param(float("nan"), id="no number"),
        pytest.param(2**63, id="too large"),
        pytest.param(-(2**63) - 1, id="too small"),
        pytest.param("\ud800", id="a lone surrogate"),
        pytest.param({"\udfff": 1}, id="a lone surrogate as a key"),
        pytest.param({1: "one"}, id="a number as a key"),
        pytest.param({None: "none"}, id="no key"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({1, 2}, id="a set"),
        pytest.param(datetime(2026, 11, 22, tzinfo=UTC), id="a time"),
        pytest.param(Word.ONE, id="an enum"),
        pytest.param(nested(65), id="too deep"),
        pytest.param(nested(5000), id="deeper than the stack"),
    ],
)
def test_what_has_no_canonical_form(value: Any) -> None:
    """Nothing is rounded, renamed or dropped on the way to the bytes."""
    with pytest.raises(EventInvalid):
        canonical(value)


def test_how_deep_a_value_may_be() -> None:
    """64 levels."""
    assert b"[" * 64 + b"]" * 64 == canonical(nested(64))


def test_digests_are_the_standard_ones() -> None:
    """SHA-256 of the canonical bytes; HMAC-SHA-256 (the second and sixth test case of RFC 4231) under a salt."""
    assert hashlib.sha256(b'{"a":[],"b":1}').hexdigest() == digest_of({"b": 1, "a": ()})
    assert "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" == salted_digest(
        b"Jefe", b"what do ya want for nothing?"
    )
    assert "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54" == salted_digest(
        b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"attempt": True}, id="true is no number"),
        pytest.param({"attempt": 0}, id="attempts count from 1"),
        pytest.param({"attempt": 2**63}, id="a number beyond 64 bits"),
        pytest.param({"attempt": "1"}, id="a number as text"),
        pytest.param({"attempt": 1.0}, id="a fraction"),
        pytest.param({"exposure_nano_usd": -1}, id="less than nothing"),
        pytest.param({"cause": "unknown"}, id="an unknown word"),
        pytest.param({"cause": None}, id="no word"),
        pytest.param({"more": 1}, id="a field too many"),
    ],
)
def test_what_is_no_event(wrong: dict[str, Any]) -> None:
    """Events are strict and closed, built or read."""
    fields = {"attempt": 1, "cause": "worker_gone", "exposure_nano_usd": None} | wrong
    with pytest.raises(ValueError, match="validation error"):
        e.AttemptOrphaned.model_validate(fields)
    with pytest.raises(EventInvalid):
        upcasting.decode("attempt.orphaned", 1, json.dumps(fields))


@pytest.mark.parametrize(
    ("event_type", "version", "data"),
    [
        pytest.param("task.renamed", 1, b"{}", id="an unknown type"),
        pytest.param("payload.erased", 2, b"{}", id="a version to come"),
        pytest.param("payload.erased", 0, b"{}", id="a version that never was"),
        pytest.param("payload.erased", 1, b"{}", id="missing fields"),
        pytest.param("payload.erased", 1, b"[]", id="no object"),
        pytest.param("payload.erased", 1, b"", id="nothing"),
        pytest.param("payload.erased", 1, b"\xff", id="no text"),
        pytest.param("payload.erased", 1, b'{"slot":"\\ud800","digest":"","reason":""}', id="a lone surrogate"),
    ],
)
def test_bytes_that_are_no_event(event_type: str, version: int, data: bytes) -> None:
    """What cannot be read is one typed error."""
    with pytest.raises(EventInvalid):
        upcasting.decode(event_type, version, data)


def test_an_event_that_cannot_be_written() -> None:
    """A lone surrogate in a text has no bytes; the error is typed."""
    with pytest.raises(EventInvalid, match="surrogates"):
        e.PayloadErased(slot="\ud800", digest=DIGEST, reason="").data()


class Renamed(e.PayloadErased):
    """A made-up third version of an event: who asked came in with 2, in which words with 3."""

    SCHEMA_VERSION: ClassVar[int] = 3
    asked_by: str
    words: tuple[str, ...]


def with_asker(fields: dict[str, Any]) -> dict[str, Any]:
    """Make version 2 of version 1."""
    return fields | {"asked_by": "person"}


def with_words(fields: dict[str, Any]) -> dict[str, Any]:
    """Make version 3 of version 2."""
    return fields | {"words": fields["reason"].split()}


UPCASTERS: Final = {("payload.erased", 1): with_asker, ("payload.erased", 2): with_words}
OLD: Final = b'{"digest":"' + DIGEST.encode() + b'","reason":"on request","slot":"prompt"}'


@pytest.mark.parametrize(
    ("version", "stored"),
    [
        pytest.param(1, OLD, id="the first"),
        pytest.param(2, b'{"asked_by":"person",' + OLD[1:], id="the second"),
        pytest.param(3, b'{"asked_by":"person",' + OLD[1:-1] + b',"words":["on","request"]}', id="today's"),
    ],
)
def test_an_old_event_is_read_as_todays(version: int, stored: bytes) -> None:
    """Rows stay as they are; each version is one pure step from the next."""
    read = upcasting.decode("payload.erased", version, stored, types={"payload.erased": Renamed}, upcasters=UPCASTERS)
    expected = Renamed(slot="prompt", digest=DIGEST, reason="on request", asked_by="person", words=("on", "request"))
    assert expected == read


@pytest.mark.parametrize(
    ("upcasters", "said"),
    [
        pytest.param({}, "no upcaster from schema_version 1", id="none"),
        pytest.param({("payload.erased", 1): with_asker}, "no upcaster from schema_version 2", id="a gap"),
        pytest.param({("payload.erased", 1): dict, ("payload.erased", 2): with_words}, "do not fit", id="a wrong one"),
    ],
)
def test_a_missing_step_is_named(upcasters: dict[tuple[str, int], upcasting.Upcaster], said: str) -> None:
    """An old event that cannot be brought up to date is refused, never guessed."""
    with pytest.raises(EventInvalid, match=said):
        upcasting.decode("payload.erased", 1, OLD, types={"payload.erased": Renamed}, upcasters=upcasters)


def test_there_is_an_upcaster_for_every_old_version() -> None:
    """From each version but the newest, and from no other."""
    old = {
        (name, version) for name, known in upcasting.EVENT_TYPES.items() for version in range(1, known.SCHEMA_VERSION)
    }
    assert old == set(upcasting.UPCASTERS)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(policy.ErrorType, base.ErrorType, id="error types"),
        pytest.param(parts.UsageSource, base.UsageSource, id="usage sources"),
    ],
)
def test_the_ledger_and_the_clients_use_the_same_words(ours: Any, theirs: Any) -> None:
    """They know nothing of each other and must agree all the same."""
    assert get_args(theirs) == get_args(ours)


def test_the_ledger_and_the_clients_count_the_same() -> None:
    """A row of usage, and the prefix of a prompt, mean the same on both sides."""
    assert list(base.Usage.model_fields) == list(parts.UsageRow.model_fields)
    assert get_args(get_args(e.AttemptStarted.model_fields["prompt_prefix"].annotation)[0]) == get_args(
        base.PromptPrefix
    )


def plain_hash(prev_hash: bytes, texts: list[str], data: bytes) -> str:
    """Follow the recipe of the documentation with nothing of ours."""
    message = b"dispatch-ledger event 1\n" + prev_hash
    for text in texts:
        raw = text.encode("utf-8")
        message += bytes([len(raw) >> 24 & 255, len(raw) >> 16 & 255, len(raw) >> 8 & 255, len(raw) & 255]) + raw
    return hashlib.sha256(message + hashlib.sha256(data).digest()).hexdigest()


def test_the_hash_of_an_event_never_changes() -> None:
    """Two events of a chain, sealed, computed again from the fields, and by the recipe; the digits are for ever."""
    new = NewEvent("01990000-0000-7000-8000-0000000000e1", SAMPLES["payload.erased.v1"], "person")
    later = NewEvent("01990000-0000-7000-8000-0000000000e2", SAMPLES["attempt.orphaned.v1"], WORKER, 12)
    task_id = "01990000-0000-7000-8000-00000000000a"
    first = seal(new, task_id=task_id, version=1, recorded_at_ms=START_MS, prev_hash=FIRST_PREV_HASH)
    second = seal(later, task_id=task_id, version=2, recorded_at_ms=START_MS + 1, prev_hash=first.hash)
    fields = [new.event_id, task_id, "1", "payload.erased", "1", str(START_MS), "person", "0"]
    more = [later.event_id, task_id, "2", "attempt.orphaned", "1", str(START_MS + 1), WORKER, "12"]
    assert plain_hash(bytes(32), fields, FILES["payload.erased.v1"].read_bytes()[:-1]) == first.hash.hex()
    assert plain_hash(first.hash, more, FILES["attempt.orphaned.v1"].read_bytes()[:-1]) == second.hash.hex()
    assert FIRST_HASH == first.hash.hex()
    assert SECOND_HASH == second.hash.hex()
    assert (first.hash, second.hash) == (first.computed_hash(), second.computed_hash())
    assert (new.event, later.event) == (first.event(), second.event())


FIRST_HASH: Final = "ba9fd12749f47f4359566492c9d2338403e308241ef3d9894d56c58ec61b5a6a"
SECOND_HASH: Final = "e1476a1612b4154e2bc1b8af3aad3adc43dd30b8ed5d02b0cf377717bc4f8215"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"event_id": "f"}, id="event_id"),
        pytest.param({"task_id": "tx", "event_id": ""}, id="a letter moved to the next field"),
        pytest.param({"version": 2}, id="version"),
        pytest.param({"type": "task.held"}, id="type"),
        pytest.param({"schema_version": 2}, id="schema_version"),
        pytest.param({"recorded_at_ms": 6}, id="recorded_at_ms"),
        pytest.param({"actor": "system"}, id="actor"),
        pytest.param({"fence": 1}, id="fence"),
        pytest.param({"data": "{} "}, id="data"),
        pytest.param({"prev_hash": bytes(31) + b"\x01"}, id="prev_hash"),
    ],
)
def test_a_change_changes_the_hash(changed: dict[str, Any]) -> None:
    """Every field but the position is covered."""
    fields: dict[str, Any] = {
        "event_id": "x",
        "task_id": "t",
        "version": 1,
        "type": "task.submitted",
        "schema_version": 1,
        "recorded_at_ms": 5,
        "actor": "person",
        "fence": 0,
        "data": "{}",
        "prev_hash": FIRST_PREV_HASH,
    }
    one = Recorded(position=1, hash=b"", **fields)
    assert one.computed_hash() != Recorded(position=1, hash=b"", **{**fields, **changed}).computed_hash()
    assert one.computed_hash() == Recorded(position=2, hash=b"", **fields).computed_hash()


def as_lines(events: list[e.Event]) -> bytes:
    """Write a history, one event a line."""
    return b"".join(
        canonical({"type": event.TYPE, "schema_version": event.SCHEMA_VERSION, "data": json.loads(event.data())})
        + b"\n"
        for event in events
    )


def from_lines(lines: bytes) -> list[e.Event]:
    """Read a history."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return [upcasting.decode(row["type"], row["schema_version"], plain_json(row["data"])) for row in rows]


ENDINGS: Final = {
    "called-off": "cancel: requested, cancelled",
    "came-back": "succeed with 2, accepted None: answered, answered",
    "climbed-late": "succeed with 5, accepted False: budget_refused, ends_the_task",
    "climbed": "succeed with 6, accepted True: judged, passed",
    "gave-up": "exhausted after 4, timeout: timeout, tries_spent",
    "handed-over": "succeed with 4, accepted None: answered, answered",
    "judge-kept-off": "succeed with 3, accepted True: judged, passed",
    "kept-off": "succeed with 2, accepted None: answered, answered",
    "no-verdict": "fail_fast after 2, billing: billing, no_verdict",
    "person": "succeed with None, accepted False: person, judged",
    "unaffordable": "fail_fast after None, budget_refused: budget_refused, ends_the_task",
    "unbounded": "fail_fast after None, budget_refused: budget_refused, ends_the_task",
    "unjudged": "succeed with 1, accepted False: budget_refused, no_verdict",
    "unpriced": "fail_fast after None, budget_refused: budget_refused, ends_the_task",
    "waited-again": "exhausted after 2, overloaded: overloaded, tries_spent",
    "waited-out": "succeed with 2, accepted None: answered, answered",
}


def test_every_golden_history_has_its_ending() -> None:
    """None is missing and none is unknown."""
    assert sorted(ENDINGS) == sorted(path.stem for path in HISTORIES.glob("*.jsonl"))


@pytest.mark.parametrize("name", ENDINGS)
def test_a_golden_history_is_decided_again_to_the_byte(name: str) -> None:
    """Each decision, asked again from the events before it and its own inputs, is the one that was recorded."""
    stored = (HISTORIES / f"{name}.jsonl").read_bytes()
    events = from_lines(stored)
    assert stored == as_lines(events)
    state, decisions = INITIAL, 0
    for place, event in enumerate(events):
        asked_again = question(event)
        if asked_again is not None:
            made = decide(state, asked_again)
            assert [one.data() for one in events[place : place + max(len(made), 1)]] == [one.data() for one in made]
            decisions += 1
        state = evolve(state, event)
    assert decisions > 1
    assert isinstance(state, Ended)
    assert ENDINGS[name] == told([state.end])[0]


def test_the_golden_histories_hold_every_decision() -> None:
    """Of every version of the rules."""
    made = {
        (row["data"]["decision"], row["data"]["inputs"]["decider"])
        for name in ENDINGS
        for row in map(json.loads, (HISTORIES / f"{name}.jsonl").read_bytes().splitlines())
        if "decision" in row["data"]
    }
    assert {(kind, decider) for kind in get_args(DecisionKind) for decider in DECIDERS} == made


if __name__ == "__main__":
    for missing in SAMPLES.keys() - FILES.keys():
        (GOLDEN / f"{missing}.json").write_bytes(SAMPLES[missing].data() + b"\n")
