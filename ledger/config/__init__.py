"""The configuration: tables and keys, their defaults, and where they are read from."""

from ledger.config.load import find_config, load_config, resolve_ledger
from ledger.config.model import Config

__all__ = ["Config", "find_config", "load_config", "resolve_ledger"]
