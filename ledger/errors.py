"""The error tree, split by what the caller does next.

::

    DispatchError                     everything raised on purpose (in ``clients.errors``, with ClientError below it)
    ├─ UsageError                     the caller's request is wrong; nothing was written         exit code 2
    │  ├─ ConfigurationError          a file, variable or key of the configuration
    │  ├─ RequestRefused              an argument no task can be made of
    │  ├─ IdempotencyConflict         this key was used for another request
    │  └─ TaskNotFound                no task has this id, or several do
    ├─ LedgerError                    the ledger cannot be used; no new call is made             exit code 3
    │  ├─ LedgerMissing               there is none, and this command only reads
    │  ├─ LedgerBusy                  a lock was held, or a server was away, past the deadline
    │  ├─ LedgerFull                  the disk is full, or the file may not be written
    │  ├─ LedgerCorrupt               the file is damaged, or its guards are gone
    │  └─ LedgerVersion               written by a newer version, or needing ``db upgrade``
    ├─ VersionConflict                somebody else appended first: read again, decide again
    ├─ CommandRefused                 ``decide`` was asked for what the state does not allow
    └─ EventInvalid                   bytes that are no event of a known type and version
"""

from __future__ import annotations

from clients.errors import ClientError, ClientUnready, DispatchError, PromptRefused

__all__ = [
    "ClientError",
    "ClientUnready",
    "CommandRefused",
    "ConfigurationError",
    "DispatchError",
    "EventInvalid",
    "IdempotencyConflict",
    "LedgerBusy",
    "LedgerCorrupt",
    "LedgerError",
    "LedgerFull",
    "LedgerMissing",
    "LedgerVersion",
    "PromptRefused",
    "RequestRefused",
    "TaskNotFound",
    "UsageError",
    "VersionConflict",
]


class UsageError(DispatchError):
    """The caller's request is wrong; nothing was written and nothing was called."""


class ConfigurationError(UsageError):
    """The configuration cannot be used; the message names the file, the key and what was expected."""


class RequestRefused(UsageError):
    """An argument that no task can be made of.

    Attributes:
        field: the argument at fault.
    """

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class IdempotencyConflict(UsageError):
    """A key that already names another request.

    Attributes:
        key: the key.
        task_id: the task that the key names.
    """

    def __init__(self, key: str, task_id: str) -> None:
        super().__init__(
            f"the key {key!r} already names task {task_id}, which was another request; "
            "use a new key, or send the same tier, prompt, system, max_tokens and retries"
        )
        self.key = key
        self.task_id = task_id


class LedgerError(DispatchError):
    """The ledger cannot be used; no new call is made."""


class LedgerMissing(LedgerError):
    """There is no ledger at this place, and this command only reads."""


class LedgerBusy(LedgerError):
    """Somebody held the ledger's lock, or its server did not answer, past the deadline; trying again later is safe."""


class LedgerFull(LedgerError):
    """The ledger cannot be written: the disk is full, or the file or folder may not be written."""


class LedgerCorrupt(LedgerError):
    """The file is damaged, is no ledger, or its guards are gone."""


class LedgerVersion(LedgerError):
    """The ledger's schema is newer than this program, or older and needing ``db upgrade``."""


class TaskNotFound(UsageError):
    """No task, or more than one, answers to this id."""


class VersionConflict(DispatchError):
    """Somebody else appended to this stream first: read again and decide again."""


class CommandRefused(DispatchError):
    """A command that the state does not allow.

    Attributes:
        why: ``exists``, ``unknown_task``, ``not_due``, ``running_elsewhere``, ``fence_lost``, ``off_route``,
            ``held``, ``ended`` or ``bad_inputs``.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


class EventInvalid(DispatchError):
    """Bytes that are no event of a known type and version, or an event that cannot be written."""
