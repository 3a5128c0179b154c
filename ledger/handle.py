"""``Ledger``: the ledger as users hold it, opened when first needed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self
from weakref import WeakKeyDictionary

from ledger.config import resolve_ledger
from ledger.config.origins import without_password
from ledger.errors import LedgerError
from ledger.ports import Ports
from ledger.store.opening import open_store, parse_url
from ledger.store.protocol import Store

if TYPE_CHECKING:
    from ledger.store.rebuilding import Rebuilt

__all__ = ["Ledger", "Nearby"]


class Nearby(NamedTuple):
    """What stands beside a ledger on one host; None where there is no place for it."""

    locks: Path | None
    """The lock files of this host's workers."""
    spills: Path | None
    """Answers that the ledger would not take."""


@dataclass(slots=True)
class _Place:
    """The store of one event loop."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    store: Store | None = None


class Ledger:
    """A ledger of dispatches: every event, text and projection behind one place.

    ``Ledger.open(url)`` names it; it is opened by ``async with``, or at first use, once in each event loop.
    """

    def __init__(self, url: str, *, create: bool = True, guarded: bool = True, ports: Ports | None = None) -> None:
        self.url = url
        self._create = create
        self._guarded = guarded
        self._ports = ports or Ports()
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, _Place] = WeakKeyDictionary()

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str] | None = None,
        *,
        create: bool = True,
        guarded: bool = True,
        ports: Ports | None = None,
    ) -> Self:
        """Name a ledger.

        Args:
            url: a path, ``sqlite:///path`` or ``postgresql://user@host/name``; None is ``DISPATCH_LEDGER_URL``, else
                ``sqlite:///dispatch.db``.
            create: make it if there is none; otherwise that is ``LedgerMissing``.
            guarded: refuse a ledger whose guards have fallen; False is for those who only look, to report them.
            ports: clock, sleep, ids and jitter; the real ones by default.
        """
        place = resolve_ledger(None) if url is None else os.fspath(url)
        return cls(place, create=create, guarded=guarded, ports=ports)

    @property
    def shown(self) -> str:
        """Its place as people may see it, without a password."""
        return without_password(self.url)

    async def store(self) -> Store:
        """Return the opened store.

        Raises:
            LedgerError: it cannot be opened.
        """
        place = self._places.setdefault(asyncio.get_running_loop(), _Place())
        async with place.opening:
            if place.store is None:
                place.store = await open_store(
                    self.url, create=self._create, now_ms=self._ports.now_ms, guarded=self._guarded
                )
            return place.store

    async def nearby(self) -> Nearby:
        """Return the folders on this host for what belongs to the ledger but stands beside it.

        Raises:
            LedgerError: the ledger cannot be opened.
        """
        place = parse_url(self.url)
        return _beside(place) if isinstance(place, Path) else _at_home(await (await self.store()).key_salt())

    async def rebuild(self) -> Rebuilt:
        """Make the projections, views and indexes again from the events; nobody may be at work meanwhile.

        Raises:
            LedgerBusy: workers are at work; nothing was changed.
            LedgerError: it cannot be read or written; nothing was changed.
        """
        from ledger.store.rebuilding import rebuild  # noqa: PLC0415 - seldom wanted, and slow to import

        return await rebuild(self.url, now_ms=self._ports.now_ms)

    async def aclose(self) -> None:
        """Close what this event loop has opened; appends under way are finished first."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None and place.store is not None:
            await place.store.aclose()

    async def __aenter__(self) -> Self:
        await self.store()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(LedgerError) if error is not None else nullcontext():  # the first failure is the one to tell
            await self.aclose()


def _beside(path: Path) -> Nearby:
    """Return the folder of a file, the same by whatever name the file is called."""
    file = path.resolve()
    folder = file.with_name(f"{file.name}-workers")
    return Nearby(folder, folder)


def _at_home(salt: bytes) -> Nearby:
    """Return the folders of a ledger on a server, the same by whatever address the server is called.

    A home may be shared with other hosts, whose locks this one could misread: locks lie where only this host looks.
    """
    name = hashlib.sha256(salt).hexdigest()[:16]
    here = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    locks = here / f"dispatch-ledger-{os.getuid() if hasattr(os, 'getuid') else 0}" / name
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:  # nobody's home: a container that runs under a number without a name
        return Nearby(locks, None)
    return Nearby(locks, state / "dispatch-ledger" / name)
