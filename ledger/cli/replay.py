"""``replay``: run tasks again, as new ones."""

from __future__ import annotations

import click

from ledger.cli.options import LABEL, SINCE, TIERS, Common, common, labels_of, pass_common

__all__ = ["replay"]

ENDS = ("failed", "cancelled", "succeeded")


@click.command(short_help="Run tasks again as new ones; --check derives their history again instead.")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option("--state", type=click.Choice(ENDS, case_sensitive=False), help="All tasks that ended so.")
@click.option("--since", type=SINCE, help="Of these, those made since: 90m, 2h, 7d, or an ISO date or time, in UTC.")
@click.option("--until", type=SINCE, help="Of these, those made before.")
@click.option("--error", metavar="TYPE", help="Of these, those that failed with this error type.")
@click.option("--label", type=LABEL, multiple=True, help="Of these, those with this label; may be given several times.")
@click.option("--tier", "-t", type=click.Choice(TIERS, case_sensitive=False), help="Begin with this tier instead.")
@click.option("--policy", metavar="current|FILE", help="Pin today's route and policy, or a file's, not the old ones.")
@click.option("--again", is_flag=True, help="Also those whose newest replay has succeeded.")
@click.option("--dry-run", is_flag=True, help="Only list them, with what they did cost and what they can cost at most.")
@click.option("--concurrency", type=click.IntRange(1, 1000), metavar="N", help="Tasks under way at once.")
@click.option("--check", is_flag=True, help="Run nothing: derive each history again by today's rules, and compare.")
@click.option("--all", "everything", is_flag=True, help="With --check: every task of the ledger.")
@common
@pass_common
def replay(
    common: Common,
    tasks: tuple[str, ...],
    state: str | None,
    since: int | None,
    until: int | None,
    error: str | None,
    label: tuple[tuple[str, str], ...],
    tier: str | None,
    policy: str | None,
    again: bool,  # noqa: FBT001 - click calls it so
    dry_run: bool,  # noqa: FBT001 - likewise
    concurrency: int | None,
    check: bool,  # noqa: FBT001 - likewise
    everything: bool,  # noqa: FBT001 - likewise
) -> int:
    """Run tasks again: the same request with the route and policy of then, as new tasks that name the old ones.

    Give TASKs (any unique beginning or end), or --state and what narrows it. Nothing is written to the old tasks.
    Asked twice, the second time reports the replays that there are; one that failed is replayed in its turn. A task
    whose texts were erased cannot be replayed.

    With --check nothing is run: each task's history is derived again from its recorded outcomes by the rules of this
    version, and compared with the record byte for byte; exit 1 names the first difference. Try it after an upgrade.
    """
    from ledger.cli.work.replay import Wanted, replay_tasks  # noqa: PLC0415 - loaded when the command runs
    from ledger.policy import ERROR_TYPES  # noqa: PLC0415 - likewise
    from ledger.replay.selection import Selection  # noqa: PLC0415 - likewise

    narrowed = any(each is not None for each in (since, until, error)) or bool(label)
    if narrowed and state is None and not (check and everything):
        raise click.UsageError("--since, --until, --error and --label narrow --state; give --state as well")
    if bool(tasks) + (state is not None) + everything != 1:
        what = "TASKs, --state, or --all" if check else "TASKs, or --state"
        raise click.UsageError(f"give {what}: one of them")
    if error is not None and error not in ERROR_TYPES:
        raise click.BadParameter(f"{error!r} is no error type, expected one of {', '.join(ERROR_TYPES)}")
    selection = None if tasks else Selection(state, since, until, error, labels_of(label))
    if check:
        if again or dry_run or any(each is not None for each in (tier, policy, concurrency)):
            raise click.UsageError("--check runs nothing: it goes with TASKs, --state, --since … and --all only")
        from ledger.cli.work.rederiving import check_tasks  # noqa: PLC0415 - likewise

        return check_tasks(common, tasks, selection)
    if everything:
        raise click.UsageError("--all goes with --check; --state failed replays what failed")
    return replay_tasks(common, Wanted(tasks, selection, tier, policy, again, dry_run, concurrency))
