"""How what the Gemini CLI says is read: its JSON on stdout, its stderr and its exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clients.base import ErrorType, UsageSource
from clients.gemini_answers import Asked, read_ended
from clients.gemini_failures import Failure, read_failure
from clients.gemini_settings import settings_text, stdin_text
from clients.processes import Ended

ASKED = Asked("gemini-2.5-flash", max_tokens=1000, prompt_bytes=10, timeout_s=30)


def told(code: object, message: str, *, before: str = "", prefix: str = "") -> str:
    error = json.dumps({"session_id": "s", "error": {"type": "Error", "message": message, "code": code}}, indent=2)
    return f"{before}\n{prefix}{error}\n"


def google(status: int, message: str) -> str:
    return json.dumps({"error": {"code": status, "message": message, "status": "X", "details": [{"a": "{"}]}})


def ended(said: object, *, exit_code: int = 0, stderr: str = "") -> Ended:
    stdout = said if isinstance(said, str) else json.dumps(said)
    return Ended("exited", exit_code, stdout.encode(), stderr.encode(), 2000)


def stats(tokens: dict[str, Any], fault: str | None = None, role: str = "main", requests: int = 1) -> dict[str, Any]:
    api = {"totalRequests": requests, "errorsByType": {fault: 1} if fault else {}}
    return {"api": api, "tokens": tokens, "roles": {role: {}}}


@pytest.mark.parametrize(
    ("exit_code", "stderr", "error_type", "status_code", "usage_source"),
    [
        (144, told(400, google(400, "bad field")), "invalid_request", 400, "not_billed"),
        (144, told(400, google(400, "API key not valid. Please pass one.")), "authentication", 400, "not_billed"),
        (
            144,
            told(400, google(400, "The input token count (9) exceeds the maximum number of tokens allowed (8).")),
            "context_window_exceeded",
            400,
            "not_billed",
        ),
        (144, told(400, google(400, "User location is not supported.")), "permission", 400, "not_billed"),
        (145, told(401, google(401, "who")), "authentication", 401, "not_billed"),
        (146, told(402, google(402, "pay")), "billing", 402, "not_billed"),
        (147, told(403, google(403, "no")), "permission", 403, "not_billed"),
        (147, told(403, google(403, "requires billing to be enabled")), "billing", 403, "not_billed"),
        (1, told(1, "models/x is not found", before="ModelNotFoundError: x"), "not_found", 404, "not_billed"),
        (152, told(408, "slow"), "timeout", 408, "not_billed"),
        (157, told(413, "large"), "too_large", 413, "not_billed"),
        (166, told(422, "odd"), "invalid_request", 422, "not_billed"),
        (173, told(429, "check your plan and billing details."), "rate_limited", 429, "not_billed"),
        (173, told(429, "You have exhausted your daily quota."), "rate_limited", 429, "not_billed"),
        (173, told(429, "Your monthly spending cap is reached."), "billing", 429, "not_billed"),
        (244, told(500, google(500, "oh")), "api_error", 500, "not_billed"),
        (246, told(502, "gateway"), "api_error", 502, "not_billed"),
        (247, told(503, "<html>busy</html>"), "overloaded", 503, "not_billed"),
        (248, told(504, "late"), "api_error", 504, "not_billed"),
        (17, told(529, "busy"), "overloaded", 529, "not_billed"),
        (247, told(503, f"got status: UNAVAILABLE. {google(503, 'mid')}"), "overloaded", 503, "unknown"),
        (173, "no JSON here", "rate_limited", 429, "not_billed"),
        (41, "", "authentication", None, "not_billed"),
        (42, told(42, "x"), "other", None, "not_billed"),
        (52, "", "other", None, "not_billed"),
        (53, told(53, "turns", prefix="[ERROR] "), "api_error", None, "unknown"),
        (55, "", "other", None, "not_billed"),
        (127, "env: node: No such file or directory", "client_missing", None, "not_billed"),
        (-9, "", "other", None, "unknown"),
        (1, told(1, "exception TypeError: fetch failed sending request"), "connection", None, "unknown"),
        (1, told(1, "terminated"), "connection", None, "unknown"),
        (1, told("ECONNRESET", "read ECONNRESET"), "connection", None, "unknown"),
        (1, told(1, "Incomplete JSON segment at the end"), "api_error", None, "unknown"),
        (1, told(1, "something new"), "other", None, "unknown"),
        (1, "An unexpected critical error occurred", "other", None, "unknown"),
        (1, "", "other", None, "unknown"),
    ],
)
def test_a_failure_is_named(
    exit_code: int, stderr: str, error_type: ErrorType, status_code: int | None, usage_source: UsageSource
) -> None:
    """Stderr's error, else the exit code, says what went wrong and whether it was billed."""
    failure = read_failure(exit_code, stderr)
    assert (error_type, status_code, usage_source) == (failure.error_type, failure.status_code, failure.usage_source)
    assert failure.message


@pytest.mark.parametrize(
    ("message", "retry_after_ms"),
    [
        ("You exceeded.\nSuggested retry after 2s.", 2000),
        ("Please retry in 37.5641s.", 37565),
        ("Please retry in 1.5s.\nSuggested retry after 2s.", 1500),
        ("later", None),
        ("Suggested retry after 99999999999999999999999999s.", 10**12),
    ],
)
def test_the_delay_is_read(message: str, retry_after_ms: int | None) -> None:
    """The delay is in the message, in seconds; it is rounded up."""
    assert retry_after_ms == read_failure(173, told(429, message)).retry_after_ms


def test_the_last_error_is_the_one() -> None:
    """Other JSON before the tail is not the error, and Google's own words are taken out of its object."""
    before = told(400, "old") + '{\n  "not": "an error"\n}\n{\n broken'
    expected = Failure("api_error", "Gemini answered 500: oh", "not_billed", 500, provider_requests=1)
    assert expected == read_failure(244, told(500, google(500, "oh"), before=before))


@pytest.mark.parametrize(
    ("said", "error_type", "finish_reason"),
    [
        ("", "api_error", None),
        ("not JSON", "api_error", None),
        ("[1]", "api_error", None),
        ("[" * 100_000, "api_error", None),
        ({"response": 3}, "api_error", None),
        ({"response": ""}, "api_error", None),
        ({"response": "", "stats": {"models": {}}}, "api_error", None),
        ({"stats": {"models": {"m": stats({"prompt": 1, "candidates": 1})}}}, "api_error", None),
        ({"response": "half", "error": {"type": "INVALID_STREAM", "message": "no end"}}, "api_error", None),
        ({"response": "half", "error": "odd"}, "api_error", None),
        ({"response": "", "stats": {"models": {"m": stats({}, "OTHER_BLOCKED")}}}, "content_refused", "refusal"),
        ({"response": "", "stats": {"models": {"m": stats({}, "RECITATION_BLOCKED")}}}, "content_refused", "refusal"),
        ({"response": "", "stats": {"models": {"m": stats({}, "MAX_TOKENS_EXCEEDED")}}}, "truncated", "max_tokens"),
    ],
)
def test_an_exit_code_of_0_is_not_success(said: object, error_type: ErrorType, finish_reason: str | None) -> None:
    """Success needs a whole answer; everything else with exit code 0 is a failure without text."""
    result = read_ended(ASKED, ended(said))
    assert (False, error_type, finish_reason, "") == (
        result.success,
        result.error_type,
        result.finish_reason,
        result.response,
    )
    assert result.error


def test_an_answer_without_statistics() -> None:
    """An answer is an answer; without counts its usage is unknown, never zero."""
    result = read_ended(ASKED, ended({"response": "hi"}))
    assert (
        result.success,
        result.response,
        result.usage,
        result.tokens_input,
        result.tokens_output,
        result.usage_source,
        result.served_model,
        result.provider_requests,
    ) == (True, "hi", (), None, None, "unknown", None, None)


@pytest.mark.parametrize(
    "tokens",
    [
        {},
        {"prompt": 0, "candidates": 0, "cached": 0, "thoughts": 0, "total": 0},
        {"prompt": 3, "candidates": 1, "cached": 4},
        {"prompt": -1, "candidates": 1},
        {"prompt": True, "candidates": 1},
        {"prompt": 3},
        {"prompt": "3", "candidates": 1},
    ],
    ids=["none", "zeros", "more cached than all", "negative", "no number", "half", "text"],
)
def test_counts_that_say_nothing_are_unknown(tokens: dict[str, Any]) -> None:
    """The CLI shows zeros where Gemini sent no usage; such counts and impossible ones are unknown."""
    result = read_ended(ASKED, ended({"response": "hi", "stats": {"models": {"m": stats(tokens)}}}))
    assert (
        result.success,
        result.usage,
        result.tokens_input,
        result.usage_source,
        result.served_model,
        result.provider_requests,
    ) == (True, (), None, "unknown", "m", 1)


def test_several_models_are_several_rows() -> None:
    """Each model has its row; the one in the main role answered; requests add up."""
    models = {
        "side": stats({"prompt": 5, "candidates": 1}, role="utility"),
        "main": stats({"prompt": 10, "candidates": 2, "cached": 4, "thoughts": 3}, requests=2),
    }
    result = read_ended(ASKED, ended({"response": "hi", "stats": {"models": models}}))
    assert (
        result.served_model,
        [row.model for row in result.usage],
        result.tokens_input,
        result.tokens_output,
        result.provider_requests,
    ) == ("main", ["side", "main"], 15, 6, 3)
    assert models == json.loads(result.raw_usage or "")


def test_an_answer_as_long_as_its_limit_was_cut() -> None:
    """The CLI hides the reason of the end; a full limit tells it."""
    models = {"m": stats({"prompt": 5, "candidates": 900, "thoughts": 100})}
    result = read_ended(ASKED, ended({"response": "hi", "stats": {"models": models}}))
    assert (result.success, result.finish_reason) == (True, "max_tokens")


def test_half_pairs_are_replaced() -> None:
    """JSON can say half a surrogate pair, UTF-8 cannot: the result can always be stored."""
    result = read_ended(ASKED, ended('{"response": "a\\ud83d b \\ud83c\\udf88"}'))
    assert result.response == "a\ufffd b 🎈"
    assert result.model_dump_json()


def test_messages_are_bounded() -> None:
    """A provider's page of an error becomes a line for people."""
    result = read_ended(ASKED, ended("", exit_code=244, stderr=told(500, "x" * 100_000)))
    assert len(str(result.error)) < 700


def test_a_killed_call_keeps_what_it_reported() -> None:
    """Counts that came before the deadline are kept, though the answer is not."""
    said = {"response": "hi", "stats": {"models": {"m": stats({"prompt": 5, "candidates": 1})}}}
    result = read_ended(ASKED, Ended("deadline", None, json.dumps(said).encode(), b"", 30_000))
    assert (
        result.error_type,
        result.response,
        result.usage_source,
        result.tokens_input,
    ) == ("timeout", "", "provider", 5)


def test_texts_in_the_settings_are_not_expanded() -> None:
    """Every dollar sign that could begin a variable's name is written as the default of one that is never set."""
    settings = json.loads(settings_text("$HOME ${x} $ $$a 5$", None, 7, {"a": ["$b", 1, None]}))
    config = settings["modelConfigs"]["customOverrides"][0]["modelConfig"]["generateContentConfig"]
    dollar = "${DISPATCH_NO_SUCH_NAME:-$}"
    request = config["httpOptions"]["extraBody"]
    assert f"{dollar}HOME {dollar}{{x}} $ ${dollar}a 5$" == request["contents"][0]["parts"][0]["text"]
    assert (None, 7, {"a": [f"{dollar}b", 1, None]}) == (
        request["systemInstruction"],
        config["maxOutputTokens"],
        config["responseJsonSchema"],
    )


def test_many_at_signs_are_no_files() -> None:
    """A few at signs stay as they are; very many, which would take the CLI seconds, are escaped on stdin."""
    assert stdin_text("@a " * 500) == "@a " * 500
    assert stdin_text("@a " * 501) == "\\@a " * 501
