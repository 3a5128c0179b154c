"""Secrets never reach an event, a message, a complaint or an export; prompts and answers stay as they are."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from clients.anthropic import AnthropicClient
from clients.base import ExecutionResult, Usage
from ledger import Config, Executor, Ledger
from ledger.concealment import HIDDEN, concealment, pattern_fault
from ledger.errors import ConfigurationError, RequestRefused
from tests.command_line import CommandLine
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.ledgers import fresh_ledger
from tests.test_redaction import holding
from tests.world import World, answer, fail, rows

KEY = "sk-ant-api03-canary-0123456789abcdef"
PLAIN = "plain-canary-value-77"
ENVIRON = {
    "ANTHROPIC_API_KEY": KEY,
    "GEMINI_API_KEY": PLAIN,
    "HTTPS_PROXY": "http://user:pa55+word!@proxy:3128",
    "LANG": "canary-free",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(f"invalid x-api-key {KEY}!", f"invalid x-api-key {HIDDEN}!", id="a key of the environment"),
        pytest.param(f"({PLAIN})", f"({HIDDEN})", id="one without a shape"),
        pytest.param(f"…{PLAIN[:14]}… and …{PLAIN[-13:]}", f"…{HIDDEN}… and …{HIDDEN}", id="cut at either end"),
        pytest.param("pa55%2Bword%21 pa55+word!", f"{HIDDEN} {HIDDEN}", id="a proxy's password, quoted as well"),
        pytest.param("sk-ant-api99-somebodyelses", HIDDEN, id="somebody else's key"),
        pytest.param("AIzaSyD-zyxwvutsrqponmlkjihg", HIDDEN, id="a Google key"),
        pytest.param("Authorization: Bearer abc.def-123", f"Authorization: Bearer {HIDDEN}", id="a bearer token"),
        pytest.param("the bearer authentication failed", "the bearer authentication failed", id="words"),
        pytest.param("http://u:p@h/x http://h:80/a@b", f"http://{HIDDEN}@h/x http://h:80/a@b", id="a URL's password"),
        pytest.param('{"api_key": "zzzzzzzz9"}', f'{{"api_key": "{HIDDEN}"}}', id="a field of JSON"),
        pytest.param("?key=abcdef&x=1", f"?key={HIDDEN}&x=1", id="a query"),
        pytest.param("ticket EMP-123456", f"ticket {HIDDEN}", id="a pattern of one's own"),
        pytest.param("request req_011CSHoEeqs5C35K2UUqR7Fy", "request req_011CSHoEeqs5C35K2UUqR7Fy", id="a request"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_what_is_hidden(text: str, shown: str) -> None:
    assert concealment([r"EMP-\d{6}"], ENVIRON)(text) == shown


def test_no_text_makes_it_slow() -> None:
    hide = concealment([r"[a-z]{1,9}-\d{4,12}"], ENVIRON)
    texts = ["bearer " * 9000, "://a:" * 13000, "sk-" * 20000, KEY[:12] * 5000, "a" * 65536, "key=key:" * 8000]
    begun = time.process_time()
    for text in texts:
        hide(text)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        (r"EMP-\d{6}", None),
        (r"(?:tok|key)_[a-z0-9]{20,64}", None),
        (r"a+", "at most"),
        (r".*x", "at most"),
        (r"(a{1,9}){1,9}", "fewer ways"),
        (r"(a)\1", "fewer ways"),
        (r"x?", "empty"),
        (r"(", "regular expression"),
        ("", "1 to 256"),
    ],
)
def test_a_pattern_is_bounded(pattern: str, fault: str | None) -> None:
    found = pattern_fault(pattern)
    assert (found is None) if fault is None else (fault in (found or ""))


@pytest.mark.parametrize("patterns", [["a+"], [1], "EMP", ["x"] * 33])
def test_the_configuration_refuses_other_patterns(patterns: object) -> None:
    with pytest.raises(ConfigurationError, match=r"redact\.patterns"):
        Config.from_mapping({"redact": {"patterns": patterns}})


PATHS = {
    "a message": fail("authentication", error=f"401 for {KEY}", status_code=401),
    "a request id": fail("overloaded", request_id=KEY, error="busy"),
    "a finish reason": answer().model_copy(update={"finish_reason": PLAIN}),
    "a served model": answer().model_copy(update={"served_model": KEY, "usage": (Usage(model=KEY),)}),
    "raw usage": answer().model_copy(update={"raw_usage": f'{{"note":"Bearer {PLAIN}"}}'}),
    "an exception": RuntimeError(f"POST https://me:{PLAIN}@host failed with {KEY}"),
    "a broken result": ExecutionResult.model_construct(
        model="m",
        success=False,
        error=f"{KEY} {PLAIN}",
        error_type="other",
        response="",
        usage=(KEY,),  # type: ignore[arg-type]  # as a client of somebody else's might
    ),
    "a pattern": fail("invalid_request", error="EMP-123456 is not allowed"),
}


@pytest.mark.parametrize("play", [pytest.param(play, id=name) for name, play in PATHS.items()])
async def test_no_way_of_failing_writes_one_down(
    play: ExecutionResult | BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the ledger's bytes nor the result hold one; the prompt, which is the user's own, holds what it held."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    world = World(tmp_path, script=[play])
    world.config = Config.model_validate({"redact": {"patterns": [r"EMP-\d{6}"]}, "retry": {"retry_count": 0}})
    async with world.executor() as executor:
        result = await executor.execute("haiku", "the user's own sk-ant-words-of-a-prompt")
    held = [row["data"] for row in rows(world.path, "SELECT data FROM events")]
    held += [row["bytes"].decode() for row in rows(world.path, "SELECT bytes FROM payloads WHERE slot <> 'prompt'")]
    held += [str(row) for row in rows(world.path, "SELECT * FROM attempts")]
    told = "\n".join([*held, str(result.error), str(result.request_id), str(result.raw_usage)])
    assert [secret for secret in (KEY, PLAIN, "EMP-123456") if secret in told] == []
    assert HIDDEN in told or "cannot be recorded" in told
    (prompt,) = rows(world.path, "SELECT bytes FROM payloads WHERE slot = 'prompt'")
    assert prompt["bytes"] == b"the user's own sk-ant-words-of-a-prompt"


@pytest.mark.parametrize(
    "asked", [{"labels": {"key": KEY}}, {"labels": {KEY: "a"}}, {"idempotency_key": f"for {KEY}"}], ids=str
)
async def test_what_cannot_be_erased_takes_none(asked: dict[str, object], tmp_path: Path) -> None:
    """A label or a key stands in an event for ever; the refusal does not repeat what it refuses."""
    world = World(tmp_path)
    async with world.executor() as executor:
        with pytest.raises(RequestRefused) as told:
            await executor.execute("haiku", "hello", **asked)  # type: ignore[arg-type]  # a table's column
    assert (KEY in str(told.value), world.types()) == (False, [])


def test_complaints_hold_none(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", PLAIN)
    fresh_ledger(empty_folder).rename(empty_folder / "dispatch.db")
    ended = CommandLine(capsys)("show", PLAIN)
    assert (ended.code, PLAIN in ended.err, HIDDEN in ended.err) == (2, False, True)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(api.error(401, "authentication_error", f"invalid x-api-key: {KEY}"), id="401"),
        pytest.param(api.error(500, "api_error", f"upstream said Bearer {KEY}", headers={"request-id": KEY}), id="500"),
        pytest.param(api.raw(f"<html>{KEY}</html>", content_type="text/html"), id="no JSON"),
    ],
)
async def test_a_provider_that_repeats_the_key(step: api.Step, tmp_path: Path) -> None:
    """Through the real SDK, in body and headers; no file beside the ledger holds it either."""
    with Emulator() as emulator:
        server = api.Anthropic(emulator)
        server.script(step)
        config = Config.model_validate({"retry": {"retry_count": 0}, "tiers": {"haiku": {"fallback": None}}})
        async with Ledger.open(tmp_path / "dispatch.db") as ledger:
            build = partial(AnthropicClient, api_key=KEY, base_url=server.url)
            async with Executor(ledger, config, build=lambda _provider, model, _settings: build(model)) as executor:
                result = await executor.execute("haiku", "hello")
            assert holding(tmp_path, KEY) == []
    assert (result.success, KEY in str(result)) == (False, False)
