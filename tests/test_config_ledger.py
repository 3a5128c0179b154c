"""Which ledger is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ledger.config import Config, resolve_ledger
from ledger.errors import UsageError


@pytest.mark.parametrize(
    ("option", "environ", "expected"),
    [
        ("o.db", {"DISPATCH_LEDGER_URL": "v.db"}, "o.db"),
        (None, {"DISPATCH_LEDGER_URL": "postgresql://me:word@host/db"}, "postgresql://me:word@host/db"),
        (None, {"DISPATCH_LEDGER_URL": ""}, "c.db"),
        (None, {}, "c.db"),
    ],
    ids=["option", "variable", "empty variable", "configuration"],
)
def test_first_named_ledger_is_meant(option: str | None, environ: dict[str, str], expected: str) -> None:
    """The option goes before the variable, and that before the configuration."""
    assert expected == resolve_ledger(option, Config(ledger="c.db"), environ)


def test_ledger_is_looked_up_in_the_configuration_that_python_reads(tmp_path: Path) -> None:
    """Without a configuration at hand the one that ``load_config`` finds is asked."""
    file = tmp_path / "c.toml"
    file.write_text('ledger = "found.db"', encoding="utf-8")
    environ = {"DISPATCH_LEDGER_CONFIG": os.fspath(file)}
    assert resolve_ledger(environ=environ) == "found.db"


@pytest.mark.parametrize(
    ("option", "environ", "named"),
    [("", {}, "--ledger"), (None, {"DISPATCH_LEDGER_URL": "mysql://me:word@host/db"}, "DISPATCH_LEDGER_URL")],
    ids=["empty option", "another database"],
)
def test_place_of_no_ledger_is_refused_without_repeating_it(
    option: str | None, environ: dict[str, str], named: str
) -> None:
    """What names no ledger is an error that shows no password."""
    with pytest.raises(UsageError) as refused:
        resolve_ledger(option, Config(), environ)
    expected = f"{named} names no ledger; expected a path, sqlite:///PATH or postgresql://HOST/NAME"
    assert expected == str(refused.value)
