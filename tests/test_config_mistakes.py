"""What the configuration says when something in it is wrong: the line, the key, what it is, what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ledger.config import Config, load_config
from ledger.errors import ConfigurationError

USD = "expected a number of USD from 0 to 1_000_000_000 with at most 9 decimals"
MODEL = "a model's name: 1 to 256 characters without blanks"
TIERS = 'a tier (flash, pro, haiku, sonnet, opus) or "none"'
PROVIDER = 'gemini, anthropic, simulated or "package.module:factory"'
PLACE = "a path, sqlite:///PATH or postgresql://HOST/NAME"
NO_PASSWORD = "a place without a password; a URL that needs one belongs in DISPATCH_LEDGER_URL"
ERROR_TYPE = "an error type, as rate_limited or timeout"
DAY, WEEK = "seconds from 0.001 to 86400 (24 hours)", "seconds from 0 to 604800 (7 days)"
RETRIES = "a whole number from 0 to 100"
SECRET = "is a secret, and no configuration keeps one; remove it and"

VALUES: list[tuple[str, str, str]] = [
    ("retry.retry_count", "true", f"is true, expected {RETRIES}"),
    ("retry.retry_count", '"2"', f'is "2", expected {RETRIES}'),
    ("retry.retry_count", "2.0", f"is 2.0, expected {RETRIES}"),
    ("retry.retry_count", "-1", f"is -1, expected {RETRIES}"),
    ("retry.retry_count", "101", f"is 101, expected {RETRIES}"),
    ("retry.retry_count", "9" * 40, f"is a number of many digits, expected {RETRIES}"),
    ("retry.retry_count", "[1, 2]", f"is a list of 2 values, expected {RETRIES}"),
    ("retry.retry_count", "[1]", f"is a list of 1 value, expected {RETRIES}"),
    ("retry.retry_count", "{}", f"is a table, expected {RETRIES}"),
    ("retry.retry_count", "2026-11-22", f"is a date or time, expected {RETRIES}"),
    ("retry.max_tokens", "0", "is 0, expected a whole number from 1 to 10_000_000"),
    ("retry.max_orphans", "1001", "is 1001, expected a whole number from 0 to 1_000"),
    ("retry.jitter", "nan", "is nan, expected a number from 0 to 1"),
    ("retry.jitter", "false", "is false, expected a number from 0 to 1"),
    ("retry.jitter", "1.01", "is 1.01, expected a number from 0 to 1"),
    ("retry.backoff_multiplier", "0.5", "is 0.5, expected a number from 1 to 100"),
    ("retry.backoff_initial_s", "-0.1", f"is -0.1, expected {WEEK}"),
    ("retry.backoff_max_s", "inf", f"is infinity, expected {WEEK}"),
    ("retry.backoff_max_s", "1e99999999999999999999", f"is infinity, expected {WEEK}"),
    ("retry.retry_after_max_s", "604800.1", f"is 604800.1, expected {WEEK}"),
    ("retry.on_unknown", '"Hold"', 'is "Hold", expected "retry", "hold" or "fail"; did you mean "hold"?'),
    ("retry.on_unknown", "1", 'is 1, expected "retry", "hold" or "fail"'),
    ("retry.on_truncated", '"' + "x" * 30 + '"', 'is a text of 30 characters, expected "accept", "retry" or "fail"'),
    ("tiers.pro.timeout_s", "0", f"is 0, expected {DAY}"),
    ("tiers.pro.timeout_s", "86401", f"is 86401, expected {DAY}"),
    ("tiers.pro.model", '""', f'is "", expected {MODEL}'),
    ("tiers.pro.model", '"a b"', f'is "a b", expected {MODEL}'),
    ("tiers.pro.model", '"a\\u0007"', f"is a text of 2 characters, expected {MODEL}"),
    ("tiers.pro.provider", '"antropic"', f'is "antropic", expected {PROVIDER}; did you mean "anthropic"?'),
    ("tiers.pro.provider", '"a-b:make"', f'is "a-b:make", expected {PROVIDER}'),
    ("tiers.pro.provider", '"package:"', f'is "package:", expected {PROVIDER}'),
    ("tiers.pro.fallback", '"hiku"', f'is "hiku", expected {TIERS}; did you mean "haiku"?'),
    ("tiers.pro.fallback", '""', f'is "", expected {TIERS}'),
    ("tiers.pro", '"opus"', 'is "opus", expected a table, [tiers.pro]'),
    ("providers.gemini.command", '" "', 'is " ", expected a command: 1 to 1024 characters'),
    ("providers.gemini.mode", '"wram"', 'is "wram", expected "process" or "warm"; did you mean "warm"?'),
    ("providers.anthropic.transport", '"http"', 'is "http", expected "aiohttp" or "httpx"; did you mean "httpx"?'),
    ("providers.gemini.concurrency", "0", "is 0, expected a whole number from 1 to 1_000"),
    ('providers."a.b:make".concurrency', "1001", "is 1001, expected a whole number from 1 to 1_000"),
    ("providers.simulated.seed", "0.5", "is 0.5, expected a whole number of 64 bits"),
    (
        "providers.simulated.latency_ms",
        "[5, 3]",
        "is a list of 2 values, expected milliseconds from 0 to 3_600_000, or a list [least, most], least first",
    ),
    (
        "providers.simulated.failures",
        "{timeout = 0.6, connection = 0.5}",
        "is a table, expected chances that add up to 1 at most",
    ),
    ("providers.simulated.script", '"ok"', 'is "ok", expected a list'),
    ("breakers.failures", "-1", "is -1, expected a whole number from 0 to 10_000"),
    ("breakers.open_s", '"5"', f'is "5", expected {WEEK}'),
    ("budget.unpriced", '"alow"', 'is "alow", expected "refuse" or "allow"; did you mean "allow"?'),
    ("budget.max_usd_per_day", '"1"', f'is "1", {USD}'),
    ("budget.max_usd_per_day", "-1", f"is -1, {USD}"),
    ("budget.max_usd_per_day", "nan", f"is nan, {USD}"),
    ("budget.max_usd_per_task", "true", f"is true, {USD}"),
    ("budget.max_usd_per_task", "0.0000000001", f"is 1e-10, {USD}"),
    ("budget.max_usd_per_task", "1_000_000_001", f"is 1000000001, {USD}"),
    ("ledger", "3", f"is 3, expected {PLACE}"),
    ("ledger", '" "', f'is " ", expected {PLACE}'),
    ("ledger", '"mysql://host/db"', f'is "mysql://host/db", expected {PLACE}'),
    (
        "ledger",
        '"postgresql://me:word@host/db"',
        f"is a text of 28 characters, expected {NO_PASSWORD}",
    ),
    ("retry", "3", "is 3, expected a table, [retry]"),
]

TABLES = "ledger, retry, tiers, providers, breakers, escalation, budget, prices, redact, telemetry"
NAMES: list[tuple[str, str]] = [
    ("retry.retry_cout = 3", "retry.retry_cout is not known; did you mean retry.retry_count?"),
    ("retries.jitter = 0", "retries is not known; did you mean retry?"),
    ("retry_count = 3", "retry_count is not known; did you mean retry.retry_count?"),
    ("breakers.ledger = 'x'", "breakers.ledger is not known; did you mean ledger, above the first table?"),
    ("tiers.flsh.model = 'm'", "tiers.flsh is not known; did you mean tiers.flash?"),
    (
        "tiers.pro.temperature = 1",
        "tiers.pro.temperature is not known; known here: provider, model, fallback, timeout_s",
    ),
    (
        "x = 1",
        f"x is not known; known here: {TABLES}",
    ),
    (
        '"a\\nb" = 1',
        f'"a\\nb" is not known; known here: {TABLES}',
    ),
    ("providers.my.x = 1", f"providers.my is not known, expected {PROVIDER}"),
    ("providers.Gemini.x = 1", f"providers.Gemini is not known, expected {PROVIDER}; did you mean gemini?"),
    (
        "providers.simulated.models.m.latncy_ms = 1",
        "providers.simulated.models.m.latncy_ms is not known; did you mean providers.simulated.models.m.latency_ms?",
    ),
    (
        "providers.simulated.failures.timout = 0.1",
        f"providers.simulated.failures.timout is not known, expected {ERROR_TYPE}; did you mean timeout?",
    ),
    (
        'providers.simulated.script = ["ok", "tiemout"]',
        'providers.simulated.script[1] is "tiemout", expected "ok", an error type or a table; did you mean "timeout"?',
    ),
    ("budget.per_label.team = 1", 'budget.per_label.team is not known, expected a label, as in "team=a"'),
    (
        r'budget.per_label."team=\u0000" = 1',
        r'budget.per_label."team=\u0000" is not known, expected a label, as in "team=a"',
    ),
    ("budget.per_tier.opsu = 1", "budget.per_tier.opsu is not known; did you mean budget.per_tier.opus?"),
    (
        'budget.per_label."subject=a" = 1',
        (
            'budget.per_label."subject=a" is not known, expected another label than subject, which can be erased and '
            "so is not counted by"
        ),
    ),
    ("api_key = 'k'", f"api_key {SECRET} set ANTHROPIC_API_KEY or GEMINI_API_KEY in the environment"),
    ("gemini_api_key = 'k'", f"gemini_api_key {SECRET} set GEMINI_API_KEY in the environment"),
    (
        "providers.anthropic.api_key = 'k'",
        f"providers.anthropic.api_key {SECRET} set ANTHROPIC_API_KEY in the environment",
    ),
    (
        "providers.'a.b:make'.options = [{auth_token = 'k'}]",
        f'providers."a.b:make".options[0].auth_token {SECRET} let its client read it from the environment',
    ),
    (
        "providers.gemini.base_url = 'u'",
        "providers.gemini.base_url is not read from a configuration; set GOOGLE_GEMINI_BASE_URL in the environment",
    ),
]

CIRCLES: list[tuple[str, str]] = [
    ("tiers.haiku.fallback = 'flash'", "tiers.haiku.fallback makes a circle: flash -> haiku -> flash"),
    ("tiers.opus.fallback = 'opus'", "tiers.opus.fallback makes a circle: opus -> opus"),
    (
        "tiers = {haiku = {fallback = 'sonnet'}, sonnet = {fallback = 'opus'}, opus = {fallback = 'haiku'}}",
        "tiers.haiku.fallback makes a circle: haiku -> sonnet -> opus -> haiku",
    ),
]


def refusal(folder: Path, text: str) -> str:
    (folder / "dispatch.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as refused:
        load_config(environ={}, cwd=folder)
    return str(refused.value)


@pytest.mark.parametrize(("key", "value", "expected"), VALUES, ids=[f"{key}={value[:24]}" for key, value, _ in VALUES])
def test_wrong_value_is_told(tmp_path: Path, key: str, value: str, expected: str) -> None:
    """A wrong value is told with its line, its key, what it is and what was expected."""
    assert f"dispatch.toml, line 2: {key} {expected}" == refusal(tmp_path, f"# mine\n{key} = {value}\n")


@pytest.mark.parametrize(("text", "expected"), NAMES, ids=[text for text, _ in NAMES])
def test_wrong_key_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """An unknown key names the nearest known one; a cap and a secret say what to do instead."""
    assert f"dispatch.toml, line 2: {expected}" == refusal(tmp_path, f"# mine\n{text}\n")


@pytest.mark.parametrize(("text", "expected"), CIRCLES, ids=["over a built-in link", "itself", "three"])
def test_circle_of_fallbacks_is_told(tmp_path: Path, text: str, expected: str) -> None:
    """A circle of fallbacks is drawn, at a link that the file has."""
    advice = '; let one of them have the fallback "none"'
    assert f"dispatch.toml, line 1: {expected}{advice}" == refusal(tmp_path, text)


def test_all_mistakes_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    """One reading finds every mistake."""
    text = "[breakers]\nopen_s = -1\n\n[retry]\njiter = 0\nmax_tokens = 0\n\n[providers.gemini]\napi_key = 'k'\n"
    assert refusal(tmp_path, text).splitlines() == [
        "dispatch.toml has 4 mistakes:",
        f"  line 2: breakers.open_s is -1, expected {WEEK}",
        "  line 5: retry.jiter is not known; did you mean retry.jitter?",
        "  line 6: retry.max_tokens is 0, expected a whole number from 1 to 10_000_000",
        f"  line 9: providers.gemini.api_key {SECRET} set GEMINI_API_KEY in the environment",
    ]


def test_list_of_mistakes_has_an_end(tmp_path: Path) -> None:
    """A file that is nothing but mistakes gives a screenful."""
    told = refusal(tmp_path, "".join(f"x{number} = 1\n" for number in range(30))).splitlines()
    assert ("dispatch.toml has 30 mistakes, the first 20:", 21) == (told[0], len(told))


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"retry": {"retry_count": None}}, f"<python>: retry.retry_count is nothing, expected {RETRIES}"),
        ({"retry": {"retry_count": object()}}, f"<python>: retry.retry_count is a object, expected {RETRIES}"),
        ({"retry": {"jitter": float("nan")}}, "<python>: retry.jitter is nan, expected a number from 0 to 1"),
        ({"tiers": {"pro": {"fallback": "pro"}}}, "<python>: tiers.pro.fallback makes a circle: pro -> pro"),
        ([], "<python>: the configuration is a list of 0 values, expected a table"),
        ({"providers": {"x.y:z": {"password": "p"}}}, f'<python>: providers."x.y:z".password {SECRET}'),
    ],
    ids=["None", "an object", "nan", "circle", "no mapping", "secret"],
)
def test_python_is_told_the_same(mapping: Any, expected: str) -> None:
    """``from_mapping`` says the same, without a line."""
    with pytest.raises(ConfigurationError) as refused:
        Config.from_mapping(mapping)
    assert str(refused.value).startswith(expected)


def test_values_are_not_repeated_when_they_may_be_secret(tmp_path: Path) -> None:
    """A key under any name, and a password of a URL, are never shown."""
    word = "sk-canary-0123456789-0123456789"
    text = f'anthropic_api_key = "{word}"\nledger = "postgresql://me:{word}@h/d"\n[retry]\non_unknown = "{word}"\n'
    assert word not in refusal(tmp_path, text)


def test_model_made_directly_checks_too() -> None:
    """``Config(...)`` refuses what ``from_mapping`` refuses, as pydantic does."""
    with pytest.raises(ValidationError, match="a whole number from 0 to 100"):
        Config.model_validate({"retry": {"retry_count": "2"}})
