"""Where each value that is in force comes from; what could be a secret is never among the values."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from ledger.config.load import CONFIG_VARIABLE, LEDGER_VARIABLE, Loaded, resolve_ledger
from ledger.config.model import Config
from ledger.config.values import PROVIDERS

__all__ = ["KEYS", "VARIABLES", "Setting", "settings", "without_password"]

KEYS: Final[Mapping[str, str]] = {"gemini": "GEMINI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""Which variable holds a provider's key."""
VARIABLES: Final = (*KEYS.values(), "GOOGLE_GEMINI_BASE_URL", "ANTHROPIC_BASE_URL", LEDGER_VARIABLE, CONFIG_VARIABLE)
"""All that is read from the environment."""

HIDDEN: Final = "(hidden)"
USER_AND_PASSWORD: Final = re.compile(r"(://[^/@:]*:).*@")
PASSWORD_OPTION: Final = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
# A foreign provider's settings are its own; a name like one of these may hold what nobody else should read.
PRIVATE: Final = re.compile(r"key|token|secret|pass|auth|credential|cookie|header", re.IGNORECASE)

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """One value that is in force."""

    path: Path
    value: Any
    """As JSON has it."""
    source: Literal["built-in", "file", "environment", "option"]
    name: str | None = None
    """The file, variable or option."""
    line: int | None = None


def settings(
    loaded: Loaded, ledger_option: str | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[Setting, ...]:
    """Return every value that is in force, in the order of the tables.

    Raises:
        ConfigurationError: the option or variable of the ledger names none.
    """
    place = resolve_ledger(ledger_option, loaded.config, environ)
    found = [_setting(loaded, path, value) for path, value in _leaves(_dumped(loaded.config), ())]
    return (_ledger(found[0], place, ledger_option, environ), *found[1:])


def without_password(place: str) -> str:
    """Return a ledger's place as it may be shown."""
    return PASSWORD_OPTION.sub(r"\1…", USER_AND_PASSWORD.sub(r"\1…@", place))


def _ledger(configured: Setting, place: str, option: str | None, environ: Mapping[str, str]) -> Setting:
    shown = without_password(place)
    if option is not None:
        return Setting(configured.path, shown, "option", "--ledger")
    if environ.get(LEDGER_VARIABLE):
        return Setting(configured.path, shown, "environment", LEDGER_VARIABLE)
    return configured


def _setting(loaded: Loaded, path: Path, value: Any) -> Setting:
    is_foreign = path[0] == "providers" and path[1] not in PROVIDERS
    shown = _foreign(path[-1], _plain(value)) if is_foreign else _plain(value)
    if _is_written(loaded.written, path):
        return Setting(path, shown, "file", loaded.source, loaded.lines.of(path))
    return Setting(path, shown, "built-in")


def _foreign(name: str, value: Any) -> Any:
    """Return a foreign provider's setting as it may be shown."""
    if PRIVATE.search(name):
        return HIDDEN
    match value:
        case str():
            return without_password(value)
        case dict():
            return {inner: _foreign(inner, part) for inner, part in value.items()}
        case list():
            return [_foreign(name, part) for part in value]
        case _:
            return value


def _dumped(config: Config) -> dict[str, Any]:
    dumped = config.model_dump()
    # What a simulated model leaves out is its provider's, not a default of its own.
    models = config.providers.simulated.model_dump(exclude_unset=True).get("models", {})
    dumped["providers"]["simulated"]["models"] = models
    return dumped


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    else:
        yield path, value


def _is_written(written: Any, path: Path) -> bool:
    for part in path:
        if not isinstance(written, Mapping) or part not in written:
            return False
        written = written[part]
    return True


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case Mapping():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
