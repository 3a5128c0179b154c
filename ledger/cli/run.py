"""``run``: dispatch one task."""

from __future__ import annotations

from typing import Any

import click

from ledger.cli.asking import asking, wanted_from
from ledger.cli.options import Common, common, pass_common

__all__ = ["run"]


@click.command(short_help="Dispatch one task and print its answer.")
@asking
@click.option("--stream", is_flag=True, help="Print the text as it comes; a line says when it starts over.")
@click.option("--validated", is_flag=True, help="Have the answer judged, and go up the tiers while the judge asks.")
@common
@pass_common
def run(common: Common, /, *, stream: bool, validated: bool, **given: Any) -> int:
    """Dispatch PROMPT (`-` reads standard input) and print the answer.

    The answer goes to standard output, a line about it to standard error. With --json one document has both: tier and
    model are the last attempt's, tokens and latency the answering one's, attempts and cost the whole task's. With
    --json --stream there are JSON lines of the types text, restart (what came before is void) and, last, result.

    With --validated Sonnet judges the answer. A verdict that asks for it sends the prompt one tier up, where the answer
    is judged again. The answer of the highest tier is printed in any case; the exit code is 1 if it was not accepted.
    """
    wanted = wanted_from(given)
    from ledger.cli.work.run import run_task  # noqa: PLC0415 - loaded when the command runs

    return run_task(common, wanted, stream=stream, validated=validated)
