"""The work of ``prices books``, ``prices diff`` and ``prices check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.cli.work.prices import shelf_of, tiers_of
from ledger.cli.work.words import instant, plural
from ledger.config import Config, load_config
from ledger.errors import EventInvalid, LedgerCorrupt
from ledger.ports import Ports
from ledger.prices.book import PriceBook
from ledger.prices.listing import Change, changes, models_of
from ledger.prices.shelf import CURRENT, Published, chosen, current, read_published
from ledger.prices.source import SOURCE, source_version

__all__ = ["check_books", "diff_books", "list_books"]

BOOKS: Final[Sequence[output.Column]] = (
    ("book", "left"),
    ("source", "left"),
    ("version", "left"),
    ("published", "left"),
    ("models", "right"),
    ("", "left"),
)
SHOWN_MAX: Final = 50

Document = dict[str, Any]
Finding = dict[str, str]


def list_books(common: Common) -> int:
    """List the books and return the exit code."""

    async def work() -> int:
        config = load_config(common.config)
        shelf = await shelf_of(common, config)
        now = await current(config.prices)
        listed = [_book(one, now) for one in shelf or ()]
        if not any(one["current"] for one in listed):
            about = {"price_book": now.digest, "source": SOURCE, "source_version": source_version(config.prices)}
            listed.append(about | {"published_at_ms": None, "models": _count(now), "current": True})
        if common.as_json:
            output.document(listed)
            return DONE
        output.table(BOOKS, [_cells(one) for one in listed])
        if shelf is None:
            output.note("there is no ledger; this is what its first priced attempt would publish")
        return DONE

    return perform(work)


def diff_books(common: Common, before: str, after: str, as_of_ms: int | None) -> int:
    """Compare two books and return the exit code."""

    async def work() -> int:
        config = load_config(common.config)
        shelf = await shelf_of(common, config)
        at_ms = Ports().now_ms() if as_of_ms is None else as_of_ms
        old, new = [await _named(shelf or (), name, config) for name in (before, after)]
        found = changes(old, new, at_ms)
        if common.as_json:
            told = [_change(one) for one in found]
            output.document({"before": old.digest, "after": new.digest, "as_of_ms": at_ms, "changes": told})
        else:
            _tell_changes(found)
            output.note(f"differing: {plural(len(found), 'model')}" if found else "the books charge alike")
        return FOUND if found else DONE

    return perform(work)


def check_books(common: Common) -> int:
    """Check the books and return the exit code."""

    async def work() -> int:
        config = load_config(common.config)
        shelf = await shelf_of(common, config)
        now = await current(config.prices)
        findings = [*_broken(shelf or ()), *_unpriced(now, config), *_lagging(shelf or (), now)]
        if common.as_json:
            output.document({"ok": not findings, "books": len(shelf or ()), "findings": findings})
        else:
            for one in findings:
                output.write(output.wrapped(output.visible(f"{one['kind']}: {one['detail']}"), rest="  "))
            there = "no ledger" if shelf is None else plural(len(shelf), "book")
            output.note(f"{plural(len(findings), 'finding')} in {there}" if findings else f"ok: {there}")
        return FOUND if findings else DONE

    return perform(work)


def _book(one: Published, now: PriceBook) -> Document:
    event = one.event
    about = {"price_book": event.price_book, "source": event.source, "source_version": event.source_version}
    try:
        models = _count(read_published(event))
    except (EventInvalid, LedgerCorrupt):
        models = None  # `prices check` says what is wrong with it
    is_current = event.price_book == now.digest
    return about | {"published_at_ms": one.recorded_at_ms, "models": models, "current": is_current}


def _count(book: PriceBook) -> int:
    return sum(1 for _, model in models_of(book) if model.prices)


def _cells(one: Document) -> list[str]:
    at_ms, models = one["published_at_ms"], one["models"]
    return [
        one["price_book"][:12],
        one["source"],
        one["source_version"],
        "not yet" if at_ms is None else instant(at_ms),
        "unreadable" if models is None else str(models),
        CURRENT if one["current"] else "",
    ]


async def _named(shelf: Sequence[Published], name: str, config: Config) -> PriceBook:
    return await current(config.prices) if name.lower() == CURRENT else read_published(chosen(shelf, name).event)


def _change(one: Change) -> Document:
    parts = {part: {"before": old, "after": new} for part, (old, new) in one.parts.items()}
    return {"provider": one.provider, "model": one.model, "change": one.kind, "rates": parts}


def _tell_changes(found: Sequence[Change]) -> None:
    for one in found[:SHOWN_MAX]:
        output.write(output.visible(f"{one.kind} {one.provider}/{one.model}\n"))
        if one.kind == "changed" and not one.parts:
            output.write("  other dates, service tiers or names; the same standard rates at this instant\n")
        for part, (old, new) in one.parts.items() if one.kind == "changed" else ():
            output.write(f"  {part}: {_shown(old)} → {_shown(new)}\n")
    if len(found) > SHOWN_MAX:
        output.write(f"… and {len(found) - SHOWN_MAX:,} more; --json has them\n")


def _shown(rate: Document | None) -> str:
    if rate is None:
        return "unknown"
    steps = "".join(f", {step['usd_per_mtok']} above {step['input_tokens']:,}" for step in rate["above"])
    return f"{rate['usd_per_mtok']}{steps}"


def _broken(shelf: Sequence[Published]) -> list[Finding]:
    findings = []
    for one in shelf:
        try:
            read_published(one.event)
        except (EventInvalid, LedgerCorrupt) as error:
            findings.append(_finding("content", f"book {one.event.price_book[:12]}: {error}"))
    return findings


def _unpriced(now: PriceBook, config: Config) -> list[Finding]:
    return [
        _finding("unpriced", f"{'+'.join(tiers)}: no price is known for {provider}/{model}; add it under [prices]")
        for (provider, model), tiers in tiers_of(config).items()
        if now.model(provider, model) is None
    ]


def _lagging(shelf: Sequence[Published], now: PriceBook) -> list[Finding]:
    if not shelf or any(one.event.price_book == now.digest for one in shelf):
        return []
    newest = shelf[-1].event
    try:
        differing = len(changes(read_published(newest), now, Ports().now_ms()))
    except (EventInvalid, LedgerCorrupt):
        return []  # told of already
    said = (
        f"the newest book, {newest.price_book[:12]} of {newest.source_version}, has other prices than this installation"
    )
    return [_finding("lags", f"{said} for {plural(differing, 'model')}; see `prices diff {newest.price_book[:12]}`")]


def _finding(kind: str, detail: str) -> Finding:
    return {"kind": kind, "detail": detail}
