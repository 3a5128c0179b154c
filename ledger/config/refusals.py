"""Why a value, a name or a whole table of the configuration is refused."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from typing import Final

__all__ = ["Circle", "Wrong", "WrongName", "nearest"]

NAME_MAX: Final = 256


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


class Circle(ValueError):
    """A fallback chain without an end.

    Attributes:
        chain: its tiers, the first one again at the end.
    """

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__(f"the fallbacks make a circle: {' -> '.join(chain)}")
        self.chain = chain


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one, or None where none is like it."""
    written = str(name)[:NAME_MAX].lower()
    near = get_close_matches(written, list(known), n=3, cutoff=0.6)
    # Of several that are near, the one that begins alike is what people mean: "retries" is retry, not tiers.
    return max(near, key=lambda one: _alike(one, written), default=None)


def _alike(one: str, other: str) -> int:
    """Count the characters that two names have in common before they differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
