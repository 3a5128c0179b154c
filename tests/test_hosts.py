"""Workers on several hosts share a ledger in PostgreSQL; cables are pulled, and put back. ``make check-hosts``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import pytest

from ledger import Executor, Ledger
from ledger.audit import verify
from ledger.executor.calling import LEASE_GRACE_MS
from ledger.executor.presence import SILENT_MS
from tests.hosts.network import NoHosts
from tests.hosts.provider import said
from tests.hosts.site import Call, Site, Worker, site

pytestmark = pytest.mark.slow

PLACES: Final = 4
"""Calls that the provider takes at once, from all hosts together."""
EACH: Final = PLACES // 2
"""Tasks that one worker has under way at once: those who fill all places are two."""
QUICK: Final = 12
TIMEOUT_S: Final = 5
CONFIG: Final = f"""
[retry]
backoff_initial_s = 0.05
[tiers.haiku]
timeout_s = {TIMEOUT_S}
[providers.anthropic]
concurrency = {PLACES}
"""
LEASE_S: Final = max(TIMEOUT_S * 1000 + LEASE_GRACE_MS, SILENT_MS) / 1000
"""How long a worker that is not heard of keeps its task."""
MARGIN_S: Final = 15.0
PATIENCE_S: Final = 30.0

OPEN: Final = "SELECT task_id FROM tasks WHERE ended_at_ms IS NULL"
RUNNING: Final = "SELECT worker, task_id FROM attempts WHERE state = 'running'"
UNSETTLED: Final = "SELECT task_id FROM attempts WHERE state IN ('running', 'orphaned')"
CAUSES: Final = "SELECT data::json ->> 'cause' FROM events WHERE type = 'attempt.orphaned'"
ENDS: Final = "SELECT state, error_type, request_id IS NOT NULL FROM attempts WHERE attempt = 1 AND worker = '{}'"
ATTEMPTS: Final = "SELECT task_id, request_id FROM attempts"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Have workers on three hosts; where hosts cannot be made, tests are skipped and say why."""
    try:
        with site(tmp_path_factory.mktemp("hosts"), CONFIG) as made:
            first = made.worker("one", "--concurrency", str(EACH))
            made.until(lambda: first.name, "the first worker, which makes the ledger")
            for name in ("two", "three"):
                made.worker(name, "--concurrency", str(EACH))
            made.until(lambda: all(worker.name for worker in made.workers), "the others")
            yield made
    except NoHosts as why:
        pytest.skip(f"no hosts can be made here: {why}")


def test_hosts_are_cut_off_in_mid_call(hosts: Site) -> None:
    """A third one takes their tasks over; healed, they tell what became of their calls, and go on by themselves."""
    first = hosts.workers[0]
    prompts = submitted(hosts, first, "0.2 quick", QUICK)
    hosts.until(lambda: not hosts.rows(OPEN), "the quick tasks")
    prompts |= submitted(hosts, first, "3 slow", PLACES + 1)
    hosts.until(lambda: len(hosts.calls) == QUICK + PLACES, "calls in all places")
    running = hosts.rows(RUNNING)
    callers = {name for name, _ in running}
    gone, deaf, *_ = (worker for worker in hosts.workers if worker.name in callers)
    stranded = {task_id for name, task_id in running if name in {gone.name, deaf.name}}

    hosts.network.cut(gone.host)
    hosts.network.cut(deaf.host, "db")  # its answers come, and it cannot record them
    hosts.until(lambda: not hosts.rows(OPEN), "the third host to finish everything", LEASE_S + MARGIN_S)
    assert [("lease_expired",)] * len(stranded) == hosts.rows(CAUSES)

    hosts.network.heal(gone.host)
    hosts.network.heal(deaf.host)
    hosts.until(lambda: not hosts.rows(UNSETTLED), "what became of the calls")
    assert {("settled", "timeout", False)} == ends(hosts, gone)
    assert {("settled", None, True)} == ends(hosts, deaf)
    agree(hosts, prompts, stranded)

    (other,) = (worker for worker in hosts.workers if worker not in [gone, deaf])
    assert retired(hosts, other)
    prompts |= submitted(hosts, first, "0 again", PLACES)
    hosts.until(lambda: not hosts.rows(OPEN), "the healed hosts to go on")
    agree(hosts, prompts, stranded)
    assert [True, True] == [retired(hosts, worker) for worker in (gone, deaf)]


def test_a_worker_that_never_reaches_the_ledger_says_so(hosts: Site) -> None:
    """It exits with the ledger's code, and calls nobody."""
    calls = len(hosts.calls)
    worker = hosts.worker("four", plugged=False)
    assert worker.process.wait(PATIENCE_S) == 3
    assert "the ledger's server" in worker.said
    assert "Traceback" not in worker.said
    assert calls == len(hosts.calls)


def submitted(hosts: Site, worker: Worker, prompt: str, count: int) -> dict[str, str]:
    """Queue numbered prompts from a worker's host; return them by their tasks."""
    prompts = [f"{prompt} {number}" for number in range(count)]
    return dict(zip(hosts.submit(worker, prompts), prompts, strict=True))


def ends(hosts: Site, worker: Worker) -> set[tuple[str, str | None, bool]]:
    """Return how a worker's first attempts ended that did not simply succeed: state, error, whether answered."""
    return set(hosts.rows(ENDS.format(worker.name))) - {("succeeded", None, True)}


def agree(hosts: Site, prompts: Mapping[str, str], repeated: set[str]) -> None:
    """Compare ledger and witness call by call; each task has one answer, and only what was taken over two calls."""
    calls = {call.index: call for call in hosts.calls}
    assert most_at_once(calls.values()) == PLACES
    attempts = hosts.rows(ATTEMPTS)
    expected = Counter({prompt: 2 if task_id in repeated else 1 for task_id, prompt in prompts.items()})
    assert expected == Counter(call.prompt for call in calls.values())
    assert expected == Counter(prompts[task_id] for task_id, _ in attempts)
    answered = [(task_id, int(named.removeprefix("req_"))) for task_id, named in attempts if named is not None]
    assert {} == {index: task_id for task_id, index in answered if calls[index].prompt != prompts[task_id]}
    possible = {(task_id, said(prompts[task_id], index)) for task_id, index in answered}
    assert set(asyncio.run(verified_answers(hosts, prompts)).items()) <= possible


def most_at_once(calls: Iterable[Call]) -> int:
    """Return how many calls were under way at the same instant."""
    spans = [(call.at, call.at + call.delay_s) for call in calls]
    return max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)


async def verified_answers(hosts: Site, task_ids: Iterable[str]) -> dict[str, str]:
    """Verify the ledger, and return the answer of each task."""
    async with Ledger.open(hosts.server.url, create=False) as ledger, Executor(ledger) as executor:
        report = await verify(await ledger.store())
        assert report.problems == ()
        return {task_id: (await executor.result(task_id)).response for task_id in task_ids}


def retired(hosts: Site, worker: Worker) -> bool:
    """Stop a worker; say whether it had nothing to complain about."""
    hosts.workers.remove(worker)
    return worker.stopped() == 0 and "Traceback" not in worker.said and "dispatch-ledger: " not in worker.said
