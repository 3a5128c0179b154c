"""From the choices of a world that broke a rule to fewer and tamer ones that break it still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

__all__ = ["RUNS_MAX", "shrunk"]

RUNS_MAX: Final = 500

Recording = tuple[int, ...]


def shrunk(
    recorded: Sequence[int], breaks: Callable[[Recording], Sequence[int] | None], runs_max: int = RUNS_MAX
) -> Recording:
    """Leave choices out, make them 0 or smaller, half of them at once, then a quarter, down to single ones.

    Args:
        recorded: choices that break a rule.
        breaks: plays a recording; returns the choices that were made if the same rule broke, else None.
        runs_max: worlds that may be lived for it.
    """
    best = _trimmed(recorded)
    runs = 0
    size = len(best)
    while size:
        before = best
        start = 0
        while start < len(best):
            for candidate in _tamer(best, start, min(start + size, len(best))):
                if runs >= runs_max:
                    return best
                runs += 1
                made = breaks(candidate)
                if made is not None and _weight(_trimmed(made)) < _weight(best):
                    best = _trimmed(made)
                    break
            else:
                start += size
        if best == before or size > 1:
            size //= 2
    return best


def _tamer(best: Recording, start: int, end: int) -> Iterator[Recording]:
    """Yield the recording without these choices, with zeros in their place, and a single one made smaller."""
    yield best[:start] + best[end:]
    if any(best[start:end]):
        yield best[:start] + (0,) * (end - start) + best[end:]
    if end == start + 1 and best[start] > 1:
        yield (*best[:start], best[start] // 2, *best[end:])
        yield (*best[:start], best[start] - 1, *best[end:])


def _trimmed(recorded: Sequence[int]) -> Recording:
    """Leave out the zeros at the end: past the end every choice is 0."""
    end = len(recorded)
    while end and recorded[end - 1] == 0:
        end -= 1
    return tuple(recorded[:end])


def _weight(recorded: Recording) -> tuple[int, int, int]:
    return sum(choice != 0 for choice in recorded), len(recorded), sum(recorded)
