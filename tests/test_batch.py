"""A batch: its lines, what each counts as, the limits of what runs at once, and how it stops and goes on."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clients.base import ExecutionResult, ModelClient, OnText, PromptPrefix
from ledger import Config, Executor, Ledger, ModelRegistry
from ledger.audit import verify
from ledger.batch import hands
from ledger.batch.lines import Asked, BatchRefused, read_batch
from ledger.batch.running import run_batch
from ledger.batch.tally import Finished, Tally
from ledger.errors import LedgerFull, PromptRefused
from ledger.executor.requests import Request
from ledger.state import Held
from tests.command_line import CONFIG, CommandLine, sql, started, until

GOOD = {"tier": "haiku", "prompt": "hello"}
OUT_KEYS = {
    "task_id",
    "state",
    "success",
    "tier",
    "model",
    "response",
    "error",
    "error_type",
    "tokens_input",
    "tokens_output",
    "latency_ms",
    "attempts",
    "cost_nano_usd",
}


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """A folder with simulated models; a ledger that was written there holds at the end."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    yield command_line
    if (empty_folder / "dispatch.db").exists():
        ended = command_line("verify")
        assert (ended.code, ended.err) == (0, ""), ended.out


def read(*lines: Mapping[str, Any] | bytes, end: bytes = b"\n") -> tuple[Asked, ...]:
    """Read lines as a batch."""
    content = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return read_batch(io.BytesIO(end.join(content) + end), "b.jsonl")


def write(name: str, *lines: Mapping[str, Any]) -> str:
    """Write a batch's file and return its name."""
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def test_a_line_is_a_request() -> None:
    """Every key finds its argument."""
    line = {**GOOD, "key": "k", "max_tokens": 7, "retries": 0, "timeout_s": 1.5, "system": "s", "labels": {"a": "b"}}
    request = Request("haiku", "hello", 7, 0, "s", 1.5, "k", None, {"a": "b"})
    assert read(line) == (Asked(request, (1,)),)


def test_the_default_key_is_the_digest_of_the_canonical_line() -> None:
    """SHA-256 over sorted keys without white space, in UTF-8; a fraction stands there as text."""
    (plain,) = read({"tier": "haiku", "prompt": "grün", "max_tokens": 5})
    expected = hashlib.sha256('{"max_tokens":5,"prompt":"grün","tier":"haiku"}'.encode()).hexdigest()
    assert expected == plain.request.default_key
    (timed,) = read({**GOOD, "timeout_s": 1.5})
    expected = hashlib.sha256(b'{"prompt":"hello","tier":"haiku","timeout_s":"1.5"}').hexdigest()
    assert expected == timed.request.default_key
    assert len(read({**GOOD, "timeout_s": 2}, {**GOOD, "timeout_s": 2.0})) == 1


def test_equal_lines_are_one_request() -> None:
    """Order and white space make no difference; a label does, and so does a key."""
    same = b'{ "prompt":"hello", "tier" : "haiku" }'
    asked = read(GOOD, same, {**GOOD, "labels": {"a": "b"}}, {**GOOD, "key": "k"}, {**GOOD, "key": "k"})
    assert [(1, 2), (3,), (4, 5)] == [request.lines for request in asked]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"tier":"haiku","prompt":"hello"}', id="no newline at the end"),
        pytest.param(b'{"tier":"haiku","prompt":"hello"}\r\n', id="CRLF"),
        pytest.param(b'\xef\xbb\xbf{"tier":"haiku","prompt":"hello"}\n', id="BOM"),
        pytest.param(b'{"tier":"haiku","prompt":"hello"}\n\r\n  \n\n', id="blank lines at the end"),
        pytest.param(b'{"tier":"haiku","prompt":"h\\u0065llo"}\n', id="escapes"),
    ],
)
def test_files_of_every_editor_are_read(content: bytes) -> None:
    """What editors and systems add makes no other line."""
    (asked,) = read_batch(io.BytesIO(content), "b.jsonl")
    assert (asked.request.prompt, asked.request.default_key) == ("hello", read(GOOD)[0].request.default_key)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        pytest.param(b"", "the line is empty", id="empty"),
        pytest.param(b"{", "no JSON", id="no JSON"),
        pytest.param(b"[]", "a JSON array, expected an object", id="an array"),
        pytest.param(b"7", "a JSON number, expected an object", id="a number"),
        pytest.param(b'{"a":' * 100_000, "nested too deep", id="nested"),
        pytest.param(b'{"tier":"haiku","prompt":"\xff"}', "not UTF-8 at byte 27", id="no UTF-8"),
        pytest.param(b'{"tier":"haiku","prompt":"a","prompt":"b"}', "'prompt' stands there twice", id="key twice"),
        pytest.param(
            b'{"tier":"haiku","prompt":"a","labels":{"x":"1","x":"2"}}', "'x' stands there twice", id="label twice"
        ),
        pytest.param(b'{"tier":"haiku","prompt":"a","timeout_s":NaN}', "NaN is no number", id="NaN"),
        pytest.param(b'{"tier":"haiku","prompt":"a","timeout_s":1e999}', "timeout_s is inf", id="infinite"),
        pytest.param({"tier": "haiku"}, "prompt is missing", id="no prompt"),
        pytest.param({"prompt": "a"}, "tier is missing", id="no tier"),
        pytest.param({**GOOD, "max_token": 1}, "unknown key 'max_token'; did you mean 'max_tokens'?", id="near"),
        pytest.param({**GOOD, "zzz": 1}, "unknown key 'zzz'; known are prompt, tier", id="far"),
        pytest.param({**GOOD, "tier": "hauku"}, "did you mean 'haiku'?", id="near tier"),
        pytest.param({**GOOD, "tier": 5}, "tier is '5', expected one of", id="tier's type"),
        pytest.param({**GOOD, "tier": ["haiku"]}, "expected one of", id="tiers"),
        pytest.param({**GOOD, "prompt": ""}, "prompt is empty", id="empty prompt"),
        pytest.param({**GOOD, "prompt": 5}, "prompt is int, expected text", id="prompt's type"),
        pytest.param({**GOOD, "prompt": "\ud800"}, "lone surrogate", id="surrogate"),
        pytest.param({**GOOD, "system": None}, "system is null", id="null"),
        pytest.param({**GOOD, "max_tokens": "5"}, "max_tokens is str", id="text for a number"),
        pytest.param({**GOOD, "max_tokens": True}, "max_tokens is bool", id="boolean for a number"),
        pytest.param({**GOOD, "max_tokens": 5.0}, "max_tokens is float", id="fraction for a whole number"),
        pytest.param({**GOOD, "max_tokens": 10**40}, "a number of", id="huge"),
        pytest.param({**GOOD, "retries": -1}, "retries is -1", id="negative"),
        pytest.param({**GOOD, "timeout_s": 0}, "timeout_s is 0", id="no time"),
        pytest.param({**GOOD, "key": ""}, "key has 0 characters", id="empty key"),
        pytest.param({**GOOD, "key": 5}, "key is int", id="key's type"),
        pytest.param({**GOOD, "labels": []}, "labels is list", id="labels' type"),
        pytest.param({**GOOD, "labels": {"a": 1}}, "labels['a'] is int", id="label's type"),
    ],
)
def test_a_bad_line_is_named(line: Mapping[str, Any] | bytes, said: str) -> None:
    """The refusal has the number of the line and what was expected, in the line's own words."""
    with pytest.raises(BatchRefused) as refused:
        read({**GOOD, "prompt": "first"}, line, {**GOOD, "prompt": "last"})
    assert [2] == [problem.line for problem in refused.value.problems]
    assert said in refused.value.problems[0].detail
    assert "b.jsonl: 1 bad line, nothing was submitted\n  line 2: " in str(refused.value)


def test_all_bad_lines_are_found_and_twenty_are_shown() -> None:
    """The error has them all; its message stays readable."""
    with pytest.raises(BatchRefused) as refused:
        read(*[{"tier": "haiku"}] * 30)
    assert len(refused.value.problems) == 30
    assert (str(refused.value).count("\n"), "and 10 more" in str(refused.value)) == (21, True)


def test_a_key_of_two_requests_is_found_in_the_file() -> None:
    """Labels and timeouts are not the request; the prompt is."""
    first = {**GOOD, "key": "k"}
    assert len(read(first, {**first, "labels": {"a": "b"}})) == 1
    with pytest.raises(BatchRefused, match="line 3: the key 'k' is line 1's, which is another request"):
        read(first, GOOD, {**first, "prompt": "other"})


def test_every_line_counts_once(cli: CommandLine) -> None:
    """Equal lines are one task; the figures are this run's; a failure is reported again without a call."""
    lines = [GOOD, {**GOOD, "tier": "flash"}, GOOD, {**GOOD, "tier": "opus"}]
    name = write("b.jsonl", *lines)
    first, again = cli("batch", name, "--json"), cli("batch", name, "--json")
    figures = ("lines", "submitted", "succeeded", "failed", "held", "reused", "attempts")
    assert [4, 3, 3, 1, 0, 0, 4] == [first.json[key] for key in figures]
    assert [4, 0, 0, 1, 0, 3, 0] == [again.json[key] for key in figures]
    costs = ("cost_nano_usd", "cost_known_nano_usd", "cost_unknown_attempts")
    assert [None, 0, 3] == [first.json[key] for key in costs]
    assert [0, 0, 0] == [again.json[key] for key in costs]
    assert (first.code, again.code) == (1, 1)
    assert "line 4: failed: content_refused" in again.err
    assert sql("dispatch.db", "select count(*) from attempts") == [(4,)]


def test_the_same_file_with_new_lines_does_what_is_new(cli: CommandLine) -> None:
    """What had succeeded is reused, also in another order."""
    cli("batch", write("b.jsonl", GOOD))
    ended = cli("batch", write("b.jsonl", {**GOOD, "prompt": "new"}, GOOD), "--json")
    assert (ended.json["submitted"], ended.json["succeeded"], ended.json["reused"], ended.code) == (1, 1, 1, 0)


def test_a_default_key_is_no_callers_key(cli: CommandLine) -> None:
    """Only a key that the caller wrote stands in the table."""
    cli("batch", write("b.jsonl", GOOD, {**GOOD, "key": "mine"}))
    keys = sql("dispatch.db", "select idempotency_key from tasks order by 1")
    assert [(None,), ("mine",)] == keys


def test_a_bad_line_anywhere_and_nothing_is_written(cli: CommandLine) -> None:
    """Exit code 2, and not even a ledger."""
    ended = cli("batch", write("b.jsonl", GOOD, {"tier": "haiku"}))
    assert (ended.code, "line 2: prompt is missing" in ended.err) == (2, True)
    assert not Path("dispatch.db").exists()


def test_a_key_that_the_ledger_knows_otherwise_refuses_the_batch(cli: CommandLine) -> None:
    """It is found before anything is submitted."""
    task_id = cli("run", "-t", "haiku", "hello", "--key", "k", "--json").json["task_id"]
    ended = cli("batch", write("b.jsonl", GOOD, {**GOOD, "key": "k", "prompt": "other"}))
    assert (ended.code, "line 2: the key 'k'" in ended.err, task_id in ended.err) == (2, True, True)
    assert sql("dispatch.db", "select count(*) from tasks") == [(1,)]
    assert cli("batch", write("b.jsonl", {**GOOD, "key": "k"}), "--json").json["reused"] == 1


def test_results_stand_in_the_files_order(cli: CommandLine, empty_folder: Path) -> None:
    """One object a line, equal lines too, whatever ended first; nothing else is left in the folder."""
    lines = [{**GOOD, "tier": "flash"}, GOOD, {**GOOD, "tier": "opus", "key": "k"}, GOOD]
    Path("r.jsonl").write_text("what was there before")
    cli("batch", write("b.jsonl", *lines), "--out", "r.jsonl")
    records = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [1, 2, 3, 4] == [record["line"] for record in records]
    assert ["flash", "haiku", "opus", "haiku"] == [record["tier"] for record in records]
    assert records[1]["task_id"] == records[3]["task_id"]
    assert [OUT_KEYS <= record.keys() for record in records] == [True] * 4
    assert (records[2]["key"], records[2]["success"], records[2]["error_type"]) == ("k", False, "content_refused")
    assert [path.name for path in empty_folder.iterdir() if path.name.startswith(".")] == []


def test_a_place_that_cannot_be_written_is_found_before_the_first_call(cli: CommandLine) -> None:
    """Exit code 2 and no ledger."""
    ended = cli("batch", write("b.jsonl", GOOD), "--out", "nowhere/r.jsonl")
    assert (ended.code, "nowhere" in ended.err, Path("dispatch.db").exists()) == (2, True, False)


@pytest.mark.parametrize("content", [b"", b"\n\n"], ids=["empty", "blank"])
def test_nothing_to_do_is_done(cli: CommandLine, content: bytes) -> None:
    """An empty file is a batch without lines."""
    Path("b.jsonl").write_bytes(content)
    ended = cli("batch", "b.jsonl", "--json")
    assert (ended.code, ended.json["lines"]) == (0, 0)


def test_progress_elsewhere_is_plain_lines(cli: CommandLine) -> None:
    """About every tenth of the way, on standard error."""
    ended = cli("batch", write("b.jsonl", *({**GOOD, "prompt": str(number)} for number in range(40))))
    told = [line for line in ended.err.splitlines() if "/40 lines" in line]
    assert (len(told), told[-1]) == (10, "40/40 lines: 40 succeeded")
    assert "40 lines: 40 succeeded, 0 failed, 0 held, 0 reused" in ended.out


class Flights:
    """Counts the calls that are under way at once, by provider; each waits until as many are as ``full`` says."""

    def __init__(self, **full: int) -> None:
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._full = full
        self._open = asyncio.Event()

    async def fly(self, provider: str) -> None:
        self._now[provider] += 1
        self.most[provider] = max(self.most[provider], self._now[provider])
        if all(self.most[name] >= count for name, count in self._full.items()):
            self._open.set()
        async with asyncio.timeout(10):
            await self._open.wait()
        await asyncio.sleep(0.002)
        self._now[provider] -= 1


class Choosy(ModelClient):
    """Answers, and refuses what begins with a slash."""

    def __init__(self, flights: Flights, provider: str) -> None:
        self._flights, self._provider = flights, provider

    async def aclose(self) -> None:
        """Hold nothing."""

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        if prompt.startswith("/"):
            raise PromptRefused("a slash cannot be sent")
        return None

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        await self._flights.fly(self._provider)
        return ExecutionResult(model="m", response="yes", success=True, latency_ms=10)


async def run(
    folder: Path, batch: tuple[Asked, ...], flights: Flights, concurrency: int | None = None
) -> tuple[dict[str, int | None], list[Finished]]:
    """Run a batch with choosy clients; the ledger holds at the end."""
    finished: list[Finished] = []

    def build(provider: str, _model: str, _settings: Mapping[str, Any]) -> Choosy:
        return Choosy(flights, provider)

    async with Ledger.open(folder / "l.db") as ledger:
        async with Executor(ledger, Config(), build=build) as executor:
            tally = await run_batch(executor, batch, concurrency=concurrency, on_finished=finished.append)
        assert (await verify(await ledger.store())).problems == ()
    return tally.summary(), finished


async def test_a_prompt_that_a_client_refuses_stops_no_other(tmp_path: Path) -> None:
    """It counts as refused, is named, and has no task."""
    batch = read(GOOD, {**GOOD, "prompt": "/x"}, {**GOOD, "prompt": "y"})
    summary, finished = await run(tmp_path, batch, Flights())
    assert (summary["refused"], summary["succeeded"], summary["submitted"]) == (1, 2, 2)
    (refused,) = [one for one in finished if one.count == "refused"]
    record = refused.record(2)
    assert (record["line"], record["task_id"], record["state"]) == (2, None, "refused")
    assert record["error"] == "a slash cannot be sent"
    assert record.keys() >= OUT_KEYS


def test_a_refused_prompt_is_exit_code_2(cli: CommandLine) -> None:
    """The other lines are done, and the line is named."""
    settings = 'provider = "tests.test_batch:choosy"'
    Path("dispatch.toml").write_text(f'[tiers.haiku]\n{settings}\nmodel = "m"\n')
    ended = cli("batch", write("b.jsonl", {**GOOD, "prompt": "/x"}, GOOD), "--json")
    assert (ended.code, ended.json["refused"], ended.json["succeeded"]) == (2, 1, 1)
    assert "line 1: refused: a slash cannot be sent" in ended.err


def test_what_waits_for_a_person_is_held() -> None:
    """Neither failed nor succeeded, and the batch has not all its answers."""
    (asked,) = read(GOOD)
    submitted = SimpleNamespace(owner="worker:1")
    state = Held(cast("Any", None))
    story = SimpleNamespace(state=state, started={}, outcomes={}, task=SimpleNamespace(submitted=submitted))
    done = SimpleNamespace(succeeded_before=False, story=story, result=SimpleNamespace(success=False))
    tally = Tally()
    tally.add(Finished(asked, cast("Any", done), None, "worker:1"))
    assert (tally.summary()["held"], tally.summary()["submitted"], tally.all_well) == (1, 1, False)


def choosy(model: str) -> Choosy:
    """Make a choosy client, as a foreign provider's factory."""
    return Choosy(Flights(), model)


async def test_each_provider_has_its_share(tmp_path: Path) -> None:
    """Many lines of a slow provider at the file's head keep nobody else waiting; the limits hold."""
    flash = [{"tier": "flash", "prompt": str(number)} for number in range(30)]
    haiku = [{"tier": "haiku", "prompt": str(number)} for number in range(30)]
    flights = Flights(gemini=2, anthropic=16)
    summary, finished = await run(tmp_path, read(*flash, *haiku), flights)
    assert (summary["succeeded"], dict(flights.most)) == (60, {"gemini": 2, "anthropic": 16})
    tiers = [one.asked.request.tier for one in finished]
    assert tiers.index("haiku") < 30


async def test_no_more_tasks_are_under_way_than_asked_for(tmp_path: Path) -> None:
    """--concurrency bounds the tasks of all providers."""
    flights = Flights(anthropic=3)
    await run(tmp_path, read(*({**GOOD, "prompt": str(number)} for number in range(12))), flights, concurrency=3)
    assert dict(flights.most) == {"anthropic": 3}


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [(["flash"], 2), (["flash", "pro"], 2), (["haiku", "opus"], 16), (["flash", "haiku"], 18), ([], 1)],
)
def test_the_usual_concurrency_is_the_providers(tiers: list[str], expected: int) -> None:
    """The limits of the providers that the batch begins with, each once."""
    assert expected == ModelRegistry(Config()).usual_concurrency(tiers)


def test_the_usual_concurrency_has_a_limit() -> None:
    """At most 64."""
    config = Config.from_mapping({"providers": {"anthropic": {"concurrency": 500}}})
    assert ModelRegistry(config).usual_concurrency() == 64


class Failing:
    """Dispatches nothing: the ledger is full at the first prompt named ``full``; others take a moment."""

    worker = "worker:1"
    registry = ModelRegistry(Config())

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.one_ended = asyncio.Event()

    async def dispatch(self, request: Request, listener: object) -> Any:
        self.begun.append(request.prompt)
        if request.prompt == "full":
            raise LedgerFull("the disk is full")
        await asyncio.sleep(0.01)
        self.ended.append(request.prompt)
        self.one_ended.set()
        story = SimpleNamespace(
            state=None, started={}, outcomes={}, task=SimpleNamespace(submitted=SimpleNamespace(owner=None))
        )
        return SimpleNamespace(succeeded_before=False, story=story, result=SimpleNamespace(success=True))


async def test_a_ledger_that_fails_stops_the_batch() -> None:
    """Nothing new is begun; what was in flight comes to its end, since it may be paid for."""
    executor = Failing()
    batch = read(*({**GOOD, "prompt": prompt} for prompt in ("a", "b", "full", "c", "d", "e", "f")))
    with pytest.raises(LedgerFull):
        await run_batch(cast("Executor", executor), batch, concurrency=3)
    assert (executor.begun, executor.ended) == (["a", "b", "full"], ["a", "b"])


async def test_a_cancelled_batch_cancels_its_tasks() -> None:
    """The cancellation is raised on, and nothing goes on behind it."""
    executor = Failing()
    batch = read(*({**GOOD, "prompt": str(number)} for number in range(100)))
    task = asyncio.create_task(run_batch(cast("Executor", executor), batch, concurrency=2))
    await executor.one_ended.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = len(executor.begun)
    await asyncio.sleep(0.03)
    assert (begun < 100, begun) == (True, len(executor.begun))


def test_the_time_to_drain_is_bounded() -> None:
    """Both waits of a stopping batch have an end."""
    assert 0 < hands.CLEAN_UP_S < hands.DRAIN_S <= 60


def test_an_interrupted_batch_goes_on_where_it_stopped(cli: CommandLine, empty_folder: Path) -> None:
    """130; the same file again calls nobody for what is done; no results are half written."""
    slow = CONFIG.replace("latency_ms = 0", "latency_ms = 40").replace('model = "plain"', 'model = "slow"')
    (empty_folder / "dispatch.toml").write_text(slow)
    name = write("b.jsonl", *({**GOOD, "prompt": str(number)} for number in range(60)))
    with started("batch", name, "--concurrency", "2", "--out", "r.jsonl") as process:
        until(lambda: _succeeded() >= 4, "some of the tasks")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert (process.returncode, b"the same command goes on with what is left" in said) == (130, True)
    assert not Path("r.jsonl").exists()
    done = _succeeded()
    assert done < 60
    ended = cli("batch", name, "--out", "r.jsonl", "--json")
    assert (ended.code, ended.json["reused"], ended.json["succeeded"]) == (0, done, 60 - done)
    states = dict(sql("dispatch.db", "select coalesce(error_type, state), count(*) from attempts group by 1"))
    assert states.pop("interrupted", 0) <= 2
    assert (states, len(Path("r.jsonl").read_text().splitlines())) == ({"succeeded": 60}, 60)


def _succeeded() -> int:
    if not Path("dispatch.db").exists() or not sql("dispatch.db", "select 1 from sqlite_master where name='tasks'"):
        return 0
    count: int = sql("dispatch.db", "select count(*) from tasks where state = 'succeeded'")[0][0]
    return count
