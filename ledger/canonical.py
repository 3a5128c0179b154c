"""Canonical JSON: one value, one sequence of bytes; and digests of it.

Sorted keys, no white space, UTF-8 unescaped, integers within 64 bits, no floats: what ``json.dumps`` gives with
``sort_keys=True, separators=(",", ":"), ensure_ascii=False``. These bytes are hashed and are never made again from
what a database gives back.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from ledger.errors import EventInvalid

__all__ = ["INT64_MAX", "INT64_MIN", "canonical", "digest_of", "salted_digest", "written"]

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

SAFE = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
DEPTH_MAX = 64

BLOCK = 64
"""Bytes in a block of SHA-256: what HMAC pads its key to."""
INNER = bytes(byte ^ 0x36 for byte in range(256))
OUTER = bytes(byte ^ 0x5C for byte in range(256))


def canonical(value: Any) -> bytes:
    """Encode ``value`` (dicts with text keys, lists, tuples, text, integers, booleans, None).

    Raises:
        EventInvalid: a float, an integer beyond 64 bits, a lone surrogate or any other type is inside, or too many
            levels.
    """
    misfit = _misfit(value, DEPTH_MAX)
    if misfit is not None:
        raise EventInvalid(f"data{misfit}")
    return written(value)


def written(value: Any) -> bytes:
    """Encode what surely has no float in it and no integer beyond 64 bits, as every event: looking costs more.

    Raises:
        EventInvalid: a lone surrogate, or a type that JSON does not have.
    """
    try:
        return orjson.dumps(value, option=SAFE)
    except TypeError as error:
        raise EventInvalid(f"no canonical JSON can be made: {error}") from error


def _misfit(value: Any, depth: int) -> str | None:
    """Say where and why orjson would write something else than json (floats, huge integers, other types), else None.

    The way to the place is put together only when there is something to say.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return None
    if kind is int:
        return None if INT64_MIN <= value <= INT64_MAX else _huge(value)
    if depth == 0:
        return f": nested more than {DEPTH_MAX} deep"
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f": a key is {type(key).__name__}, expected text"
            # Most of an event is text, NULL and figures: to see it here is half the cost of going in.
            kind = type(item)
            if item is None or kind is str or (kind is int and INT64_MIN <= item <= INT64_MAX):
                continue
            if (found := _misfit(item, depth - 1)) is not None:
                return f".{key}{found}"
        return None
    if kind is list or kind is tuple:
        for index, item in enumerate(value):
            if (found := _misfit(item, depth - 1)) is not None:
                return f"[{index}]{found}"
        return None
    return f": {kind.__name__} has no canonical form; use integers, text, lists and objects"


def _huge(value: int) -> str:
    return f": the integer has {value.bit_length()} bits; at most 64 with sign are kept"


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def salted_digest(salt: bytes, content: bytes) -> str:
    """Return HMAC-SHA-256 of ``content`` under ``salt``, in hex: what events keep in place of a text.

    By hand, since ``hmac.digest`` lets go of the interpreter's lock whatever the length, and gets it back late.
    """
    key = (salt if len(salt) <= BLOCK else hashlib.sha256(salt).digest()).ljust(BLOCK, b"\0")
    inner = hashlib.sha256(key.translate(INNER))
    inner.update(content)
    return hashlib.sha256(key.translate(OUTER) + inner.digest()).hexdigest()
