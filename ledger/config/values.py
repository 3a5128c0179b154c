"""The values of the configuration: what each may be, and what to say when it is something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from pydantic import PlainSerializer, PlainValidator

from ledger.policy import ERROR_TYPES

__all__ = [
    "AS_NUMBER",
    "PROVIDERS",
    "CapWritten",
    "Circle",
    "Wrong",
    "WrongName",
    "cap",
    "choice",
    "fallback",
    "label",
    "latency",
    "ledger_name",
    "nearest",
    "number",
    "outcome",
    "provider",
    "text",
    "whole",
]

PROVIDERS: Final = ("gemini", "anthropic", "simulated")
FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
ENGINE: Final = re.compile(r"(sqlite|postgresql)(\+[a-z0-9]+)?://")
PASSWORD: Final = re.compile(r"://[^/@]*:[^/@]+@|[?&]password=", re.IGNORECASE)
USD_MAX: Final = 1_000_000_000
LATENCY_MS_MAX: Final = 3_600_000
TEXT_MAX: Final = 1024


class Wrong(ValueError):
    """A value that is not what was expected.

    Attributes:
        expected: what the value must be, in words.
        near: the known word that is nearest, if any is near.
    """

    def __init__(self, expected: str, *, near: str | None = None) -> None:
        super().__init__(f"expected {expected}")
        self.expected = expected
        self.near = near


class WrongName(Wrong):
    """A key or a table whose name is not what was expected."""


class CapWritten(ValueError):
    """A budget cap, which this version would not enforce."""


class Circle(ValueError):
    """A fallback chain without an end.

    Attributes:
        chain: its tiers, the first one again at the end.
    """

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__(f"the fallbacks make a circle: {' -> '.join(chain)}")
        self.chain = chain


def nearest(name: object, known: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """Return the known name that is most like this one, or None where none is like it."""
    near = get_close_matches(str(name)[:TEXT_MAX].lower(), list(known), n=1, cutoff=0.6)
    return near[0] if near else None


# A number is kept as the decimal that was written, so that 0.2 is exactly 200,000 ppm; as JSON it is a number again.
AS_NUMBER: Final = PlainSerializer(
    lambda value: int(value) if value == value.to_integral_value() else float(value),
    return_type=int | float,
    when_used="json",
)


def whole(least: int, most: int) -> PlainValidator:
    """Check a whole number."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(f"a whole number from {least} to {most}")
        return value

    return PlainValidator(check)


def number(least: str, most: str, unit: str = "") -> PlainValidator:
    """Check a number and keep it as the decimal that was written."""
    low, high, expected = Decimal(least), Decimal(most), f"a number{unit} from {least} to {most}"

    def check(value: Any) -> Decimal:
        exact = _decimal(value)
        if exact is None or not low <= exact <= high:
            raise Wrong(expected)
        return exact

    return PlainValidator(check)


def _decimal(value: Any) -> Decimal | None:
    """Return a finite number as the decimal a person would write for it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        # The shortest digits that give this float: what stood in the caller's source.
        value = Decimal(float.__repr__(value))
    if isinstance(value, int):
        return Decimal(value)
    return value if isinstance(value, Decimal) and value.is_finite() else None


def choice(*words: str) -> PlainValidator:
    """Check one of a few words."""

    def check(value: Any) -> str:
        return _known(value, words, " or ".join(f'"{word}"' for word in words))

    return PlainValidator(check)


def _known(value: Any, words: tuple[str, ...], expected: str) -> str:
    if isinstance(value, str) and value in words:
        return str(value)
    raise Wrong(expected, near=nearest(value, words) if isinstance(value, str) else None)


def text(what: str, *, most: int = 256, blanks: bool = False) -> Callable[[Any], str]:
    """Check a text without control characters."""
    expected = f"{what}: 1 to {most} characters" + ("" if blanks else " without blanks")

    def check(value: Any) -> str:
        if isinstance(value, str) and 1 <= len(value) <= most and not value.isspace():
            allowed = value.replace(" ", "") if blanks else value
            if allowed.isprintable() and " " not in allowed:
                return str(value)
        raise Wrong(expected)

    return check


def ledger_name(value: Any) -> str:
    """Check a ledger's place, wherever it was named.

    Raises:
        Wrong: it is no place of a ledger.
    """
    expected = "a path, sqlite:///PATH or postgresql://HOST/NAME"
    if not isinstance(value, str) or not value.strip() or len(value) > TEXT_MAX or not value.isprintable():
        raise Wrong(expected)
    if "://" in value and not ENGINE.match(value):
        raise Wrong(expected)
    return value


def _written_ledger(value: Any) -> str:
    place = ledger_name(value)
    if PASSWORD.search(place):
        raise Wrong("a place without a password; a URL that needs one belongs in DISPATCH_LEDGER_URL")
    return place


def fallback(tiers: tuple[str, ...]) -> PlainValidator:
    """Check a fallback: a tier, or "none", which takes a built-in one away."""

    def check(value: Any) -> str | None:
        if value is None or value == "none":
            return None
        return _known(value, tiers, f'a tier ({", ".join(tiers)}) or "none"')

    return PlainValidator(check)


def _provider(value: Any) -> str:
    if isinstance(value, str) and (value in PROVIDERS or FACTORY.fullmatch(value)):
        return str(value)
    raise Wrong(
        'gemini, anthropic, simulated or "package.module:factory"',
        near=nearest(value, PROVIDERS) if isinstance(value, str) else None,
    )


def _named(check: Callable[[Any], str]) -> PlainValidator:
    """Check the name of a key as a value of this kind is checked."""

    def check_name(value: Any) -> str:
        try:
            return check(value)
        except Wrong as wrong:
            raise WrongName(wrong.expected, near=wrong.near) from None

    return PlainValidator(check_name)


def _label(value: Any) -> str:
    name, sign, wanted = value.partition("=") if isinstance(value, str) else ("", "", "")
    if name and sign and wanted:
        return str(value)
    raise Wrong('a label, as in "team=a"')


def _error_type(value: Any) -> str:
    return _known(value, ERROR_TYPES, f"an error type ({', '.join(ERROR_TYPES)})")


def _cap(value: Any) -> None:
    exact = _decimal(value)
    if exact is None or not 0 <= exact <= USD_MAX:
        raise Wrong(f"a number of USD from 0 to {USD_MAX}")
    raise CapWritten("this version does not keep budgets yet, so nothing would enforce this cap; remove it")


def _latency(value: Any) -> tuple[int, int]:
    ends = (value, value) if isinstance(value, int) else value
    match ends:
        case [int(least), int(most)] if not isinstance(least, bool) and not isinstance(most, bool):
            if 0 <= least <= most <= LATENCY_MS_MAX:
                return least, most
    raise Wrong(f"milliseconds from 0 to {LATENCY_MS_MAX}, or a list of the least and the most")


def _outcome(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return _known(value, ("ok", *ERROR_TYPES), '"ok", an error type or a table')


cap = PlainValidator(_cap)
label = _named(_label)
latency = PlainValidator(_latency)
outcome = PlainValidator(_outcome)
provider = PlainValidator(_provider)
provider_table = _named(_provider)
error_type = _named(_error_type)
written_ledger = PlainValidator(_written_ledger)
