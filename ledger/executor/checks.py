"""Checking what a caller asks, before anything is written: the field, its shape, what was expected."""

from __future__ import annotations

from typing import Any

from ledger.concealment import conceal
from ledger.errors import RequestRefused
from ledger.executor.requests import Request

__all__ = ["checked", "checked_listeners", "short_text"]

MIB = 1024 * 1024
TEXT_MIB_MAX = 32
TOKENS_MAX = 10_000_000
RETRIES_MAX = 100
KEY_CHARACTERS_MAX = 512
LABELS_MAX = 64
LABEL_CHARACTERS_MAX = 256
TIMEOUT_S_MAX = 86_400


def checked(request: Request) -> Request:
    """Return the request as it came.

    Raises:
        RequestRefused: a field that no task can be made of.
    """
    _text("prompt", request.prompt)
    if request.system is not None:
        _text("system", request.system)
    if request.judged is not None:
        _text("output", request.judged.output, least=0)
    if request.max_tokens is not None:
        _whole("max_tokens", request.max_tokens, 1, TOKENS_MAX)
    if request.retry_count is not None:
        _whole("retry_count", request.retry_count, 0, RETRIES_MAX)
    if request.timeout_s is not None:
        _seconds("timeout_s", request.timeout_s)
    if request.key is not None:
        short_text("idempotency_key", request.key, KEY_CHARACTERS_MAX)
        _lasting("idempotency_key", request.key)
    _labels(request.labels)
    return request


def checked_listeners(on_text: Any, on_restart: Any) -> None:
    """Refuse ears that cannot be called, while nothing has been paid for.

    Raises:
        RequestRefused: one of them cannot be called.
    """
    for field, value in (("on_text", on_text), ("on_restart", on_restart)):
        if value is not None and not callable(value):
            raise RequestRefused(f"{field} is {type(value).__name__}, expected a function", field=field)


def _text(field: str, value: Any, least: int = 1) -> None:
    if not isinstance(value, str):
        raise RequestRefused(f"{field} is {type(value).__name__}, expected text", field=field)
    if len(value) < least:
        raise RequestRefused(f"{field} is empty, expected at least one character", field=field)
    size = _encoded(field, value)
    if size > TEXT_MIB_MAX * MIB:
        raise RequestRefused(
            f"{field} has {size / MIB:.1f} MiB, at most {TEXT_MIB_MAX} MiB can be kept; shorten it", field=field
        )


def _encoded(field: str, value: str) -> int:
    """Return the size in UTF-8."""
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise RequestRefused(
            f"{field} has a lone surrogate (U+{ord(value[error.start]):04X}) at character {error.start}, "
            "which no UTF-8 text can hold; replace it",
            field=field,
        ) from error


def _whole(field: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestRefused(
            f"{field} is {type(value).__name__}, expected a whole number from {least} to {most}", field=field
        )
    if not least <= value <= most:
        raise RequestRefused(f"{field} is {_shown(value)}, expected a whole number from {least} to {most}", field=field)


def _seconds(field: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        shown = type(value).__name__
    elif 0 < value <= TIMEOUT_S_MAX:  # which no NaN is
        return
    else:
        shown = repr(value) if isinstance(value, float) else _shown(value)
    raise RequestRefused(f"{field} is {shown}, expected seconds above 0 and up to {TIMEOUT_S_MAX}", field=field)


def _shown(value: int) -> str:
    return str(value) if abs(value) < 10**18 else f"a number of {value.bit_length()} bits"


def short_text(field: str, value: Any, most: int) -> None:
    """Refuse what is no text of 1 to ``most`` characters.

    Raises:
        RequestRefused: it is not.
    """
    if not isinstance(value, str):
        raise RequestRefused(f"{field} is {type(value).__name__}, expected text", field=field)
    _encoded(field, value)
    if not 1 <= len(value) <= most:
        raise RequestRefused(f"{field} has {len(value)} characters, expected 1 to {most}", field=field)


def _labels(labels: Any) -> None:
    if not hasattr(labels, "items"):
        raise RequestRefused(f"labels is {type(labels).__name__}, expected names with texts", field="labels")
    if len(labels) > LABELS_MAX:
        raise RequestRefused(f"labels has {len(labels)} entries, at most {LABELS_MAX} are kept", field="labels")
    for name, value in labels.items():
        short_text("labels: a name", name, LABEL_CHARACTERS_MAX)
        short_text(f"labels[{name!r}]", value, LABEL_CHARACTERS_MAX)
        _lasting("labels", f"{name}\n{value}")


def _lasting(field: str, value: str) -> None:
    """Refuse what not every ledger's columns hold, and a secret where it could never be erased; it is not repeated."""
    if "\0" in value:
        raise RequestRefused(f"{field} has a NUL character, which not every ledger can hold; leave it out", field=field)
    if conceal(value) != value:
        raise RequestRefused(
            f"{field} holds what looks like a key, a token or a password, and could never be erased from the ledger; "
            "use a pseudonym",
            field=field,
        )
