"""Finding and reading the configuration file, and finding the ledger."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from ledger.config.lines import Lines
from ledger.config.model import Config
from ledger.config.refusals import Wrong
from ledger.config.values import ledger_name
from ledger.errors import ConfigurationError

__all__ = ["CONFIG_VARIABLE", "LEDGER_VARIABLE", "Loaded", "find_config", "load", "load_config", "resolve_ledger"]

FILE: Final = "dispatch.toml"
CONFIG_VARIABLE: Final = "DISPATCH_LEDGER_CONFIG"
LEDGER_VARIABLE: Final = "DISPATCH_LEDGER_URL"
BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what it was read from."""

    config: Config
    source: str | None = None
    """The file, as it was named; None is the built-in defaults."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """What stands in the file."""
    lines: Lines = field(default_factory=Lines)


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] | None = None,
) -> Config:
    """Read the configuration: the named file, else ``DISPATCH_LEDGER_CONFIG``, else ``dispatch.toml``, else defaults.

    Args:
        path: the file, when the caller names one.
        environ: the environment; an empty variable counts as unset.
        cwd: the folder that relative names start from; None is the working folder.

    Raises:
        ConfigurationError: a named file that cannot be read, or anything wrong in it.
    """
    return load(path, environ=environ, cwd=cwd).config


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Read the configuration as ``load_config`` does, and keep where everything in it came from.

    Raises:
        ConfigurationError: a named file that cannot be read, or anything wrong in it.
    """
    found = find_config(path, environ=environ, cwd=cwd)
    if found is None:
        return Loaded(Config())
    by = f" ({CONFIG_VARIABLE} names it)" if path is None and environ.get(CONFIG_VARIABLE) else ""
    text = _read(Path(cwd or "") / found, found, by)
    written, lines = _parse(text, found), Lines(text)
    return Loaded(Config.from_mapping(written, source=found, lines=lines), found, written, lines)


def find_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    cwd: str | os.PathLike[str] | None = None,
) -> str | None:
    """Return the file that ``load_config`` reads, as it was named, or None for the built-in defaults."""
    if path is not None:
        return os.fspath(path) or "."
    if environ.get(CONFIG_VARIABLE):
        return environ[CONFIG_VARIABLE]
    # A link that leads nowhere is there too: reading it fails, where taking the defaults would be a surprise.
    return FILE if os.path.lexists(Path(cwd or "") / FILE) else None


def resolve_ledger(
    option: str | None = None, config: Config | None = None, environ: Mapping[str, str] = os.environ
) -> str:
    """Return the ledger's place: the option, else ``DISPATCH_LEDGER_URL``, else the configuration's.

    Args:
        option: what ``--ledger`` says, if it was given.
        config: the configuration; None is read as ``load_config`` does, and only if it is asked.
        environ: the environment; an empty variable counts as unset.

    Raises:
        ConfigurationError: what was named is no place of a ledger; the message does not repeat it, for its password.
    """
    if option is not None:
        named, place = "--ledger", option
    elif environ.get(LEDGER_VARIABLE):
        named, place = LEDGER_VARIABLE, environ[LEDGER_VARIABLE]
    else:
        return (load_config(environ=environ) if config is None else config).ledger
    try:
        return ledger_name(place)
    except Wrong as wrong:
        raise ConfigurationError(f"{named} names no ledger; {wrong}") from None


def _read(path: Path, named: str, by: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"{named}: there is no such configuration file{by}") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{named} is a folder, expected a configuration file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{named}: the configuration file cannot be read: {why}") from error
    if len(content) > BYTES_MAX:
        raise ConfigurationError(f"{named} is larger than {BYTES_MAX} bytes, expected a configuration file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{named}, line {line}: not UTF-8 text; save the file as UTF-8") from None


def _parse(text: str, named: str) -> dict[str, Any]:
    too_long = f"{named} has a number or a nesting that is too long to read"
    try:
        written = tomllib.loads(text, parse_float=_decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{named} is not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(too_long) from None
    if _is_deep(written):
        raise ConfigurationError(too_long)
    return written


def _is_deep(written: Mapping[str, Any]) -> bool:
    """Say whether more levels lie in each other than any table here has; a key with dots makes one a dot."""
    level: list[Any] = [written]
    for _ in range(DEPTH_MAX):
        parts = [value.values() if isinstance(value, dict) else value for value in level]
        level = [part for within in parts for part in within if isinstance(part, dict | list)]
    return bool(level)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:
        # An exponent beyond all bounds: refused with the key's name, as every number that is out of range.
        return Decimal("Infinity")
