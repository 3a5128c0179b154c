"""The configuration: its defaults, where it is read from, and how tables merge."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ledger.config import Config, find_config, load_config
from ledger.errors import ConfigurationError

DOCUMENTED = """
ledger = "sqlite:///dispatch.db"

[retry]
retry_count = 2
max_tokens = 4096
backoff_initial_s = 1.0
backoff_multiplier = 2.0
backoff_max_s = 60.0
jitter = 0.2
retry_after_max_s = 300.0
on_unknown = "retry"
max_orphans = 5
on_truncated = "accept"

[tiers.flash]
provider = "gemini"
model = "gemini-2.5-flash"
fallback = "haiku"
timeout_s = 30

[tiers.pro]
provider = "gemini"
model = "gemini-2.5-pro"
timeout_s = 120

[tiers.haiku]
provider = "anthropic"
model = "claude-haiku-5-5"
timeout_s = 30

[tiers.sonnet]
provider = "anthropic"
model = "claude-sonnet-5-5"
timeout_s = 120

[tiers.opus]
provider = "anthropic"
model = "claude-opus-5-5"
timeout_s = 120

[providers.gemini]
command = "gemini"
mode = "warm"
concurrency = 2

[providers.anthropic]
concurrency = 16

[providers.simulated]
concurrency = 64

[breakers]
failures = 20
open_s = 5.0
open_max_s = 60.0

[budget]
unpriced = "refuse"
"""


def written(folder: Path, text: str | bytes, name: str = "dispatch.toml") -> Path:
    content = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(content)
    return folder


def read(folder: Path, text: str | bytes) -> Config:
    return load_config(environ={}, cwd=written(folder, text))


def test_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    """The file that the documentation shows says what no file says."""
    assert Config() == read(tmp_path, DOCUMENTED)


def test_defaults_are_read_again_from_their_json() -> None:
    """JSON of a configuration holds plain numbers, and is a configuration."""
    shown = json.loads(Config().model_dump_json())
    assert (0.2, 30) == (shown["retry"]["jitter"], shown["tiers"]["flash"]["timeout_s"])
    del shown["budget"]
    assert Config() == Config.from_mapping(shown)


@pytest.mark.parametrize(
    ("path", "environ", "files", "expected"),
    [
        ("a.toml", {"DISPATCH_LEDGER_CONFIG": "b.toml"}, ["a.toml", "b.toml", "dispatch.toml"], "a.toml"),
        (None, {"DISPATCH_LEDGER_CONFIG": "b.toml"}, ["b.toml", "dispatch.toml"], "b.toml"),
        (None, {"DISPATCH_LEDGER_CONFIG": ""}, ["dispatch.toml"], "dispatch.toml"),
        (None, {}, ["dispatch.toml"], "dispatch.toml"),
        (None, {}, [], None),
    ],
    ids=["option", "variable", "empty variable", "working folder", "built in"],
)
def test_first_named_file_is_read(
    tmp_path: Path, path: str | None, environ: dict[str, str], files: list[str], expected: str | None
) -> None:
    """The option goes before the variable, the variable before ``dispatch.toml``, and that before the defaults."""
    for name in files:
        written(tmp_path, f'ledger = "{name}.db"', name)
    assert expected == find_config(path, environ=environ, cwd=tmp_path)
    place = "sqlite:///dispatch.db" if expected is None else f"{expected}.db"
    assert place == load_config(path, environ=environ, cwd=tmp_path).ledger


def test_absolute_path_object_is_read(tmp_path: Path) -> None:
    """A path object names a file wherever the working folder is."""
    written(tmp_path, 'ledger = "x.db"', "c.toml")
    assert load_config(tmp_path / "c.toml", environ={}).ledger == "x.db"


def unreadable(folder: Path, kind: str) -> None:
    match kind:
        case "folder":
            (folder / "dispatch.toml").mkdir()
        case "dangling link":
            (folder / "dispatch.toml").symlink_to(folder / "nowhere")
        case "latin-1":
            written(folder, 'ledger = "x.db"\n# Gr\xfc\xdfe\n'.encode("latin-1"))
        case "utf-16":
            written(folder, 'ledger = "x.db"\n'.encode("utf-16"))
        case "large":
            written(folder, "#" * (1024 * 1024 + 1))
        case "broken":
            written(folder, "[retry]\nretry_count = = 2\n")
        case "twice":
            written(folder, "[retry]\njitter = 0\njitter = 1\n")
        case "long number":
            written(folder, f"[retry]\nretry_count = {'1' * 5000}\n")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("folder", "dispatch.toml is a folder, expected a configuration file"),
        ("dangling link", "dispatch.toml: there is no such configuration file"),
        ("latin-1", "dispatch.toml, line 2: not UTF-8 text; save the file as UTF-8"),
        ("utf-16", "dispatch.toml, line 1: not UTF-8 text; save the file as UTF-8"),
        ("large", "dispatch.toml is larger than 1048576 bytes, expected a configuration file"),
        ("broken", "dispatch.toml is not valid TOML: Invalid value (at line 2, column 15)"),
        ("twice", "dispatch.toml is not valid TOML: Cannot overwrite a value (at line 3, column 11)"),
        ("long number", "dispatch.toml has a number or a nesting that is too long to read"),
    ],
    ids=lambda value: value if " " not in value else None,
)
def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, kind: str, expected: str) -> None:
    """A file that is there is read or refused in words, never passed over."""
    unreadable(tmp_path, kind)
    with pytest.raises(ConfigurationError) as refused:
        load_config(environ={}, cwd=tmp_path)
    assert expected == str(refused.value)


@pytest.mark.parametrize(
    ("path", "environ", "expected"),
    [
        ("no.toml", {}, "no.toml: there is no such configuration file"),
        (
            None,
            {"DISPATCH_LEDGER_CONFIG": "no.toml"},
            "no.toml: there is no such configuration file (DISPATCH_LEDGER_CONFIG names it)",
        ),
        ("", {}, ". is a folder, expected a configuration file"),
        ("a\0b", {}, "a\0b: the configuration file cannot be read: embedded null byte"),
    ],
    ids=["option", "variable", "empty option", "no file name"],
)
def test_named_file_that_is_missing_is_an_error(
    tmp_path: Path, path: str | None, environ: dict[str, str], expected: str
) -> None:
    """A file that was asked for is never replaced by the defaults."""
    written(tmp_path, "")
    with pytest.raises(ConfigurationError) as refused:
        load_config(path, environ=environ, cwd=tmp_path)
    assert expected == str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b'\xef\xbb\xbf[tiers.pro]\nmodel = "m"\n', b'[tiers.pro]\r\nmodel = "m"\r\n', b'tiers.pro.model = "m"'],
    ids=["byte order mark", "CRLF", "dotted key"],
)
def test_files_of_every_editor_are_read(tmp_path: Path, content: bytes) -> None:
    """A byte order mark, CRLF and a missing last newline are no mistakes."""
    assert read(tmp_path, content).tiers.pro.model == "m"


def test_tables_merge_key_by_key(tmp_path: Path) -> None:
    """What a table leaves out stays built in."""
    config = read(tmp_path, '[tiers.flash]\ntimeout_s = 5\n[retry]\njitter = 0\n[providers.gemini]\ncommand = "g 2"\n')
    flash = Config().tiers.flash.model_copy(update={"timeout_s": Decimal(5)})
    assert flash == config.tiers.flash
    assert Config().tiers.opus == config.tiers.opus
    assert Config().retry.model_copy(update={"jitter": Decimal(0)}) == config.retry
    assert ("g 2", 2) == (config.providers.gemini.command, config.providers.gemini.concurrency)


def test_none_takes_a_fallback_away(tmp_path: Path) -> None:
    """TOML has no null, so a word removes the built-in fallback."""
    assert read(tmp_path, '[tiers.flash]\nfallback = "none"').tiers.flash.fallback is None


def test_python_gives_the_same_as_a_file(tmp_path: Path) -> None:
    """Floats, whole numbers and decimals of Python are the decimals that a file would have."""
    mapping: dict[str, Any] = {"retry": {"jitter": 0.1, "backoff_max_s": Decimal("0.3")}, "breakers": {"open_s": 7}}
    text = "[retry]\njitter = 0.1\nbackoff_max_s = 0.3\n[breakers]\nopen_s = 7\n"
    assert read(tmp_path, text) == Config.from_mapping(mapping)
