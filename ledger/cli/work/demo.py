"""The work of ``demo``."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ledger.audit import Report, verify
from ledger.batch.running import run_batch
from ledger.batch.tally import Finished, Tally
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import TIERS, Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.show import gathered, tell_task
from ledger.cli.work.verify import tell_report
from ledger.demo import TO_JUDGE, demo_batch, demo_config
from ledger.errors import RequestRefused
from ledger.executor.api import Executor
from ledger.executor.verdicts import stored_answer
from ledger.store.opening import parse_url
from ledger.store.protocol import Projected, Store

__all__ = ["run_demo"]

FILES_MAX: Final = 1000
COLUMNS: Final[tuple[output.Column, ...]] = (
    ("tier", "left"),
    ("attempts", "right"),
    ("succeeded", "right"),
    ("failed", "right"),
    ("retries", "right"),
    ("fallbacks", "right"),
    ("tokens in", "right"),
    ("tokens out", "right"),
    ("median ms", "right"),
    ("nano-USD", "right"),
    ("unknown", "right"),
)
LOOK: Final = (
    "select type, count(*) from events group by type order by 2 desc;",
    "select attempt, tier, request_model, state, error_type, latency_ms from attempts where task_id = '{task}';",
    "select decision, tier_from, tier_to, reason from decisions where task_id = '{task}' order by version;",
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the demonstration came to."""

    tally: Tally
    story: str
    """The id of the task that was handed to another tier."""
    verdicts: Sequence[Row]
    tiers: Sequence[Row]
    report: Report


def run_demo(common: Common) -> int:
    """Run the demonstration and return the exit code: whether its ledger holds."""

    async def work() -> int:
        named = replace(common, ledger=common.ledger or _new_file())
        async with opened(named, create=True, config=demo_config()) as executor:
            if not common.as_json:
                output.write("A batch over five tiers, on models that are played: nothing is sent, nothing costs.\n")
            shown = await _shown(executor)
            url = executor.ledger.shown
            if common.as_json:
                output.document(_document(shown, url))
            else:
                await _tell(shown, await executor.ledger.store(), url)
        return DONE if shown.report.ok else FOUND

    return perform(work, interrupted="the ledger stays as it is, and a new demo takes a new file")


def _new_file() -> str:
    """Return the first name that no file has.

    Raises:
        RequestRefused: a thousand have been written.
    """
    for number in range(1, FILES_MAX):
        name = "dispatch-demo.db" if number == 1 else f"dispatch-demo-{number}.db"
        if not Path(name).exists():
            return name
    raise RequestRefused(f"there are {FILES_MAX - 1} demonstrations here already; name a --ledger", field="ledger")


async def _shown(executor: Executor) -> Shown:
    batch = demo_batch()
    ended: dict[str, Finished] = {}

    def on_finished(finished: Finished) -> None:
        ended[finished.asked.request.prompt] = finished

    tally = await run_batch(executor, batch, on_finished=on_finished)
    store = await executor.ledger.store()
    ids = [done.story.task_id for asked in batch if (done := ended[asked.request.prompt].done) is not None]
    verdicts = [await _verdict(executor, ended[prompt]) for prompt in TO_JUDGE]
    judged = [str(verdict["task_id"]) for verdict in verdicts]
    projected = [await store.projected(task_id) for task_id in (*ids, *judged)]
    handed_over = (rows.tasks[0]["task_id"] for rows in projected if _count(rows.decisions, decision="fallback"))
    return Shown(tally, str(next(handed_over, ids[0])), verdicts, _by_tier(projected), await verify(store))


async def _verdict(executor: Executor, finished: Finished) -> Row:
    """Have the answer of one of the tasks judged."""
    done = finished.done
    task_id = "" if done is None else done.story.task_id
    prompt, judged = await stored_answer(await executor.ledger.store(), task_id)
    verdict, by = await executor.judge(prompt, judged)
    return {**verdict, "task_id": by.story.task_id, "judged_task_id": task_id, "prompt": prompt}


def _by_tier(projected: Sequence[Projected]) -> list[dict[str, Any]]:
    """Sum attempts and decisions up by tier; a judge's attempts count on the judge's tier."""
    attempts = list(itertools.chain.from_iterable(rows.attempts for rows in projected))
    decisions = list(itertools.chain.from_iterable(rows.decisions for rows in projected))
    return [_tier(tier, [row for row in attempts if row["tier"] == tier], decisions) for tier in TIERS]


def _tier(tier: str, attempts: Sequence[Row], decisions: Sequence[Row]) -> dict[str, Any]:
    latencies = sorted(row["latency_ms"] for row in attempts if row["state"] == "succeeded")
    return {
        "tier": tier,
        "attempts": len(attempts),
        "succeeded": _count(attempts, state="succeeded"),
        "failed": _count(attempts, state="failed"),
        "retries": _count(decisions, decision="retry", tier_from=tier),
        "fallbacks": _count(decisions, decision="fallback", tier_from=tier),
        "tokens_input": sum(row["tokens_input"] or 0 for row in attempts),
        "tokens_output": sum(row["tokens_output"] or 0 for row in attempts),
        # Nearest rank: a value that occurred.
        "latency_ms_p50": latencies[(len(latencies) + 1) // 2 - 1] if latencies else None,
        "cost_known_nano_usd": sum(row["cost_nano_usd"] or 0 for row in attempts),
        "cost_unknown_attempts": _count(attempts, cost_nano_usd=None),
    }


def _count(rows: Sequence[Row], **wanted: str | None) -> int:
    return sum(all(row[key] == value for key, value in wanted.items()) for row in rows)


def _document(shown: Shown, url: str) -> dict[str, Any]:
    return {
        "ledger": url,
        "batch": shown.tally.summary(),
        "story": shown.story,
        "verdicts": list(shown.verdicts),
        "tiers": list(shown.tiers),
        "verify": asdict(shown.report),
    }


async def _tell(shown: Shown, store: Store, url: str) -> None:
    lines = shown.tally.lines
    output.write(
        f"{lines.total()} tasks: {lines['succeeded']} succeeded, {lines['failed']} failed (refused by its model), "
        f"in {shown.tally.attempts} attempts\n"
    )
    _title("One of them, from its events")
    tell_task(await gathered(store, shown.story), full=False)
    _title("Some answers, judged")
    for verdict in shown.verdicts:
        word = "passes" if verdict["pass"] else "does not pass"
        issues = "".join(f": {issue}" for issue in verdict["issues"])
        output.write(f"  {word} ({verdict['confidence']:.2f}) {verdict['prompt']}{issues}\n")
    _title("By tier, the judge's calls included")
    output.table(COLUMNS, [["-" if cell is None else str(cell) for cell in row.values()] for row in shown.tiers])
    _title("Verified")
    tell_report(shown.report)
    _title("Look at it yourself")
    _tell_how(shown.story, url)


def _title(text: str) -> None:
    output.write(f"\n{text}\n{'-' * len(text)}\n")


def _tell_how(task_id: str, url: str) -> None:
    place = parse_url(url)
    path = shlex.quote(str(place))
    shell = f"sqlite3 -header {path}" if isinstance(place, Path) else f"psql {path} -c"
    for query in LOOK:
        output.write(f'  {shell} "{query.format(task=task_id)}"\n')
    for command in (f"show {task_id[-12:]}", "tasks --state failed", "report cost", "report latency", "verify"):
        output.write(f"  dispatch-ledger {command} --ledger {path}\n")
    _title("With real models")
    output.write(
        "  export ANTHROPIC_API_KEY=…           haiku, sonnet, opus, and the judge\n"
        "  npm install -g @google/gemini-cli    flash and pro\n"
        "  export GEMINI_API_KEY=…\n"
        '  dispatch-ledger run --tier haiku "Say hello."\n'
        "  dispatch-ledger batch tasks.jsonl --out answers.jsonl\n"
    )
