"""The command line. Importing it costs little: what a command needs is imported when it runs."""

from ledger.cli.entry import main

__all__ = ["main"]
