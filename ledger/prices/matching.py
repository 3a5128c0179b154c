"""Which model of a provider a name means, by the rules that the source gives with its prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["Clause", "check_clause", "dashed", "matches"]

Clause = Mapping[str, Any]
"""One key: equals, starts_with, ends_with, contains (a text in lower case), regex, or ``or``, ``and`` (a list)."""

COMPACT_DATE: Final = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
LONG_MONTHS: Final = (1, 3, 5, 7, 8, 10, 12)


def check_clause(clause: Any) -> Clause:
    """Return a clause that ``matches`` can read.

    Raises:
        ValueError: it cannot.
    """
    match clause:
        case {"or": [*parts], **rest} | {"and": [*parts], **rest} if not rest:
            for part in parts:
                check_clause(part)
        case {"regex": str(pattern), **rest} if not rest:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no pattern: {error}") from error
        case {"equals": str(), **rest} | {"starts_with": str(), **rest} if not rest:
            pass
        case {"ends_with": str(), **rest} | {"contains": str(), **rest} if not rest:
            pass
        case _:
            raise ValueError(f"{clause!r} matches nothing")
    return clause  # type: ignore[no-any-return]  # the patterns say that it is a mapping with texts


def matches(clause: Clause, name: str) -> bool:
    """Say whether a name, in lower case, fits."""
    match clause:
        case {"equals": text}:
            return bool(name == text)
        case {"starts_with": text}:
            return name.startswith(text)
        case {"ends_with": text}:
            return name.endswith(text)
        case {"contains": text}:
            return text in name
        case {"regex": pattern}:
            return re.search(pattern, name) is not None
        case {"or": parts}:
            return any(matches(part, name) for part in parts)
        case _:
            return all(matches(part, name) for part in clause["and"])


def dashed(name: str) -> str:
    """Write a compact date in a name with dashes, ``-20251211`` as ``-2025-12-11``, as the source knows it."""

    def dash(found: re.Match[str]) -> str:
        year, month, day = (int(part) for part in found.groups())
        return f"-{year:04d}-{month:02d}-{day:02d}" if day <= _days(year, month) else found[0]

    return COMPACT_DATE.sub(dash, name)


def _days(year: int, month: int) -> int:
    if month == 2:  # noqa: PLR2004 - February
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 31 if month in LONG_MONTHS else 30
