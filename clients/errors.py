"""Errors of the dispatch layer, the part a client can raise.

::

    DispatchError                  everything this project raises on purpose
    ├─ ClientError                 a client could not even begin; nothing was sent
    │  ├─ PromptRefused            this text can never be sent by this client; change the prompt
    │  └─ ClientUnready            the client cannot work here now (not installed, no key); carries ``error_type``
    └─ …                           the ledger's own branch is drawn in ``ledger.errors``

A provider's failure is never an exception: it is an ``ExecutionResult`` with ``success=False``.
"""

from __future__ import annotations

from clients.base import ErrorType

__all__ = ["ClientError", "ClientUnready", "DispatchError", "PromptRefused"]


class DispatchError(Exception):
    """The root of every error raised on purpose."""


class ClientError(DispatchError):
    """A client could not begin; nothing was sent and nothing was billed."""


class PromptRefused(ClientError):
    """A prompt or system text that this client can never send.

    Attributes:
        field: the argument at fault, ``prompt`` or ``system``.
    """

    def __init__(self, message: str, *, field: str = "prompt") -> None:
        super().__init__(message)
        self.field = field


class ClientUnready(ClientError):
    """A client that cannot work here now; an attempt through it fails without a request.

    Attributes:
        error_type: ``client_missing``, ``authentication`` or another type of the contract.
    """

    def __init__(self, message: str, *, error_type: ErrorType) -> None:
        super().__init__(message)
        self.error_type = error_type
