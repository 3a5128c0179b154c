"""The command ``dispatch-ledger``: its group, and what becomes of an error that click found."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ledger.cli import output
from ledger.cli.anchor import anchor
from ledger.cli.backtest import backtest
from ledger.cli.batch import batch
from ledger.cli.config import config
from ledger.cli.db import db
from ledger.cli.demo import demo
from ledger.cli.diff import diff
from ledger.cli.doctor import doctor
from ledger.cli.exits import DONE, INTERRUPTED
from ledger.cli.export import export
from ledger.cli.imports import import_
from ledger.cli.prices import prices
from ledger.cli.reconcile import reconcile
from ledger.cli.redact import redact
from ledger.cli.replay import replay
from ledger.cli.report import report
from ledger.cli.run import run
from ledger.cli.show import show
from ledger.cli.submit import submit
from ledger.cli.tail import tail
from ledger.cli.tasks import tasks
from ledger.cli.validate import validate
from ledger.cli.verify import verify
from ledger.cli.worker import cancel, resume, worker

__all__ = ["main"]

PROGRAM = "dispatch-ledger"


def _say_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click calls it so
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - costs more than click, and is rare

    try:
        found = version(PROGRAM)
    except PackageNotFoundError:
        found = "(not installed)"
    output.write(f"{PROGRAM} {found}\n")
    ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_say_version, help="Show the version."
)
def dispatch_ledger() -> None:
    """Dispatch language-model tasks; every attempt, retry, fallback and verdict is an event in a ledger.

    The ledger is --ledger, else DISPATCH_LEDGER_URL, else `ledger` in the configuration, else sqlite:///dispatch.db.

    Exit codes: 0 done; 1 a task failed or waits for a person, or a check found something; 2 usage, configuration, a
    refused prompt, or a key used for another request; 3 the ledger cannot be used; 130 interrupted, and resumable.
    """


DISPATCHING = (run, batch, submit, worker, resume, cancel, replay)
LOOKING = (
    diff,
    backtest,
    tasks,
    show,
    tail,
    report,
    prices,
    reconcile,
    validate,
    verify,
    anchor,
    redact,
    export,
    import_,
    config,
    doctor,
    db,
    demo,
)
for command in (*DISPATCHING, *LOOKING):
    dispatch_ledger.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after the command's name; None is this process's own.
    """
    output.prepare()
    try:
        code = dispatch_ledger.main(None if argv is None else list(argv), prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.complain("interrupted; nothing was begun")
        return INTERRUPTED
    return code if isinstance(code, int) else DONE
