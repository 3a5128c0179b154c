"""Exporting a ledger: every event with its exact bytes, every text and salt, as it stands at one instant."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.audit.lines import End, Header, end_line, event_line, header_line, text_line
from ledger.audit.texts import digests_of
from ledger.envelope import Recorded
from ledger.errors import EventInvalid
from ledger.store import tables as t
from ledger.store.copying import End as Side
from ledger.store.copying import Rows, open_end, pages
from ledger.store.opening import parse_url

__all__ = ["Exported", "export_lines"]

TEXTS_AT_ONCE: Final = 16
"""Events whose texts are held at once."""
SALTS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported."""

    events: int
    texts: int
    upto: int
    """The position of the last event: where the next export may go on."""


async def export_lines(
    ledger: str,
    write: Callable[[bytes], object],
    *,
    after: int = 0,
    texts: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Exported:
    """Write a ledger out, line by line; what is appended meanwhile is not in it.

    Args:
        ledger: the name of a ledger that can be opened.
        write: takes each line, its end included.
        after: leave out the events up to this position, and their texts.
        texts: write texts as well; what is exported without cannot be imported.
        progress: called with the number of events written so far.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    so_far = hashlib.sha256()

    def put(line: bytes) -> None:
        so_far.update(line)
        write(line)

    async with open_end(parse_url(ledger), writes=False) as side:
        salts = {str(name): bytes(salt) for name, salt in await side.page(t.salts, ["name"], None, SALTS_MAX)}
        put(header_line(Header(after, texts, salts)))
        told, written, upto = 0, 0, after
        async for rows, _ in pages(t.events, side, ["position"], [after]):
            for some in _cut(rows):
                found = await _texts(side, some) if texts else {}
                for row in some:
                    put(event_line(row))
                    for text in found.get(row[0], ()):
                        put(text_line(text))
                        written += 1
            told, upto = told + len(rows), rows[-1][0]
            if progress is not None:
                progress(told)
    write(end_line(End(told, written, upto, so_far.hexdigest())))
    return Exported(told, written, upto)


def _cut(rows: Rows) -> list[Rows]:
    return [rows[first : first + TEXTS_AT_ONCE] for first in range(0, len(rows), TEXTS_AT_ONCE)]


async def _texts(side: Side, rows: Rows) -> dict[int, list[Sequence[Any]]]:
    """Return the texts that stand behind the digests of some events, by position; an erased one is not there."""
    wanted = {(row[2], slot): row[0] for row in reversed(rows) for slot in _slots(row)}
    found: dict[int, list[Sequence[Any]]] = {}
    for text in sorted(await side.texts(list(wanted)), key=lambda text: str(text[1])) if wanted else ():
        found.setdefault(wanted[text[0], text[1]], []).append(text)
    return found


def _slots(row: Sequence[Any]) -> list[str]:
    try:
        return [slot for slot, _ in digests_of(Recorded(*row).event())]
    except EventInvalid:
        return []  # its bytes are exported as they are
