"""Checking money: each cost is usage times the prices of the book that its start names, each bound the start's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

from ledger import events as e
from ledger.audit.told import Told
from ledger.envelope import Payload, Recorded, Stream
from ledger.errors import EventInvalid
from ledger.parts import Outcome
from ledger.prices.book import PriceBook, read_book
from ledger.prices.costing import charge, upper_bound
from ledger.prices.shelf import STREAM
from ledger.store.protocol import Problem, Store
from ledger.system_events import PriceBookPublished

__all__ = ["Prices", "cost_problems", "read_books"]


class Prices:
    """The price books of a ledger, each read when a start names it.

    Args:
        texts: the books' texts by digest, each checked against it.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._books: dict[str, PriceBook | None] = {}

    def book(self, digest: str) -> PriceBook | None:
        """Return a book; None where the ledger does not hold it, or it is no book."""
        if digest not in self._books:
            self._books[digest] = self._read(self._texts.get(digest))
        return self._books[digest]

    def _read(self, text: str | None) -> PriceBook | None:
        try:
            return None if text is None else read_book(text)
        except EventInvalid:
            return None  # what names it is told


async def read_books(store: Store, problems: list[Problem]) -> Mapping[str, str]:
    """Return the published books' texts by digest; one that is not what its digest says is a finding, and left out.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    texts: dict[str, str] = {}
    for recorded in await store.read(STREAM):
        wrong = None
        try:
            event = recorded.event()
            if not isinstance(event, PriceBookPublished):
                wrong = f"{recorded.type} is no price book"
            elif sha256(event.content.encode()).hexdigest() != event.price_book:
                wrong = f"the price book is not what its digest {event.price_book[:12]}… names"
            else:
                texts[event.price_book] = event.content
        except EventInvalid as error:
            wrong = str(error)
        if wrong is not None:
            problems.append(Problem("price_book", recorded.task_id, recorded.version, wrong))
    return texts


def cost_problems(stream: Stream, events: Told, payloads: Sequence[Payload], prices: Prices) -> Iterator[Problem]:
    """Check what each attempt of a task cost, and the most that it could."""
    starts: dict[int, tuple[e.AttemptStarted, int]] = {}
    submitted: e.TaskSubmitted | None = None
    for recorded, event in zip(stream, events, strict=True):
        wrong = None
        match event:
            case e.TaskSubmitted():
                submitted = submitted or event
            case e.AttemptStarted():
                starts.setdefault(event.attempt, (event, recorded.recorded_at_ms))
                wrong = None if submitted is None else _start_problem(event, submitted, payloads, prices)
            case e.AttemptOrphaned() if event.attempt in starts:
                started, _ = starts[event.attempt]
                if event.exposure_nano_usd != started.upper_bound_nano_usd:
                    wrong = _differs(
                        "exposure", event.exposure_nano_usd, started.upper_bound_nano_usd, "its start's bound"
                    )
            case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptSettled() if event.attempt in starts:
                wrong = _outcome_problem(event, *starts[event.attempt], prices)
            case _:
                pass
        if wrong is not None:
            yield _problem(recorded, wrong)


def _outcome_problem(event: Outcome, started: e.AttemptStarted, at_ms: int, prices: Prices) -> str | None:
    """Compare an outcome's money with what its usage comes to."""
    is_bill = isinstance(event, e.AttemptSettled) and event.via == "reconciled"
    if is_bill and event.price_book is None:
        return None  # the provider's own figure; no usage of ours to compare it with
    bound = None if is_bill else started.upper_bound_nano_usd
    if event.price_book not in (None, started.price_book):
        return "it is charged by another price book than its start names"
    if started.price_book is None:
        expected, exposure = (0, None) if event.usage_source == "not_billed" else (None, bound)
    else:
        book = prices.book(started.price_book)
        if book is None:
            return None  # told of the start
        model = event.served_model or started.request_model
        charged = charge(book, started.provider, model, event.usage, event.usage_source, at_ms, bound)
        expected, exposure = charged.cost_nano_usd, charged.exposure_nano_usd
    if event.cost_nano_usd != expected:
        return _differs("cost", event.cost_nano_usd, expected, "usage times price")
    if event.exposure_nano_usd != exposure:
        return _differs("exposure", event.exposure_nano_usd, exposure, "its start's bound")
    return None


def _start_problem(
    started: e.AttemptStarted, submitted: e.TaskSubmitted, payloads: Sequence[Payload], prices: Prices
) -> str | None:
    """Compare a start's bound with the texts that it sends, as far as they are still there.

    A judge's question is put together anew by each version of this program, so its size is not compared.
    """
    bound = started.upper_bound_nano_usd
    if started.price_book is None:
        return None if bound is None else _differs("bound", bound, None, "no price book")
    book = prices.book(started.price_book)
    if book is None:
        return f"attempt {started.attempt} names a price book that the ledger does not hold whole"
    steps, sizes = (*submitted.route, *submitted.ladder), _sizes(submitted, payloads)
    if started.purpose == "validate" or sizes is None or started.step > len(steps):
        return None
    made_at_ms = started.deadline_ms - steps[started.step - 1].timeout_ms
    expected = upper_bound(
        book, started.provider, started.request_model, *sizes, submitted.max_tokens, max(made_at_ms, 0)
    )
    return None if bound == expected else _differs("bound", bound, expected, "its texts and price book")


def _sizes(submitted: e.TaskSubmitted, payloads: Sequence[Payload]) -> tuple[int, int] | None:
    """Return the bytes of a task's prompt and system text; None where one of them is erased."""
    sizes = {payload.slot: len(payload.content) for payload in payloads}
    if "prompt" not in sizes or (submitted.system_digest is not None and "system" not in sizes):
        return None
    return sizes["prompt"], sizes.get("system", 0)


def _differs(what: str, stands: int | None, expected: int | None, by: str) -> str:
    told = ["unknown" if value is None else f"{value} nano-USD" for value in (stands, expected)]
    return f"the {what} is {told[0]}, by {by} it is {told[1]}"


def _problem(recorded: Recorded, detail: str) -> Problem:
    return Problem("cost", recorded.task_id, recorded.version, detail)
