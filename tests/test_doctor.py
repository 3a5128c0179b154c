"""``doctor``: each thing that can keep a machine from dispatching is found, and said with what to do."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.anthropic_models import SdkModels, sdk_models
from clients.gemini_lockdown import LIMIT, PROMPT, SYSTEM, Sent, departures, loopback
from ledger.config import Config
from ledger.doctor import machine
from ledger.remarks import remarks
from tests.command_line import CONFIG, CommandLine
from tests.fake_cli import fake_cli
from tests.ledgers import fresh_ledger

LEVELS = {"ok", "note", "warning", "stop"}
CHECKS = ["python", "packages", "sqlite", "configuration", "ledger", "keys", "tiers", "clock"]

GOOD = Sent(
    "gemini-2.5-flash",
    "0.61.0",
    {
        "contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "tools": [],
        "generationConfig": {"maxOutputTokens": LIMIT},
    },
)

PRO = '[tiers.pro]\nprovider = "simulated"\nmodel = "loud"\n'
FAKE = """
import json, os, sys, urllib.request
if "--acp" in sys.argv:
    sys.exit("Unknown argument: acp")
def ask(**more):
    body = json.dumps({"contents": [], **more}).encode()
    url = os.environ["GOOGLE_GEMINI_BASE_URL"] + "/v1beta/models/gemini-2.5-pro:streamGenerateContent"
    request = urllib.request.Request(url, body, {"User-Agent": "GeminiCLI/1.0.0 (test)"})
    urllib.request.urlopen(request).read()
"""


def changed(**body: Any) -> tuple[Sent, ...]:
    """Return a request that departs in one thing."""
    return (replace(GOOD, body={**GOOD.body, **body}),)


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A folder with simulated models only."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    return CommandLine(capsys)


def levels(document: Any) -> dict[str, str]:
    """Return the worst that was found of each thing."""
    order = ["ok", "note", "warning", "stop"]
    worst: dict[str, str] = {}
    for one in document["findings"]:
        worst[one["check"]] = max(worst.get(one["check"], "ok"), one["level"], key=order.index)
    return worst


def finding(document: Any, check: str) -> Any:
    """Return the first finding of a thing."""
    return next(one for one in document["findings"] if one["check"] == check)


def test_a_machine_with_simulated_models_can_dispatch(cli: CommandLine) -> None:
    """Without a ledger yet, which is a note: the first command makes it; and looking makes none."""
    ended = cli("doctor", "--json")
    assert (ended.code, ended.err, ended.json["ok"]) == (0, "", True)
    assert {tier["ok"] for tier in ended.json["tiers"].values()} == {True}
    assert set(CHECKS) <= set(levels(ended.json))
    assert LEVELS >= set(levels(ended.json).values())
    assert finding(ended.json, "ledger")["level"] == "note"
    assert not Path("dispatch.db").exists()


def test_a_ledger_that_stands_is_told(cli: CommandLine) -> None:
    """Guards, permissions, disk and clock are looked at, and the ledger is as it was."""
    cli("run", "-t", "haiku", "hello")
    before = Path("dispatch.db").read_bytes()
    ended = cli("doctor", "--json")
    assert (ended.code, Path("dispatch.db").read_bytes()) == (0, before)
    found = levels(ended.json)
    assert {name: found[name] for name in ("ledger", "permissions", "clock")} == dict.fromkeys(
        ("ledger", "permissions", "clock"), "ok"
    )
    assert "the newest event is number 4" in finding(ended.json, "ledger")["said"]


def test_keys_are_never_shown(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whether they are set."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-1")
    ended, text = cli("doctor", "--json"), cli("doctor")
    assert finding(ended.json, "keys")["said"] == "GEMINI_API_KEY is not set, ANTHROPIC_API_KEY is set"
    assert "canary" not in ended.out + ended.err + text.out + text.err


def test_a_machine_without_keys_and_cli_cannot_dispatch(cli: CommandLine) -> None:
    """Every tier says why, and what to do; the exit code is 1."""
    Path("dispatch.toml").write_text('[providers.gemini]\ncommand = "no-such-gemini"\n')
    ended = cli("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (1, False)
    said = [(one["level"], one["said"]) for one in ended.json["findings"] if one["check"] in {"gemini", "tiers"}]
    assert [level for level, _ in said] == ["warning", "stop", "stop"]
    assert "npm install -g @google/gemini-cli" in said[0][1]
    assert said[1][1].startswith("flash, pro cannot be called: the Gemini CLI (no-such-gemini) was not found")
    assert said[2][1] == "haiku, sonnet, opus cannot be called: no key for Anthropic: set ANTHROPIC_API_KEY"


def test_one_tier_is_enough(cli: CommandLine) -> None:
    """A tier that cannot be called is a warning where another can; a provider that cannot be loaded has no fallback."""
    simulated = 'provider = "simulated"\nmodel = "flaky"'
    Path("dispatch.toml").write_text(CONFIG.replace(simulated, 'provider = "nowhere.models:make"'))
    ended = cli("doctor", "--json")
    assert (ended.code, ended.json["tiers"]["flash"]["ok"], ended.json["tiers"]["haiku"]["ok"]) == (0, False, True)
    told = finding(ended.json, "tiers")
    assert (told["level"], "No module named 'nowhere'" in told["said"]) == ("warning", True)
    assert told["advice"] == (
        "until then tasks for flash are refused; mend it, or name another provider in [tiers.flash]"
    )
    assert cli("run", "-t", "flash", "hello").code == 2


def test_a_file_that_is_no_ledger_says_what_to_do(cli: CommandLine) -> None:
    """A command that could say no more is not named."""
    Path("notes.txt").write_text("these are notes, and no ledger\n" * 40)
    told = finding(cli("doctor", "--json", "--ledger", "notes.txt").json, "ledger")
    assert (told["level"], told["advice"]) == ("stop", "put a backup in its place, or name another ledger by --ledger")


def test_a_broken_configuration_is_a_finding(cli: CommandLine) -> None:
    """The rest is still looked at, and nothing can be dispatched before it is mended."""
    Path("dispatch.toml").write_text("[retry]\nretries = 1\n[providers.gemini]\ncommand = 'no-such-gemini'\n")
    ended = cli("doctor", "--json")
    assert ended.code == 1
    assert finding(ended.json, "configuration")["said"].startswith("dispatch.toml, line 2: retry.retries is not known")
    assert "disk" in levels(ended.json)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param("DROP TRIGGER events_no_delete", "events_no_delete is missing", id="a guard is gone"),
        pytest.param("UPDATE alembic_version SET version_num = '9999'", "newer than this program", id="newer"),
        pytest.param("PRAGMA application_id = 7", "not a ledger", id="somebody else's"),
    ],
)
def test_a_ledger_that_cannot_be_used_stops(cli: CommandLine, spoil: str, said: str) -> None:
    """It says what is wrong with it; the exit code is 1, never 3."""
    path = fresh_ledger(Path.cwd())
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(spoil)
    ended = cli("doctor", "--json", "--ledger", str(path))
    assert (ended.code, finding(ended.json, "ledger")["level"]) == (1, "stop")
    assert said in finding(ended.json, "ledger")["said"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        pytest.param("nowhere/x.db", "nor its folder", id="no folder"),
        pytest.param("dispatch.toml", "dispatch.toml", id="no database"),
        pytest.param("mysql://h/d", "names no ledger", id="another engine"),
    ],
)
def test_a_place_that_holds_no_ledger_stops(cli: CommandLine, place: str, said: str) -> None:
    """And says why."""
    ended = cli("doctor", "--json", "--ledger", place)
    assert (ended.code, finding(ended.json, "ledger")["level"]) == (1, "stop")
    assert said in finding(ended.json, "ledger")["said"]


def test_a_ledger_that_others_can_read_is_a_warning(cli: CommandLine) -> None:
    """With the command that mends it."""
    path = fresh_ledger(Path.cwd())
    path.chmod(0o644)
    ended = cli("doctor", "--json", "--ledger", str(path))
    told = finding(ended.json, "permissions")
    assert (ended.code, told["level"]) == (0, "warning")
    assert told["advice"] == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("free", "level", "code"),
    [
        pytest.param(2**40, "ok", 0, id="room"),
        pytest.param(50 << 20, "warning", 0, id="little"),
        pytest.param(1000, "stop", 1, id="none"),
    ],
)
def test_a_full_disk_is_found(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, free: int, level: str, code: int
) -> None:
    """Little room is a warning; with none nothing can be recorded, so nothing may be called."""
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    ended = cli("doctor", "--json")
    assert (code, level) == (ended.code, finding(ended.json, "disk")["level"])


@pytest.mark.parametrize(
    ("newest_ms", "stepped_ms", "level", "said"),
    [
        pytest.param(None, 0, "ok", "not behind", id="no ledger"),
        pytest.param(1_000_000, 5, "ok", "not behind", id="in time"),
        pytest.param(1_059_000, 0, "ok", "not behind", id="a little"),
        pytest.param(87_461_000, 0, "warning", "1 day, 0:01:01 behind", id="set back"),
        pytest.param(None, -5_000, "warning", "moved by -5,000 ms", id="set while it ran"),
    ],
)
def test_a_clock_that_was_set_is_found(newest_ms: int | None, stepped_ms: int, level: str, said: str) -> None:
    """Against the newest event, and against a clock that nobody sets."""
    found = machine.clock(1_000_000, newest_ms, stepped_ms)
    assert (level, True) == (found.level, said in found.said)


@pytest.mark.parametrize(
    ("version", "level"),
    [
        pytest.param("3.6.23", "ok", id="before write-ahead logs"),
        pytest.param("3.7.0", "note", id="the first"),
        pytest.param("3.40.1", "note", id="between"),
        pytest.param("3.51.2", "note", id="the last"),
        pytest.param("3.51.3", "ok", id="mended"),
        pytest.param("3.52.0", "ok", id="later"),
    ],
)
def test_what_is_known_of_sqlite(version: str, level: str) -> None:
    """Releases with the bug say what it means; the others are simply named."""
    assert level == machine.sqlite(version).level


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        pytest.param((GOOD,), [], id="locked down"),
        pytest.param((), ["it made 0 requests where it was told to make one"], id="none"),
        pytest.param((GOOD, GOOD), ["it made 2 requests where it was told to make one"], id="two"),
        pytest.param(changed(tools=[{"functionDeclarations": []}]), ["it offers tools to the model"], id="tools"),
        pytest.param(
            changed(contents=[{"role": "user", "parts": [{"text": "<session>"}, {"text": PROMPT}]}]),
            ["it changes the prompt or adds to it"],
            id="a page before the prompt",
        ),
        pytest.param(changed(systemInstruction=None), ["it changes the system text or adds to it"], id="no system"),
        pytest.param(changed(generationConfig={}), ["it loses the output limit"], id="no limit"),
        pytest.param(
            (replace(GOOD, body={}),),
            [
                "it changes the prompt or adds to it",
                "it changes the system text or adds to it",
                "it loses the output limit",
            ],
            id="garbage",
        ),
    ],
)
def test_a_cli_that_does_not_keep_to_the_lockdown_is_found(sent: tuple[Sent, ...], said: list[str]) -> None:
    """Each way out is named."""
    assert said == list(departures(sent))


async def test_the_loopback_port_keeps_what_it_is_sent() -> None:
    """Model, version and body of a request; and it answers, so that the CLI ends as it would."""
    body = json.dumps({"contents": []}).encode()
    async with loopback() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port.url.rpartition(":")[2]))
        writer.write(
            b"POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse HTTP/1.1\r\n"
            b"User-Agent: GeminiCLI-tui/1.2.3/gemini-x (linux)\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert port.sent == [Sent("gemini-x", "1.2.3", {"contents": []})]
    assert b'"text": "ready"' in answer


@pytest.mark.parametrize(
    ("program", "said"),
    [
        pytest.param("sys.exit(52)", "does not work here: the Gemini CLI refused its settings", id="refuses"),
        pytest.param("ask(); ask()", "1.0.0 does not keep to the lock-down: it made 2 requests", id="asks twice"),
        pytest.param("ask(tools=[1])", "1.0.0 does not keep to the lock-down: it offers tools", id="offers tools"),
        pytest.param("ask()", "does not keep to the lock-down: it changes the prompt", id="a prompt of its own"),
        pytest.param(
            f"ask(**json.loads({json.dumps(GOOD.body)!r})); print(json.dumps({{'response': 'ready'}}))",
            "keeps to the lock-down: one request, no tools, the texts as they are; but it cannot be kept warm",
            id="too old to be kept",
        ),
    ],
)
def test_another_cli_is_found_out(cli: CommandLine, empty_folder: Path, program: str, said: str) -> None:
    """A version that does not do as it is told is a warning, with one that does."""
    fake = fake_cli(empty_folder, f"{FAKE}{program}\n", name="fake-gemini")
    gemini = f'[providers.gemini]\ncommand = "{fake}"\n[tiers.pro]\nmodel = "gemini-2.5-pro"\n'
    (empty_folder / "dispatch.toml").write_text(CONFIG.replace(PRO, "") + gemini)
    ended = cli("doctor", "--json")
    told = finding(ended.json, "gemini")
    assert (told["level"], said in told["said"]) == ("warning", True), told
    assert "npm install -g @google/gemini-cli@" in told["advice"]


@pytest.mark.gemini_cli
def test_the_real_cli_is_asked(cli: CommandLine) -> None:
    """It keeps to the lock-down, and what it rewrites is seen; without a key nothing of it can be called."""
    simulated = 'provider = "simulated"\nmodel = "loud"'
    Path("dispatch.toml").write_text(CONFIG.replace(simulated, 'model = "gemini-3.5-flash"'))
    ended = cli("doctor", "--json")
    told = finding(ended.json, "gemini")
    assert (told["level"], "keeps to the lock-down" in told["said"]) == ("ok", True), told
    assert "a process, which is then kept for many" in told["said"]
    (model,) = [one["said"] for one in ended.json["findings"] if one["check"] == "models"]
    assert model == "tiers.pro: the Gemini CLI silently asks for gemini-3.8-flash where it is told gemini-3.5-flash"
    assert ended.json["tiers"]["pro"]["why"] == "no key for Gemini: set GEMINI_API_KEY"


def test_the_sdk_says_which_models_are_deprecated_and_known() -> None:
    """Of Anthropic's models the SDK's own tables decide; the built-in ones are in them."""
    sdk = sdk_models()
    assert remarks(Config(), sdk) == ()
    tiers = {"haiku": {"model": "claude-sonnet-4-20250514"}, "opus": {"model": "claude-opus-5-6"}}
    found = remarks(Config.from_mapping({"tiers": tiers}), sdk)
    assert [("haiku", "deprecated"), ("opus", "unknown")] == [(one.tier, one.kind) for one in found]
    assert found[1].advice.startswith("did you mean claude-opus-5-")


def test_an_sdk_without_a_list_knows_every_model() -> None:
    """Then nothing is called unknown."""
    config = Config.from_mapping({"tiers": {"opus": {"model": "claude-opus-9"}}})
    assert remarks(config, SdkModels("9.0", frozenset(), {})) == ()
