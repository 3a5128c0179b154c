"""What several commands take: ``--json``, ``--ledger``, ``--config``, labels, tiers, instants."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

__all__ = ["LABEL", "SINCE", "STATES", "TIERS", "Common", "FilePath", "common", "labels_of", "pass_common"]

# Also in ledger.policy, which is too heavy to import for a --help; a test compares the two.
TIERS: Final = ("flash", "pro", "haiku", "sonnet", "opus")
STATES: Final = ("pending", "running", "waiting", "succeeded", "failed", "cancelled")
DURATION: Final = re.compile(r"(\d{1,6})([smhdw])")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Common:
    """What every command is told."""

    as_json: bool = False
    ledger: str | None = None
    config: str | None = None


pass_common = click.make_pass_decorator(Common, ensure=True)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    setattr(ctx.ensure_object(Common), str(param.name), value)


def common(command: F) -> F:
    """Give a command ``--json``, ``--ledger`` and ``--config``."""
    for option in (
        click.option(
            "--config",
            metavar="FILE",
            expose_value=False,
            callback=_keep,
            help="The configuration, else DISPATCH_LEDGER_CONFIG, else dispatch.toml.",
        ),
        click.option(
            "--ledger",
            metavar="PATH|URL",
            expose_value=False,
            callback=_keep,
            help="The ledger, else DISPATCH_LEDGER_URL, else the configuration's.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, expose_value=False, callback=_keep, help="Write one JSON document."
        ),
    ):
        command = option(command)
    return command


class FilePath(click.Path):
    """A path; a name that no file can have is refused as any other wrong value is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check it against the file system."""
        try:
            return super().convert(value, param, ctx)
        except ValueError as error:
            self.fail(f"{str(value)!r} can be no file's name: {error}", param, ctx)


class _Label(click.ParamType[tuple[str, str]]):
    name = "K=V"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Take a label apart at its first equals sign."""
        if isinstance(value, tuple):
            return value
        key, sign, text = str(value).partition("=")
        if not (key and sign and text):
            self.fail(f"{value!r} is no label; write it as team=a", param, ctx)
        return key, text


class _Since(click.ParamType[int]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn 90m, 2d or an ISO date or time (UTC unless it says otherwise) into UTC milliseconds."""
        if isinstance(value, int):
            return value
        ago = DURATION.fullmatch(str(value))
        if ago is not None:
            return max(0, time.time_ns() // 1_000_000 - int(ago[1]) * SECONDS[ago[2]] * 1000)
        try:
            then = datetime.fromisoformat(str(value))
            return max(0, round((then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() * 1000))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 90m, 2h, 7d, 2026-11-22 or 2026-11-22T17:00", param, ctx)


LABEL: Final = _Label()
SINCE: Final = _Since()


def labels_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return labels as a mapping.

    Raises:
        click.UsageError: one name with two texts.
    """
    labels: dict[str, str] = {}
    for key, text in pairs:
        if labels.setdefault(key, text) != text:
            raise click.UsageError(f"label {key!r} is given twice, as {labels[key]!r} and as {text!r}")
    return labels
