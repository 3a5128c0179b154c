"""The work of ``prices``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import instant
from ledger.config import Config, load_config
from ledger.errors import LedgerMissing
from ledger.ports import Ports
from ledger.prices.book import PriceBook
from ledger.prices.listing import SHOWN, described, models_of
from ledger.prices.shelf import CURRENT, Published, chosen, current, published, read_published
from ledger.prices.source import SOURCE, source_version
from ledger.registry import ModelRegistry, ModelTier

__all__ = ["Wanted", "list_prices", "shelf_of", "tiers_of"]

COLUMNS: Final[Sequence[output.Column]] = (
    ("tier", "left"),
    ("model", "left"),
    ("input", "right"),
    ("cache read", "right"),
    ("write 5m", "right"),
    ("write 1h", "right"),
    ("output", "right"),
    ("from", "left"),
)

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    everything: bool
    models: tuple[str, ...]
    as_of_ms: int | None
    book: str


def list_prices(common: Common, wanted: Wanted) -> int:
    """List prices and return the exit code."""

    async def work() -> int:
        config = load_config(common.config)
        shelf = await shelf_of(common, config)
        at_ms = Ports().now_ms() if wanted.as_of_ms is None else wanted.as_of_ms
        if wanted.book.lower() == CURRENT:
            book, version = await current(config.prices), source_version(config.prices)
        else:
            one = chosen(shelf or (), wanted.book).event
            book, version = read_published(one), one.source_version
        models = [_model(book, config, *named, at_ms) for named in _named(book, config, wanted)]
        at = next((one.recorded_at_ms for one in shelf or () if one.event.price_book == book.digest), None)
        about = {"price_book": book.digest, "source": SOURCE, "source_version": version, "published_at_ms": at}
        if common.as_json:
            output.document({"as_of_ms": at_ms, "ledger": shelf is not None, "book": about, "models": models})
        else:
            _tell(models, about, at_ms, is_there=shelf is not None)
        return DONE

    return perform(work)


async def shelf_of(common: Common, config: Config) -> tuple[Published, ...] | None:
    """Return the ledger's books; None where there is no ledger.

    Raises:
        LedgerError: it cannot be read.
    """
    try:
        async with opened(common, create=False, guarded=False, config=config) as executor:
            return await published(await executor.ledger.store())
    except LedgerMissing:
        return None


def tiers_of(config: Config) -> dict[tuple[str, str], list[str]]:
    """Return the tiers by the provider and the model that answer for them."""
    tiers: dict[tuple[str, str], list[str]] = {}
    for tier in ModelTier:
        entry = ModelRegistry(config).entry(tier)
        tiers.setdefault((entry.provider, entry.model), []).append(tier.value)
    return tiers


def _named(book: PriceBook, config: Config, wanted: Wanted) -> Iterator[tuple[str, str, list[str]]]:
    """Give what is asked for: provider, model and its tiers."""
    tiers = tiers_of(config)
    ours = {source: provider for provider, source in book.names.items()}
    if wanted.models:
        providers = dict.fromkeys(
            [*(provider for provider, _ in tiers), *(ours.get(one, one) for one in book.providers)]
        )
        for name in wanted.models:
            provider, slash, model = name.partition("/")
            if slash:
                yield provider, model, tiers.get((provider, model), [])
                continue
            found = [one for one in providers if book.model(one, name) is not None]
            for one in found or [""]:
                yield one, name, tiers.get((one, name), [])
    elif wanted.everything:
        for source, listed in models_of(book):
            provider = ours.get(source, source)
            yield provider, listed.id, tiers.get((provider, listed.id), [])
    else:
        for (provider, model), names in tiers.items():
            yield provider, model, names


def _model(book: PriceBook, config: Config, provider: str, model: str, tiers: list[str], at_ms: int) -> Document:
    found = book.model(provider, model)
    own = config.prices.get(f"{provider}/{model}")
    origin = None if found is None else SOURCE
    if found is not None and own is not None:
        origin = "configuration" if own.input_usd_per_mtok is not None else f"{SOURCE}, configuration"
    about = {"tiers": tiers, "provider": provider or None, "model": model, "priced": found is not None, "from": origin}
    return about | ({} if found is None else described(found, at_ms))


def _tell(models: Sequence[Document], about: Mapping[str, Any], at_ms: int, *, is_there: bool) -> None:
    output.table(COLUMNS, [line for one in models for line in _lines(one)])
    there = "not in the ledger yet" if is_there else "there is no ledger"
    if about["published_at_ms"] is not None:
        there = f"in the ledger since {instant(about['published_at_ms'])} UTC"
    output.note(f"USD for a million tokens at {instant(at_ms)} UTC")
    output.note(f"book {about['price_book'][:12]}, {about['source']} {about['source_version']}; {there}")


def _lines(one: Document) -> Iterator[list[str]]:
    """Give a model's row, and one for each step by size, service tier and place."""
    model = f"{one['provider']}/{one['model']}" if one["provider"] else one["model"]
    tiers = "+".join(one["tiers"])
    if not one["priced"]:
        yield [tiers, model, *("" for _ in SHOWN), "unpriced"]
        return
    yield [tiers, model, *_prices(one["rates"], None), one["from"]]
    yield from _steps("", one["rates"])
    if (reasoning := one["rates"].get("output_reasoning")) is not None:
        yield ["", "  thinking", "", "", "", "", reasoning["usd_per_mtok"], ""]
    for tier in one["service_tiers"]:
        name = ", ".join(tier["for"].values())
        yield ["", f"  {name}", *_prices(tier["rates"], None), ""]
        yield from _steps(f"{name}, ", tier["rates"])
    for geo, factor in one["inference_geo"].items():
        yield ["", f"  in {geo}: times {factor}", *("" for _ in SHOWN), ""]
    for changes in one["changes_at_ms"]:
        yield ["", f"  changes {instant(changes)[:10]}", *("" for _ in SHOWN), ""]


def _steps(name: str, rates: Mapping[str, Document | None]) -> Iterator[list[str]]:
    for start in sorted({step["input_tokens"] for rate in rates.values() if rate for step in rate["above"]}):
        yield ["", f"  {name}above {start:,} in", *_prices(rates, start), ""]


def _prices(rates: Mapping[str, Document | None], above: int | None) -> list[str]:
    return [_price(rates[part], above) for part in SHOWN]


def _price(rate: Document | None, above: int | None) -> str:
    if rate is None:
        return "unknown"
    steps = [step["usd_per_mtok"] for step in rate["above"] if above is not None and step["input_tokens"] <= above]
    return str(steps[-1] if steps else rate["usd_per_mtok"])
