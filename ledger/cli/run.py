"""``run``: dispatch one task."""

from __future__ import annotations

import click

from ledger.cli.options import LABEL, TIERS, Common, common, labels_of, pass_common

__all__ = ["run"]


@click.command(short_help="Dispatch one task and print its answer.")
@click.argument("prompt", required=False)
@click.option("--file", type=click.Path(), metavar="FILE", help="Read the prompt from a file, byte for byte.")
@click.option(
    "--tier", "-t", required=True, type=click.Choice(TIERS, case_sensitive=False), help="The tier to begin with."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="The output limit; the configuration's unless given.")
@click.option("--retries", type=click.IntRange(min=0), help="Retries after the first try; the configuration's.")
@click.option("--timeout", type=float, metavar="S", help="Seconds for each attempt; the tier's.")
@click.option("--key", help="Names this request for ever: asked again, it gives the recorded task and calls nobody.")
@click.option("--label", type=LABEL, multiple=True, help="A label to report by; may be given several times.")
@click.option("--system", metavar="TEXT", help="The system text.")
@click.option("--stream", is_flag=True, help="Print the text as it comes; a line says when it starts over.")
@common
@pass_common
def run(
    common: Common,
    prompt: str | None,
    file: str | None,
    tier: str,
    max_tokens: int | None,
    retries: int | None,
    timeout: float | None,
    key: str | None,
    label: tuple[tuple[str, str], ...],
    system: str | None,
    stream: bool,  # noqa: FBT001 - click gives a flag so
) -> int:
    """Dispatch PROMPT (`-` reads standard input) and print the answer.

    The answer goes to standard output, a line about it to standard error. With --json one document has both: tier and
    model are the last attempt's, tokens and latency the answering one's, attempts and cost the whole task's. With
    --json --stream there are JSON lines of the types text, restart (what came before is void) and, last, result.
    """
    from ledger.cli.work.run import Wanted, run_task  # noqa: PLC0415 - loaded when the command runs

    if (prompt is None) == (file is None):
        raise click.UsageError("give one prompt: as an argument, as - for standard input, or with --file")
    wanted = Wanted(
        prompt=prompt,
        file=file,
        tier=tier,
        max_tokens=max_tokens,
        retries=retries,
        timeout_s=timeout,
        key=key,
        labels=labels_of(label),
        system=system,
        stream=stream,
    )
    return run_task(common, wanted)
