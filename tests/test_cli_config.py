"""``config``: what is in force, where it comes from, and nothing that is a secret."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ledger.config import Config, load_config
from ledger.config.load import load
from ledger.config.origins import settings, without_password
from ledger.registry import ModelTier
from ledger.remarks import remarks
from tests.command_line import CommandLine

WRITTEN = """\
[retry]
retry_count = 5

[tiers.flash]
provider = "simulated"
model = "m"
fallback = "none"

[providers.simulated]
failures = { rate_limited = 0.25 }
models.slow = { latency_ms = 500, script = ["overloaded", { text = "hi\\u0007 ü \\u007f" }] }

[providers."acme.models:make"]
region = "eu"
deep = { auth = "canary-1", list = ["x://me:canary-2@host"] }
session_token_file = "canary-3"
"""


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """An empty folder."""
    assert not list(empty_folder.iterdir())
    return CommandLine(capsys)


def origins(document: Any) -> dict[str, tuple[Any, str, str | None, int | None]]:
    """Return what the document says of each key."""
    return {one["key"]: (one["value"], one["source"], one["name"], one["line"]) for one in document["values"]}


def test_the_defaults_are_built_in(cli: CommandLine) -> None:
    """Without a file, an option or a variable everything is built in, and is the default."""
    ended = cli("config", "--json")
    assert (ended.code, ended.err, ended.json["file"], ended.json["warnings"]) == (0, "", None, [])
    assert {"built-in"} == {one["source"] for one in ended.json["values"]}
    assert Config.from_mapping(tomllib.loads(cli("config").out)) == Config()


def test_each_value_says_where_it_comes_from(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's line, built in, the variable, the option: the one that won."""
    Path("dispatch.toml").write_text(WRITTEN)
    found = origins(cli("config", "--json").json)
    assert found["retry.retry_count"] == (5, "file", "dispatch.toml", 2)
    assert found["retry.max_tokens"] == (4096, "built-in", None, None)
    assert found["tiers.flash.fallback"] == (None, "file", "dispatch.toml", 7)
    assert found["providers.simulated.failures.rate_limited"] == (0.25, "file", "dispatch.toml", 10)
    assert found["providers.simulated.models.slow.latency_ms"] == ([500, 500], "file", "dispatch.toml", 11)
    assert found["ledger"] == ("sqlite:///dispatch.db", "built-in", None, None)
    monkeypatch.setenv("DISPATCH_LEDGER_URL", "other.db")
    assert origins(cli("config", "--json").json)["ledger"] == ("other.db", "environment", "DISPATCH_LEDGER_URL", None)
    asked = cli("config", "--json", "--ledger", "third.db")
    assert origins(asked.json)["ledger"] == ("third.db", "option", "--ledger", None)


def test_what_is_printed_is_the_same_configuration(cli: CommandLine) -> None:
    """The text can be kept as a file and means what it was made from; its comments say the origins."""
    Path("dispatch.toml").write_text(WRITTEN.partition('[providers."acme')[0])
    ended = cli("config")
    Path("copy.toml").write_text(ended.out)
    assert load_config("copy.toml") == load_config("dispatch.toml")
    assert "retry_count = 5  # line 2\n" in ended.out
    assert "\x07" not in ended.out


def test_no_secret_is_printed(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are set or not set; a foreign provider's settings with such names, and passwords in URLs, are hidden."""
    Path("dispatch.toml").write_text(WRITTEN)
    monkeypatch.setenv("GEMINI_API_KEY", "canary-4")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://me:canary-5@host")
    monkeypatch.setenv("DISPATCH_LEDGER_URL", "postgresql://me:canary-6@host/db?password=canary-7")
    text, document = cli("config"), cli("config", "--json")
    assert "canary" not in text.out + text.err + document.out + document.err
    assert "#   GEMINI_API_KEY is set\n" in text.out
    is_set = document.json["environment"]
    assert (is_set["GEMINI_API_KEY"], is_set["ANTHROPIC_API_KEY"]) == (True, False)
    found = origins(document.json)
    assert found['providers."acme.models:make".region'] == ("eu", "file", "dispatch.toml", 14)
    assert found["ledger"][0] == "postgresql://me:…@host/db?password=…"


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        pytest.param("sqlite:///a.db", "sqlite:///a.db", id="none"),
        pytest.param("postgresql://me@h/d", "postgresql://me@h/d", id="a user alone"),
        pytest.param("postgresql://me:a@b@h/d", "postgresql://me:…@h/d", id="an at sign inside"),
        pytest.param("postgresql://me:a/b@h/d", "postgresql://me:…@h/d", id="a slash inside"),
        pytest.param(
            "postgresql:///d?user=me&PASSWORD=x&a=b", "postgresql:///d?user=me&PASSWORD=…&a=b", id="an option"
        ),
    ],
)
def test_a_password_is_left_out(place: str, shown: str) -> None:
    """Whatever it is made of."""
    assert shown == without_password(place)


def test_a_mistake_is_told_as_everywhere(cli: CommandLine) -> None:
    """A file that cannot be used gives its message and exit code 2."""
    Path("dispatch.toml").write_text("[retry]\nretries = 2\n")
    ended = cli("config")
    assert (ended.code, ended.out) == (2, "")
    assert "dispatch.toml, line 2: retry.retries is not known" in ended.err


def test_every_key_is_printed() -> None:
    """What is in force has all tables, in their order."""
    found = settings(load(None, environ={}, cwd="/"), environ={})
    assert list(Config.model_fields) == list(dict.fromkeys(one.path[0] for one in found))
    tiers = dict.fromkeys(one.path[1] for one in found if one.path[0] == "tiers")
    assert [tier.value for tier in ModelTier] == list(tiers)


@pytest.mark.parametrize(
    ("model", "kind", "advice"),
    [
        pytest.param("gemini-3.5-flash", "rewritten", 'write model = "gemini-3.8-flash"', id="rewritten"),
        pytest.param("gemini-3-pro-preview", "rewritten", 'write model = "gemini-3.1-pro-preview"', id="rewritten too"),
        pytest.param("gemini-2.5-flsh", "unknown", "did you mean gemini-2.5-flash?", id="a slip"),
        pytest.param("lyra-9", "unknown", "a new model may well be right", id="like no other"),
    ],
)
def test_a_doubtful_model_is_warned_about(cli: CommandLine, model: str, kind: str, advice: str) -> None:
    """Rewritten and unknown models of the CLI are told apart, beside the answer, and nothing is refused."""
    Path("dispatch.toml").write_text(f'[tiers.pro]\nmodel = "{model}"\n')
    (warning,) = cli("config", "--json").json["warnings"]
    assert (warning["tier"], warning["model"], warning["kind"]) == ("pro", model, kind)
    ended = cli("config")
    assert ended.code == 0
    assert ended.err.startswith("warning: tiers.pro: ")
    assert advice in ended.err


def test_a_run_is_warned_before_it_costs_anything(cli: CommandLine) -> None:
    """Who may call a doubtful model hears of it on standard error, and the run goes on; who cannot does not."""
    doubtful = '[tiers.pro]\nmodel = "gemini-3.5-flash"\n'
    simulated = '[tiers.flash]\nprovider = "simulated"\nfallback = "pro"\n[tiers.haiku]\nprovider = "simulated"\n'
    Path("dispatch.toml").write_text(simulated + doubtful)
    ended = cli("run", "-t", "flash", "hello", "--json")
    assert (ended.code, json.loads(ended.out)["success"]) == (0, True)
    assert ended.err.startswith("warning: tiers.pro: the Gemini CLI silently asks for gemini-3.8-flash")
    assert [cli(*argv).err.count("warning") for argv in (["tasks"], ["run", "-t", "haiku", "hello"])] == [0, 0]


def test_the_defaults_need_no_warning() -> None:
    """The built-in models are known."""
    assert remarks(Config()) == ()


def test_it_says_what_is_left(cli: CommandLine) -> None:
    """Of each day's cap, by what the ledger holds; one that is not there has spent nothing, and is not made."""
    Path("dispatch.toml").write_text(
        """
        [tiers.haiku]
        provider = "simulated"
        model = "mine"
        [prices."simulated/mine"]
        input_usd_per_mtok = 1
        output_usd_per_mtok = 5
        [budget]
        max_usd_per_day = 2
        per_tier.haiku = 1.5
        per_label."team=a" = 0.5
        max_usd_per_task = 0.1
        """
    )
    before = cli("config", "--json").json["budgets"]
    assert [(one["cap"], one["left_nano_usd"]) for one in before] == [
        ("max_usd_per_day", 2 * 10**9),
        ("per_label.team=a", 5 * 10**8),
        ("per_tier.haiku", 15 * 10**8),
    ]
    assert not Path("dispatch.db").exists()
    cost = cli("run", "hello", "--tier", "haiku", "--json").json["cost_nano_usd"]
    assert cost > 0
    day, label, tier = cli("config", "--json").json["budgets"]
    assert (day["settled_nano_usd"], day["left_nano_usd"]) == (cost, 2 * 10**9 - cost)
    assert (label["settled_nano_usd"], tier["left_nano_usd"]) == (0, 15 * 10**8 - cost)
    assert f"per_tier.haiku: cap 1.50, {cost / 10**9:.9f}".rstrip("0") in cli("config").out
