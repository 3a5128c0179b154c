"""A ledger with all that reports tell of, and every report once more in plain Python, straight from its events."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from math import ceil
from operator import itemgetter
from typing import Any, Final, get_args

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Recorded
from ledger.parts import BudgetSeen, UsageRow
from ledger.policy import Tier
from ledger.reports.asked import Asked
from ledger.state import Ended, Held, Running
from ledger.store.projection import project_stream
from ledger.store.protocol import Projected, Store
from tests.contracts.appends import Clock, whole
from tests.histories import DIGEST, History, brake, policy, request, step, validation, verdict

__all__ = ["HOSTILE", "Story", "as_charged", "stories", "tell", "write"]

TIERS: Final[tuple[str, ...]] = get_args(Tier)
HOSTILE: Final = '=1+2,"\r\n@é'
TEAMS: Final = ("a", "b", HOSTILE)
DAY_MS: Final = 86_400_000


async def write(store: Store, clock: Clock, tasks: int, seed: int = 633) -> None:
    """Write tasks over some days, whatever may become of one: each append a while after the one before."""
    chance = random.Random(seed)  # noqa: S311 - the same ledger every time
    for number in range(tasks):
        clock.now_ms += chance.randrange(1, 3_000_000)
        history = _history(chance)
        task_id, written = f"task-{number:04}", 0
        while True:
            if written < len(history.events):
                await store.append(whole(task_id, history, after=written))
            written = len(history.events)
            clock.now_ms += chance.choice([0, 3, 900, 61_000])
            if not _moved(chance, history):
                break
        if chance.random() < 0.3 and isinstance(history.state, Ended):
            await _judged_later(store, clock, chance, task_id, history)


def _history(chance: random.Random) -> History:
    labels = {"team": chance.choice(TEAMS)} if chance.random() < 0.8 else {}
    first = chance.choice(["flash", "pro", "haiku"])
    fields: dict[str, Any] = {
        "route": (step(first, 2), step("haiku" if first != "haiku" else "sonnet", 1)),  # type: ignore[arg-type] # a tier
        "labels": labels,
        "policy": policy(on_unknown=chance.choice(["retry", "retry", "hold", "fail"])),
    }
    if chance.random() < 0.4:
        fields |= {"judge": (step("sonnet", 2),), "ladder": (step("sonnet", 1), step("opus", 1))}
    return History(request(attempts=chance.choice([3, 8]), **fields))


def _moved(chance: random.Random, history: History) -> bool:
    """Do one thing with a task; False when nothing is left, or it is left as it is."""
    state, draw = history.state, chance.random()
    if isinstance(state, Ended):
        if history.task.loose and draw < 0.5:
            history.do(c.Settle(_account(chance, history), history.seen()))
            return True
        return False
    if draw < 0.02:
        return False
    if draw < 0.05:
        history.do(c.Cancel(history.seen()))
    elif isinstance(state, Held):
        history.do(c.Release(history.seen()))
    elif isinstance(state, Running):
        _ended(chance, history)
    elif draw < 0.12:
        history.brake(brake(history.task.at, history.now_ms + 5000))
        if chance.random() < 0.3:
            history.add(_refused(history)).do(c.Choose(history.seen()))
    else:
        history.start()
        bound = chance.choice([None, 5_000_000])
        history.events[-1] = history.events[-1].model_copy(update={"upper_bound_nano_usd": bound})
    return True


def _refused(history: History) -> e.BudgetRefused:
    """Make what a full cap leads to."""
    seen = BudgetSeen(cap="per_day", limit=5, settled=3, unknown=None, reserved=0, asked=9, position=1)
    inputs = {"decided_at_ms": history.now_ms, "jitter_ppm": 0, "outcome": None, "policy_hash": DIGEST, "decider": 1}
    return e.BudgetRefused.model_validate(
        {
            "decision": "refused",
            "reason": "budget",
            "rule": "budget",
            "policy_hash": DIGEST,
            "inputs": {**inputs, "brakes": (), "budgets": (seen.model_dump(),)},
            "cap": "per_day",
            "step": 1,
            "tier": history.task.at.tier,
        }
    )


def _figures(chance: random.Random) -> dict[str, Any]:
    counts = [chance.choice([0, 7, 5_000]) for _ in range(4)]
    usage = UsageRow(
        model=None,
        input_uncached_tokens=counts[0],
        cache_read_tokens=counts[1],
        cache_write_5m_tokens=counts[2],
        cache_write_1h_tokens=None if chance.random() < 0.1 else counts[3],
        output_tokens=chance.randrange(500),
        reasoning_tokens=chance.choice([None, 0, 5]),
        service_tier=None,
        inference_geo=None,
    )
    is_known = chance.random() < 0.8
    return {
        "usage": (usage,) if is_known else (),
        "usage_source": "provider" if is_known else chance.choice(["unknown", "not_billed"]),
        "cost_nano_usd": chance.randrange(10**7) if is_known else None,
        "exposure_nano_usd": None if is_known else chance.choice([None, 10**7]),
        "latency_ms": chance.choice([None, 5, 5, 17, 90, 2_000, 30_001]),
        "ttft_ms": chance.choice([None, 3, 4, 80]),
        "provider_requests": chance.choice([None, 1, 1, 1, 4]),
        "served_model": chance.choice([None, "served-by", "flash-lite"]),
    }


def _ended(chance: random.Random, history: History) -> None:
    draw = chance.random()
    if draw < 0.12:
        history.do(
            c.Orphan(
                e.AttemptOrphaned(
                    attempt=history.task.attempts,
                    cause="lease_expired",
                    exposure_nano_usd=chance.choice([None, 5_000_000]),
                ),
                history.seen(),
            )
        )
    elif draw < 0.45:
        error = chance.choice(["overloaded", "rate_limited", "timeout", "authentication", "content_refused"])
        history.fail(error, **_figures(chance))  # type: ignore[arg-type] # an error type
    elif history.task.purpose == "generate":
        history.succeed(**_figures(chance))
    elif draw < 0.6:
        history.fail("output_invalid", **_figures(chance))
    else:
        history.judge(passed=draw < 0.85, escalate=chance.random() < 0.6)
        place = next(
            n
            for n, event in enumerate(history.events)
            if isinstance(event, e.AttemptSucceeded) and event.attempt == history.task.attempts
        )
        history.events[place] = history.events[place].model_copy(update=_figures(chance))


def _account(chance: random.Random, history: History) -> e.AttemptSettled:
    attempt = chance.choice(history.task.loose).attempt
    end: dict[str, Any] = chance.choice(
        [
            {"via": "late", "outcome": "succeeded", "response_digest": DIGEST, "error_type": None},
            {"via": "late", "outcome": "failed", "response_digest": None, "error_type": "timeout"},
        ]
    )
    fields = {**_figures(chance), **end, "attempt": attempt, "status_code": None, "message_digest": None}
    return e.AttemptSettled(**{**dict.fromkeys(e.AttemptSettled.model_fields), **fields})


async def _judged_later(store: Store, clock: Clock, chance: random.Random, task_id: str, history: History) -> None:
    """Have an answer judged again, by a person or by a model."""
    for number in range(chance.choice([1, 1, 2])):
        clock.now_ms += 70_000
        judged = next((event.attempt for event in history.events if isinstance(event, e.AttemptSucceeded)), None)
        again = History(validation(judged_task_id=task_id, judged_attempt=judged, labels={"team": "judges"}))
        passed = chance.random() < 0.5
        if chance.random() < 0.5:
            again.add(verdict(passed=passed, judged=judged, judged_task_id=task_id))
        else:
            again.start().judge(passed=passed)
        await store.append(whole(f"{task_id}-again-{number}", again))


@dataclass
class Story:
    """One task: its rows, and its events with their times."""

    rows: Projected
    events: list[tuple[Recorded, e.Event]] = field(default_factory=list)

    @property
    def task(self) -> Mapping[str, Any]:
        """Return its row."""
        return self.rows.tasks[0]

    @property
    def labels(self) -> dict[str, str]:
        """Return its labels."""
        return {row["key"]: row["value"] for row in self.rows.task_labels}


async def stories(store: Store) -> dict[str, Story]:
    """Read every task from its events; the projections in the ledger are not looked at."""
    streams: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in await store.page(0, 1_000_000):
        streams[recorded.task_id].append(recorded)
    told = {
        name: Story(project_stream(stream), [(one, one.event()) for one in stream]) for name, stream in streams.items()
    }
    return {name: story for name, story in told.items() if story.rows.tasks}


Key = tuple[Any, ...]
Told = dict[Key, dict[str, Any]]
"""Rows by their groups."""


def as_charged(told: Mapping[str, Story]) -> dict[str, Story]:
    """Return the stories with the money of each attempt's first outcome, whatever was settled later."""
    return {name: _as_charged(story) for name, story in told.items()}


def _as_charged(story: Story) -> Story:
    first: dict[int, tuple[int | None, int | None]] = {}
    for _, event in story.events:
        match event:
            case e.AttemptSucceeded() | e.AttemptFailed():
                first.setdefault(event.attempt, (event.cost_nano_usd, event.exposure_nano_usd))
            case e.AttemptOrphaned():
                first.setdefault(event.attempt, (None, event.exposure_nano_usd))
            case _:
                continue
    attempts = []
    for row in story.rows.attempts:
        cost, exposure = first.get(row["attempt"], (row["cost_nano_usd"], row["exposure_nano_usd"]))
        attempts.append({**row, "cost_nano_usd": cost, "exposure_nano_usd": exposure})
    costs = [row["cost_nano_usd"] for row in attempts]
    figures = {"cost_known_nano_usd": sum(filter(None, costs)), "cost_unknown_attempts": costs.count(None)}
    return Story(replace(story.rows, attempts=tuple(attempts), tasks=({**story.task, **figures},)), story.events)


def tell(name: str, told: Mapping[str, Story], asked: Asked) -> Told:
    """Make a report, one plain loop after another."""
    return {
        "cost": _cost,
        "latency": _latency,
        "reliability": _reliability,
        "routing": _routing,
        "validation": _validation,
    }[name](told, asked)


def _share(part: int, whole: int) -> float | None:
    return round(Fraction(part, whole), 6).__float__() if whole else None


def _time(name: str, at_ms: int) -> str:
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%d}" if name == "day" else f"{at:%Y-%m-%dT%H}:00Z"


def _key(asked: Asked, at_ms: int, labels: Mapping[str, str], **values: Any) -> Key:
    return tuple(
        labels.get(name[6:])
        if name.startswith("label:")
        else _time(name, at_ms)
        if name in ("day", "hour")
        else values[name]
        for name in asked.by
    )


def _attempts(told: Mapping[str, Story], asked: Asked) -> Iterable[tuple[Key, Story, Mapping[str, Any]]]:
    for story in told.values():
        for row in story.rows.attempts:
            if asked.since_ms <= row["started_at_ms"] < asked.until_ms:
                yield _attempt_key(asked, story, row), story, row


def _attempt_key(asked: Asked, story: Story, row: Mapping[str, Any]) -> Key:
    model = row["response_model"] or row["request_model"]
    return _key(asked, row["started_at_ms"], story.labels, tier=row["tier"], model=model, purpose=row["purpose"])


def _sum(rows: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


TOKENS: Final = (
    "tokens_input",
    "tokens_output",
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)


def _bought(story: Story, row: Mapping[str, Any]) -> bool:
    if row["state"] == "settled":
        is_final = story.task["state"] == "succeeded" and story.task["attempt_final"] == row["attempt"]
        return row["error_type"] is None and is_final
    return row["state"] not in ("failed", "orphaned") and story.task["state"] not in ("failed", "cancelled")


def _cost(told: Mapping[str, Story], asked: Asked) -> Told:
    groups: dict[Key, list[tuple[Story, Mapping[str, Any]]]] = defaultdict(list)
    for key, story, row in _attempts(told, asked):
        groups[key].append((story, row))
    made: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    by_task = not {"model", "purpose"} & set(asked.by)
    for story in told.values() if by_task else ():
        at_ms = story.task["created_at_ms"]
        if story.task["kind"] == "generation" and asked.since_ms <= at_ms < asked.until_ms:
            made[_key(asked, at_ms, story.labels, tier=story.task["tier_requested"])].append(story.task)
    return {key: _cost_row(groups[key], made[key] if by_task else None) for key in {**groups, **made}}


def _cost_row(pairs: list[tuple[Story, Mapping[str, Any]]], tasks: list[Mapping[str, Any]] | None) -> dict[str, Any]:
    rows = [row for _, row in pairs]
    unknown = [row for row in rows if row["cost_nano_usd"] is None]
    cost = _sum(rows, "cost_nano_usd")
    nothing = sum(row["cost_nano_usd"] or 0 for story, row in pairs if not _bought(story, row))
    failed = [
        row
        for row in rows
        if row["state"] in ("failed", "orphaned") or (row["state"] == "settled" and row["error_type"] is not None)
    ]
    figures = {
        "attempts": len(rows),
        "tasks": len({row["task_id"] for row in rows}),
        **{name: _sum(rows, name) for name in TOKENS},
        "tokens_unknown_attempts": sum(
            (row["tokens_input"] is None or row["tokens_output"] is None) and row["usage_source"] != "not_billed"
            for row in rows
        ),
        "cost_nano_usd": cost,
        "cost_unknown_attempts": len(unknown),
        "exposure_nano_usd": _sum(unknown, "exposure_nano_usd"),
        "exposure_unknown_attempts": sum(row["exposure_nano_usd"] is None for row in unknown),
        "cost_failed_nano_usd": _sum(failed, "cost_nano_usd"),
        "cost_judges_nano_usd": _sum([row for row in rows if row["purpose"] == "validate"], "cost_nano_usd"),
        "cost_bought_nothing_nano_usd": nothing,
        "bought_nothing_share": _share(nothing, cost),
    }
    if tasks is None:
        return figures | dict.fromkeys(
            (
                "tasks_asked",
                "outputs_accepted",
                "tasks_cost_nano_usd",
                "tasks_cost_unknown_attempts",
                "cost_per_accepted_nano_usd",
                "cost_per_accepted_known_nano_usd",
            )
        )
    accepted = sum(t["accepted"] == 1 or (t["state"] == "succeeded" and t["accepted"] is None) for t in tasks)
    spent, blind = _sum(tasks, "cost_known_nano_usd"), _sum(tasks, "cost_unknown_attempts")
    each = round(Fraction(spent, accepted)) if accepted else None
    return figures | {
        "tasks_asked": len(tasks),
        "outputs_accepted": accepted,
        "tasks_cost_nano_usd": spent,
        "tasks_cost_unknown_attempts": blind,
        "cost_per_accepted_nano_usd": None if blind else each,
        "cost_per_accepted_known_nano_usd": each,
    }


def _waits(told: Mapping[str, Story], asked: Asked, *, judges: bool) -> dict[Key, list[int]]:
    waits: dict[Key, list[int]] = defaultdict(list)
    for story in told.values():
        for before, row in pairwise(story.rows.attempts):
            gap = row["started_at_ms"] - (before["ended_at_ms"] or row["started_at_ms"])
            told_of = asked.since_ms <= row["started_at_ms"] < asked.until_ms
            if gap > 0 and told_of and (judges or row["purpose"] == "generate"):
                waits[_attempt_key(asked, story, row)].append(gap)
    return waits


def _rank(values: Sequence[int], percent: int) -> int | None:
    return sorted(values)[ceil(Fraction(percent * len(values), 100)) - 1] if values else None


def _latency(told: Mapping[str, Story], asked: Asked) -> Told:
    judges = "purpose" in asked.by
    groups: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    for key, _, row in _attempts(told, asked):
        if row["state"] == "succeeded" and (judges or row["purpose"] == "generate"):
            groups[key].append(row)
    waits = _waits(told, asked, judges=judges)
    report = {}
    for key in {**groups, **waits}:
        took = [row["latency_ms"] for row in groups[key] if row["latency_ms"] is not None]
        first = [row["ttft_ms"] for row in groups[key] if row["ttft_ms"] is not None]
        report[key] = {
            "attempts": len(took),
            "mean_ms": round(Fraction(sum(took), len(took))) if took else None,
            **{f"p{percent}_ms": _rank(took, percent) for percent in (50, 95, 99)},
            "max_ms": max(took, default=None),
            "unmeasured_attempts": len(groups[key]) - len(took),
            "ttft_attempts": len(first),
            **{f"ttft_p{percent}_ms": _rank(first, percent) for percent in (50, 95, 99)},
            "waits": len(waits.get(key, ())),
            "waited_ms": sum(waits.get(key, ())),
        }
    return report


def _reliability(told: Mapping[str, Story], asked: Asked) -> Told:
    groups: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    repeats: Counter[Key] = Counter()
    for key, story, row in _attempts(told, asked):
        groups[key].append(row)
        before = story.rows.attempts[row["attempt"] - 2] if row["attempt"] > 1 else None
        repeats[key] += before is not None and all(before[name] == row[name] for name in ("step", "purpose"))
    waits = _waits(told, asked, judges=True)
    left: Counter[Key] = Counter()
    by_task = not {"model", "purpose"} & set(asked.by)
    decided = [(story, row) for story in told.values() for row in story.rows.decisions]
    for of, row in decided:
        if row["decision"] == "fallback" and asked.since_ms <= row["recorded_at_ms"] < asked.until_ms and by_task:
            left[_key(asked, row["recorded_at_ms"], of.labels, tier=row["tier_from"])] += 1
    report = {}
    for key in {**groups, **left}:
        rows, tasks = groups[key], len({row["task_id"] for row in groups[key]})
        states = Counter(row["state"] for row in rows)
        requests = [row["provider_requests"] for row in rows]
        asked_for = sum(filter(None, requests))
        ended = len(rows) - states["running"]
        report[key] = {
            "attempts": len(rows),
            "tasks": tasks,
            **{state: states[state] for state in ("succeeded", "failed", "orphaned", "settled", "running")},
            "success_rate": _share(states["succeeded"], ended),
            "failure_rate": _share(states["failed"], ended),
            "orphan_rate": _share(states["orphaned"], ended),
            "retries": repeats[key],
            "retries_per_task": _share(repeats[key], tasks),
            "provider_requests": asked_for,
            "hidden_requests": sum(count - 1 for count in requests if count and count > 1),
            "requests_unknown_attempts": requests.count(None),
            "requests_per_task": _share(asked_for, tasks),
            "fallbacks": left[key] if by_task else None,
            "waits": len(waits.get(key, ())),
            "waited_ms": sum(waits.get(key, ())),
            "failed_ms": _sum([row for row in rows if row["state"] == "failed"], "latency_ms"),
            "errors": dict(sorted(Counter(row["error_type"] for row in rows if row["error_type"]).items())),
        }
    return report


def _routing(told: Mapping[str, Story], asked: Asked) -> Told:
    report: Told = {}
    for story in told.values():
        rows = {row["version"]: row for row in story.rows.decisions}
        for recorded, event in story.events:
            row = rows.get(recorded.version)
            if row is None or not asked.since_ms <= recorded.recorded_at_ms < asked.until_ms:
                continue
            of_task = {
                "tier": story.task["tier_requested"],
                "model": story.task["model_final"],
                "purpose": "validate" if story.task["kind"] == "validation" else "generate",
            }
            group = _key(asked, recorded.recorded_at_ms, story.labels, **of_task)
            key = (*group, row["decision"], row["reason"], row["tier_from"], row["tier_to"], _obstacle(event))
            found = report.setdefault(key, {"decisions": 0, "wait_ms": 0})
            found["decisions"] += 1
            found["wait_ms"] += max(0, (row["not_before_ms"] or 0) - recorded.recorded_at_ms)
    return report


def _obstacle(event: e.Event) -> str | None:
    match event:
        case e.BudgetRefused():
            return f"budget {event.cap}"
        case e.RetryScheduled() | e.FallbackSelected() if event.reason == "breaker_open":
            return " + ".join(sorted({f"breaker {one.provider}/{one.model}" for one in event.inputs.brakes}))
        case _:
            return None


def _validation(told: Mapping[str, Story], asked: Asked) -> Told:
    """Tell every verdict beside all the others on the same answer."""
    verdicts = [(story, row) for story in told.values() for row in story.rows.validations]
    report: Told = defaultdict(
        lambda: (
            dict.fromkeys(
                (
                    "verdicts",
                    "passed",
                    "failed",
                    "errored",
                    "escalated",
                    "judged_again",
                    "disagreed",
                    "judged_by_person",
                    "false_passes",
                    "false_fails",
                    "judge_attempts",
                    "judge_cost_nano_usd",
                    "judge_cost_unknown_attempts",
                ),
                0,
            )
            | {"errors": {}}
        )
    )
    answers: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for _, row in verdicts:
        if row["error_type"] is None and (answer := _answer(told, row)) is not None:
            answers[answer].append(row)
    for story, row in verdicts:
        if asked.since_ms <= row["recorded_at_ms"] < asked.until_ms:
            found = report[_verdict_key(told, asked, story, row, row["recorded_at_ms"])]
            found["verdicts"] += 1
            if row["error_type"] is not None:
                found["errored"] += 1
                found["errors"][row["error_type"]] = found["errors"].get(row["error_type"], 0) + 1
                continue
            found["passed" if row["pass"] else "failed"] += 1
            found["escalated"] += row["escalate"]
            _compared(found, row, answers.get(_answer(told, row), []))
    for story in told.values():
        for row in story.rows.attempts:
            if row["purpose"] == "validate" and asked.since_ms <= row["started_at_ms"] < asked.until_ms:
                after = [v for v in story.rows.validations if (v["judge_attempt"] or 0) >= row["attempt"]]
                said = min(after, key=lambda v: v["judge_attempt"], default=None)
                found = report[_verdict_key(told, asked, story, said, row["started_at_ms"], judge=row["tier"])]
                found["judge_attempts"] += 1
                found["judge_cost_nano_usd"] += row["cost_nano_usd"] or 0
                found["judge_cost_unknown_attempts"] += row["cost_nano_usd"] is None
    for found in report.values():
        found["pass_rate"] = _share(found["passed"], found["passed"] + found["failed"])
        found["disagreement_rate"] = _share(found["disagreed"], found["judged_again"])
        found["errors"] = dict(sorted(found["errors"].items()))
    return dict(report)


def _compared(found: dict[str, Any], row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    order = [(one["recorded_at_ms"], one["judge_task_id"], one["version"]) for one in others]
    mine = (row["recorded_at_ms"], row["judge_task_id"], row["version"])
    later = [one["pass"] for one, place in zip(others, order, strict=True) if place > mine]
    persons = [
        one["pass"]
        for _, one in sorted(zip(order, others, strict=True), key=itemgetter(0))
        if one["judge_attempt"] is None
    ]
    found["judged_again"] += bool(later)
    found["disagreed"] += (1 - row["pass"]) in later
    if row["judge_attempt"] is not None:
        found["judged_by_person"] += bool(persons)
        found["false_passes"] += row["pass"] == 1 and persons[-1:] == [0]
        found["false_fails"] += row["pass"] == 0 and persons[-1:] == [1]


def _answer(told: Mapping[str, Story], row: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return what a verdict is about."""
    if row["task_id"] is None:
        return None
    attempt = row["judged_attempt"] or told[row["task_id"]].task["attempt_final"]
    return None if attempt is None else (row["task_id"], attempt)


def _verdict_key(
    told: Mapping[str, Story], asked: Asked, story: Story, row: Mapping[str, Any] | None, at_ms: int, judge: Any = None
) -> Key:
    answer = None if row is None else _answer(told, row)
    judged = None if answer is None else told[answer[0]].rows.attempts[answer[1] - 1]
    model = None if judged is None else judged["response_model"] or judged["request_model"]
    of = story if row is None or row["task_id"] is None else told[row["task_id"]]
    if judge is None and row is not None:
        by = row["judge_attempt"]
        nobody = None if row["error_type"] else "person"
        judge = nobody if by is None else story.rows.attempts[by - 1]["tier"]
    by = Asked(tuple(name for name in asked.by if name != "tier"), asked.since_ms, asked.until_ms)
    return (
        *_key(by, at_ms, of.labels, model=model, purpose="validate"),
        None if judged is None else judged["tier"],
        judge,
    )
