"""The values of the configuration: what each may be, and what to say when it is something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator

from ledger.concealment import pattern_fault
from ledger.config.refusals import Wrong, WrongName, nearest
from ledger.policy import ERROR_TYPES

__all__ = [
    "AS_NUMBER",
    "PROVIDERS",
    "cap",
    "chances",
    "choice",
    "error_type",
    "fallback",
    "few_patterns",
    "label",
    "latency",
    "ledger_name",
    "number",
    "once",
    "outcome",
    "pattern",
    "provider",
    "provider_table",
    "text",
    "whole",
    "written_ledger",
]

PROVIDERS: Final = ("gemini", "anthropic", "simulated")
FACTORY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
ENGINE: Final = re.compile(r"(sqlite|postgresql)(\+[a-z0-9]+)?://")
PASSWORD: Final = re.compile(r"://[^/@]*:[^/@]+@|[?&]password=", re.IGNORECASE)
USD_MAX: Final = 1_000_000_000
USD_DECIMALS: Final = 9
LATENCY_MS_MAX: Final = 3_600_000
TEXT_MAX: Final = 1024
PATTERNS_MAX: Final = 32

# A number is kept as the decimal that was written, so that 0.2 is exactly 200,000 ppm; as JSON it is a number again.
AS_NUMBER: Final = PlainSerializer(
    lambda value: int(value) if value == value.to_integral_value() else float(value),
    return_type=int | float,
    when_used="json",
)


def whole(least: int, most: int, words: str = "a whole number from {:_} to {:_}") -> PlainValidator:
    """Check a whole number."""
    expected = words.format(least, most)

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Wrong(expected)
        return value

    return PlainValidator(check)


def number(least: str, most: str, words: str = "a number from {} to {}") -> PlainValidator:
    """Check a number and keep it as the decimal that was written."""
    low, high, expected = Decimal(least), Decimal(most), words.format(least, most)

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
    quoted = [f'"{word}"' for word in words]
    expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}"

    def check(value: Any) -> str:
        return _known(value, words, expected)

    return PlainValidator(check)


def _known(value: Any, words: tuple[str, ...], expected: str) -> str:
    if isinstance(value, str) and value in words:
        return str(value)
    raise Wrong(expected, near=nearest(value, words) if isinstance(value, str) else None)


def text(what: str, *, most: int = 256, blanks: bool = False) -> PlainValidator:
    """Check a text without control characters."""
    expected = f"{what}: 1 to {most} characters" + ("" if blanks else " without blanks")

    def check(value: Any) -> str:
        if isinstance(value, str) and 1 <= len(value) <= most and not value.isspace():
            allowed = value.replace(" ", "") if blanks else value
            if allowed.isprintable() and " " not in allowed:
                return str(value)
        raise Wrong(expected)

    return PlainValidator(check)


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
    if name == "subject":
        raise Wrong("another label than subject, which can be erased and so is not counted by")
    if name and sign and wanted and "\0" not in value:
        return str(value)
    raise Wrong('a label, as in "team=a"')


def _error_type(value: Any) -> str:
    return _known(value, ERROR_TYPES, "an error type, as rate_limited or timeout")


def _cap(value: Any) -> Decimal:
    exact = _decimal(value)
    if exact is None or not 0 <= exact <= USD_MAX or exact != round(exact, USD_DECIMALS):
        raise Wrong(f"a number of USD from 0 to {USD_MAX:_} with at most {USD_DECIMALS} decimals")
    return exact


def _latency(value: Any) -> tuple[int, int]:
    ends = (value, value) if isinstance(value, int) else value
    match ends:
        case [int(least), int(most)] if not isinstance(least, bool) and not isinstance(most, bool):
            if 0 <= least <= most <= LATENCY_MS_MAX:
                return least, most
    raise Wrong(f"milliseconds from 0 to {LATENCY_MS_MAX:_}, or a list [least, most], least first")


def _chances(value: dict[str, Decimal]) -> dict[str, Decimal]:
    if sum(value.values()) > 1:
        raise Wrong("chances that add up to 1 at most")
    return value


def _pattern(value: Any) -> str:
    fault = pattern_fault(value) if isinstance(value, str) else "a regular expression, as text"
    if fault is not None:
        raise Wrong(fault)
    return str(value)


def _few_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > PATTERNS_MAX:
        raise Wrong(f"at most {PATTERNS_MAX} patterns")
    return value


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise Wrong("each of them once")
    return value


def _outcome(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return _known(value, ("ok", *ERROR_TYPES), '"ok", an error type or a table')


cap = PlainValidator(_cap)
chances = AfterValidator(_chances)
label = _named(_label)
# Not a plain validator, which would have JSON's list of two be a tuple again, and warn.
latency = BeforeValidator(_latency)
once = AfterValidator(_once)
outcome = PlainValidator(_outcome)
pattern = PlainValidator(_pattern)
few_patterns = AfterValidator(_few_patterns)
provider = PlainValidator(_provider)
provider_table = _named(_provider)
error_type = _named(_error_type)
written_ledger = PlainValidator(_written_ledger)
