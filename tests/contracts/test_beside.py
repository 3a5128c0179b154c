"""What ``verify`` and ``anchor`` read of every store: leaves, and whole streams with all that stands beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ledger.audit import seal_range, task_proof, verify
from ledger.envelope import Payload, Stream
from ledger.ports import Ports
from ledger.store.beside import Page, Side, page_of_streams
from ledger.store.leaves import leaves
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_sqlite
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import Store
from ledger.store.snapshots import Askable
from tests.contracts.appends import Clock, submission, ticks, whole
from tests.histories import History
from tests.ledgers import fresh_ledger
from tests.postgres_server import database


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    clock = Clock()
    match request.param:
        case "memory":
            store: Store = MemoryStore(now_ms=clock)
            yield store
        case "sqlite":
            store = await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=clock)
            yield store
        case _:
            async with database() as url:
                store = await open_postgres(PostgresUrl.parse(url), create=False, now_ms=clock)
                yield store
                await store.aclose()
    await store.aclose()


async def test_leaves(store: Store) -> None:
    """Place and hash of the events of a range, in order, no more than asked for."""
    await store.append(ticks("s", 0, 3))
    await store.append(ticks("t", 0, 2))
    events = await store.page(0, 10)
    both = [(one.position, one.hash) for one in events]
    assert both[1:4] == list(await leaves(store, 1, 4, 10))
    assert both[:2] == list(await leaves(store, 0, 5, 2))
    assert [] == list(await leaves(store, 5, 9, 10))


async def page(store: Store, after: str, limit: int) -> Page:
    assert isinstance(store, Askable)
    return await store.snapshot(partial(page_of_streams, after=after, limit=limit))


async def test_streams_with_what_stands_beside_them(store: Store) -> None:
    """The same as is read one by one, whatever the size of a page; a stream is never cut."""
    if not isinstance(store, Askable):
        pytest.skip("this store is read one by one")
    texts = (Payload("a", b"salt", b"text"), Payload("b", b"", b"\xff"))
    for number, append in enumerate((submission("a"), whole("b", History().start().fail("timeout")), submission("d"))):
        await store.append(replace(append, payloads=texts, key_digest=bytes([number]) * 32))
    await store.append(ticks("c", 0, 5))
    for limit in (1, 2, 3, 5, 8, 100):
        found: list[tuple[Stream, Side]] = []
        after, is_last = "", False
        while not is_last:
            one = await page(store, after, limit)
            streams, strays = one.parted()
            assert () == tuple(strays)
            found += streams
            after, is_last = one.after, one.is_last
        assert ["a", "b", "c", "d"] == [stream[0].task_id for stream, _ in found]
        for stream, side in found:
            task_id = stream[0].task_id
            assert stream == await store.read(task_id)
            assert side.projected == await store.projected(task_id)
            assert tuple(side.payloads) == await store.payloads(task_id)
        assert [[bytes([0]) * 32], [bytes([1]) * 32], [], [bytes([2]) * 32]] == [list(side.keys) for _, side in found]


async def test_anchors_in_every_store(store: Store) -> None:
    """Sealed, verified, proved: alike, whatever the store."""
    await store.append(ticks("s", 0, 3))
    first = await seal_range(store, Ports())
    await store.append(ticks("t", 0, 2))
    second = await seal_range(store, Ports())
    assert first is not None
    assert second is not None
    report = await verify(store, kept=[first.line, second.line])
    assert ((), 0) == (report.problems, report.unanchored)
    proof = await task_proof(store, "t")
    assert [2, 2] == [event["anchor"] for event in proof["events"]]
