"""What ``run`` and ``submit`` are asked: the prompt and how it is to be dispatched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ledger.cli.options import LABEL, TIERS, FilePath, labels_of

__all__ = ["Wanted", "asking", "wanted_from"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    prompt: str | None
    """``-`` is standard input."""
    file: str | None
    tier: str
    max_tokens: int | None
    retries: int | None
    timeout_s: float | None
    key: str | None
    labels: Mapping[str, str]
    system: str | None


def asking(command: F) -> F:
    """Give a command the prompt and its options, in the order of the help."""
    for option in (
        click.option("--system", metavar="TEXT", help="The system text."),
        click.option("--label", type=LABEL, multiple=True, help="A label to report by; may be given several times."),
        click.option("--key", help="Names this request for ever: asked again, it gives the recorded task."),
        click.option("--timeout", type=float, metavar="S", help="Seconds for each attempt; the tier's."),
        click.option("--retries", type=click.IntRange(min=0), help="Retries after the first try; the configuration's."),
        click.option(
            "--max-tokens", type=click.IntRange(min=1), help="The output limit; the configuration's unless given."
        ),
        click.option(
            "--tier",
            "-t",
            required=True,
            type=click.Choice(TIERS, case_sensitive=False),
            help="The tier to begin with.",
        ),
        click.option("--file", type=FilePath(), metavar="FILE", help="Read the prompt from a file, byte for byte."),
        click.argument("prompt", required=False),
    ):
        command = option(command)
    return command


def wanted_from(given: Mapping[str, Any]) -> Wanted:
    """Return what was asked for.

    Raises:
        click.UsageError: no prompt, or two.
    """
    if (given["prompt"] is None) == (given["file"] is None):
        raise click.UsageError("give one prompt: as an argument, as - for standard input, or with --file")
    return Wanted(
        prompt=given["prompt"],
        file=given["file"],
        tier=given["tier"],
        max_tokens=given["max_tokens"],
        retries=given["retries"],
        timeout_s=given["timeout"],
        key=given["key"],
        labels=labels_of(given["label"]),
        system=given["system"],
    )
