"""Canonical JSON: one value, one sequence of bytes; and digests of it.

Sorted keys, no white space, UTF-8 unescaped, integers within 64 bits, no floats: what ``json.dumps`` gives with
``sort_keys=True, separators=(",", ":"), ensure_ascii=False``. These bytes are hashed and are never made again from
what a database gives back.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import orjson

from ledger.errors import EventInvalid

__all__ = ["INT64_MAX", "INT64_MIN", "canonical", "digest_of", "salted_digest"]

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)

SAFE = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
LEAVES = (str, bool, type(None))
DEPTH_MAX = 64


def canonical(value: Any) -> bytes:
    """Encode ``value`` (dicts with text keys, lists, tuples, text, integers, booleans, None).

    Raises:
        EventInvalid: a float, an integer beyond 64 bits, a lone surrogate or any other type is inside, or too many
            levels.
    """
    _check(value, "data", DEPTH_MAX)
    try:
        return orjson.dumps(value, option=SAFE)
    except TypeError as error:
        raise EventInvalid(f"no canonical JSON can be made: {error}") from error


def _check(value: Any, path: str, depth: int) -> None:
    """Refuse what orjson would write in another way than json: floats, huge integers, other types."""
    kind = type(value)
    if kind in LEAVES:
        return
    if kind is int:
        if not INT64_MIN <= value <= INT64_MAX:
            raise EventInvalid(f"{path}: the integer has {value.bit_length()} bits; at most 64 with sign are kept")
    elif depth == 0:
        raise EventInvalid(f"data: nested more than {DEPTH_MAX} deep")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise EventInvalid(f"{path}: a key is {type(key).__name__}, expected text")
            _check(item, f"{path}.{key}", depth - 1)
    elif kind in (list, tuple):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth - 1)
    else:
        raise EventInvalid(f"{path}: {kind.__name__} has no canonical form; use integers, text, lists and objects")


def digest_of(value: Any) -> str:
    """Return the SHA-256 of the canonical bytes, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def salted_digest(salt: bytes, content: bytes) -> str:
    """Return HMAC-SHA-256 of ``content`` under ``salt``, in hex: what events keep in place of a text."""
    return hmac.new(salt, content, hashlib.sha256).hexdigest()
