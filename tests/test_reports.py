"""Reports say what the events say: every figure once more in plain Python, on both engines alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.errors import RequestRefused
from ledger.ports import Ports
from ledger.reports.asked import ROWS_MAX, Asked, Report, average, share
from ledger.reports.cost import cost, whole
from ledger.reports.grouping import grouped
from ledger.reports.latency import latency
from ledger.reports.money import Money
from ledger.reports.reading import Snapshot, reading
from ledger.reports.reliability import reliability
from ledger.reports.repricing import charged_then
from ledger.reports.routing import routing
from ledger.reports.validation import validation
from ledger.store.copying import copy_ledger
from ledger.store.protocol import Store
from ledger.store.snapshots import NOTHING
from tests.command_line import sql
from tests.contracts.appends import Clock
from tests.contracts.appends import whole as whole_of
from tests.histories import START_MS, History
from tests.ledgers import fresh_ledger
from tests.postgres_server import database
from tests.reported import Story, as_charged, stories, tell, write

MAKERS: dict[str, Any] = {
    "cost": cost,
    "latency": latency,
    "reliability": reliability,
    "routing": routing,
    "validation": validation,
}
DAY_MS = 86_400_000
WHOLE = Asked()
ASKED = [
    Asked(),
    Asked(("tier",)),
    Asked(("day", "tier")),
    Asked(("label:team",)),
    Asked(("hour", "label:team"), START_MS + DAY_MS // 2, START_MS + 2 * DAY_MS),
    Asked(("tier", "model", "purpose", "label:team", "day")),
    Asked(("model", "tier", "day"), START_MS + DAY_MS // 3),
    Asked(("model",), START_MS + DAY_MS),
]
TELLING = [Asked(("day",)), ASKED[4], ASKED[5]]


def questions() -> list[object]:
    """Make a case of every report and every grouping that it knows."""
    return [
        pytest.param(name, asked, id=f"{name} by {','.join(asked.by) or 'nothing'}")
        for name in MAKERS
        for asked in ASKED
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Story]]:
    """A ledger of some days with everything in it, and its stories."""
    path = str(fresh_ledger(tmp_path_factory.mktemp("reports")))

    async def filled() -> dict[str, Story]:
        clock = Clock()
        async with Ledger.open(path, ports=Ports(now_ms=clock)) as ledger:
            store = await ledger.store()
            await write(store, clock, 120)
            return await stories(store)

    return path, asyncio.run(filled())


async def made(store: Store, name: str, asked: Asked) -> Report:
    """Make a report."""
    report: Report = await reading(store, lambda snapshot: MAKERS[name](snapshot, asked))
    return report


def by_key(report: Report) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return a report's rows by their groups."""
    keys = [column.name for column in report.columns if column.kind == "key"]
    assert all([column.name for column in report.columns] == list(row) for row in report.rows)
    rows = {tuple(row[name] for name in keys): {k: v for k, v in row.items() if k not in keys} for row in report.rows}
    assert len(rows) == len(report.rows)
    return rows


@pytest.mark.parametrize(("name", "asked"), questions())
async def test_a_report_says_what_the_events_say(told: tuple[str, dict[str, Story]], name: str, asked: Asked) -> None:
    """Every figure of every group is that of a plain loop over the events."""
    async with Ledger.open(told[0]) as ledger:
        report = await made(await ledger.store(), name, asked)
    expected = tell(name, told[1], asked)
    assert expected == by_key(report)


@pytest.mark.parametrize("asked", [pytest.param(asked, id=",".join(asked.by) or "nothing") for asked in ASKED])
async def test_costs_as_they_were_charged(told: tuple[str, dict[str, Story]], asked: Asked) -> None:
    """What was settled later counts as it stood when the attempt ended, in attempts and in tasks."""
    async with Ledger.open(told[0]) as ledger:
        report = await reading(await ledger.store(), lambda snapshot: cost(snapshot, asked, priced=charged_then))
    assert tell("cost", as_charged(told[1]), asked) == by_key(report)


async def test_a_total_is_the_report_without_groups(told: tuple[str, dict[str, Story]]) -> None:
    """Rows add up to what the whole ledger is told to have cost."""
    async with Ledger.open(told[0]) as ledger:
        store = await ledger.store()
        by_tier = await made(store, "cost", Asked(("tier",)))
        (row,) = (await made(store, "cost", Asked())).rows
        total = await reading(store, lambda snapshot: whole(snapshot, Asked(("tier",)), by_tier))
    assert row == {name: value for name, value in total.items() if name != "tier"}


async def test_the_same_tokens_elsewhere(told: tuple[str, dict[str, Story]]) -> None:
    """Attempts of which both costs are known are compared; judges' calls would have cost the same."""

    async def dearer(snapshot: Snapshot, since_ms: int, until_ms: int) -> AsyncIterator[Sequence[Money]]:
        async for page in charged_then(snapshot, since_ms, until_ms):
            yield [(task, attempt, None if cost is None else cost + 7, None) for task, attempt, cost, _ in page]

    async with Ledger.open(told[0]) as ledger:
        report = await reading(
            await ledger.store(), lambda snapshot: cost(snapshot, Asked(("purpose",)), against=dearer)
        )
    then = as_charged(told[1])
    for row in report.rows:
        pairs = [
            (now["cost_nano_usd"], charged["cost_nano_usd"])
            for name, story in told[1].items()
            for now, charged in zip(story.rows.attempts, then[name].rows.attempts, strict=True)
            if now["purpose"] == row["purpose"] and now["cost_nano_usd"] is not None
        ]
        pairs = [
            (now, now if row["purpose"] == "validate" else charged + 7)
            for now, charged in pairs
            if row["purpose"] == "validate" or charged is not None
        ]
        spent, elsewhere = sum(now for now, _ in pairs), sum(there for _, there in pairs)
        assert [len(pairs), spent, elsewhere, elsewhere - spent] == [
            row[name] for name in ("compared_attempts", "compared_cost_nano_usd", "against_nano_usd", "saved_nano_usd")
        ]


async def test_both_engines_say_the_same(told: tuple[str, dict[str, Story]]) -> None:
    """Every report of a copy in PostgreSQL is the file's, byte for byte."""
    async with database() as url:
        await copy_ledger(told[0], url, now_ms=Clock())
        async with Ledger.open(told[0]) as file, Ledger.open(url) as server:
            for name, asked in ((name, asked) for name in MAKERS for asked in TELLING):
                reports = [await made(await ledger.store(), name, asked) for ledger in (file, server)]
                ours, theirs = (json.dumps([list(report.rows), [str(c) for c in report.columns]]) for report in reports)
                assert ours == theirs, (name, asked)


async def test_the_views_say_the_same(told: tuple[str, dict[str, Story]]) -> None:
    """What anybody reads in ``tier_cost`` and ``tier_latency`` are the reports' figures; the view's NULL is their 0."""
    names = (
        "attempts",
        "tokens_input",
        "tokens_output",
        "cost_nano_usd",
        "cost_unknown_attempts",
        "exposure_nano_usd",
        "exposure_unknown_attempts",
    )
    async with Ledger.open(told[0]) as ledger:
        store = await ledger.store()
        spent = by_key(await made(store, "cost", Asked(("day", "tier", "model", "purpose"))))
        took = by_key(await made(store, "latency", Asked(("day", "tier", "model"))))
    costs = sql(told[0], f"SELECT day, tier, model, purpose, {', '.join(names)} FROM tier_cost")
    assert {row[:4]: [value or 0 for value in row[4:]] for row in costs} == {
        key: [row[name] for name in names] for key, row in spent.items()
    }
    figures = ("attempts", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")
    latencies = sql(told[0], f"SELECT day, tier, model, {', '.join(figures)} FROM tier_latency")
    assert {row[:3]: list(row[3:]) for row in latencies} == {
        key: [row[name] for name in figures] for key, row in took.items() if row["attempts"]
    }


async def test_an_empty_ledger_has_no_rows(tmp_path: Path) -> None:
    """Where nothing is, nothing is told."""
    async with Ledger.open(fresh_ledger(tmp_path)) as ledger:
        reports = {name: (await made(await ledger.store(), name, Asked(("day",)))).rows for name in MAKERS}
    assert {name: [] for name in MAKERS} == reports


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        pytest.param("cost", "colour", "no report is made by 'colour'", id="no group"),
        pytest.param("cost", "label:", "no report is made by 'label:'", id="a label without a name"),
        pytest.param("cost", "label:subject", "can be erased", id="a label that can be erased"),
    ],
)
async def test_a_group_that_means_nothing_is_refused(tmp_path: Path, name: str, by: str, said: str) -> None:
    """What a report cannot be told by is refused, and what it can be told by is named."""
    async with Ledger.open(fresh_ledger(tmp_path)) as ledger:
        with pytest.raises(RequestRefused, match=said):
            await made(await ledger.store(), name, Asked((by,)))


def test_a_share_is_rounded_once() -> None:
    """To the millionth, half to even, out of integers; of nothing there is none."""
    assert [0.333333, 0.666667, 0.0, 1.25, None] == [share(1, 3), share(2, 3), share(0, 3), share(5, 4), share(1, 0)]
    assert [2, 2, 4, None] == [average(3, 2), average(5, 2), average(7, 2), average(1, 0)]


async def test_absurd_figures_add_up(tmp_path: Path) -> None:
    """Sums of more than 64 bits are exact, on both engines; a provider's wrong count breaks no report."""
    huge = 2**63 - 1
    async with database() as url, Ledger.open(fresh_ledger(tmp_path)) as file, Ledger.open(url) as server:
        for ledger in (file, server):
            store = await ledger.store()
            for name in ("a", "b"):
                history = History().start().succeed(cost_nano_usd=huge, latency_ms=huge, provider_requests=huge)
                await store.append(whole_of(name, history))
            (spent,) = (await made(store, "cost", Asked(("tier",)))).rows
            (took,) = (await made(store, "latency", Asked(("tier",)))).rows
            (sent,) = (await made(store, "reliability", Asked(("tier",)))).rows
            assert [2 * huge, huge] == [spent["cost_nano_usd"], spent["cost_per_accepted_nano_usd"]]
            assert [huge, huge, huge] == [took["mean_ms"], took["p99_ms"], took["max_ms"]]
            assert 2 * huge == sent["provider_requests"]


class Crowded:
    """A snapshot in which every group is one of very many."""

    async def rows(self, text: str, wanted: Mapping[str, Any] = NOTHING) -> list[tuple[Any, ...]]:
        return [(number, 1) for number in range(ROWS_MAX + 1)]

    async def each(self, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[list[tuple[Any, ...]]]:
        return [await self.rows(text, one) for one in wanted]


async def test_a_report_has_an_end() -> None:
    """More groups than anybody reads are refused, with what to do about it."""
    groups = grouped(Asked(("label:user",)), {}, "a.task_id")
    with pytest.raises(RequestRefused, match="more than 100,000 rows; narrow it by --since"):
        await groups.sums(Crowded(), {"attempts": "COUNT(*)"}, "attempts a", "1 = 1")
