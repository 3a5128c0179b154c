"""The caller's ears: text as it comes, and word of a start over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clients.base import OnText

__all__ = ["Listener"]


@dataclass(slots=True)
class Listener:
    """The caller's ears: text as it comes, and word of a start over."""

    on_text: OnText | None = None
    on_restart: Callable[[int], object] | None = None
    attempt: int = 0
    """The one that is listened to; 0 is none."""
    heard: bool = False
    heard_of: int = 0
    """The attempt whose text the caller has; 0 while none was passed on."""
    fault: Exception | None = None
    """What the caller's own function raised; it must not pass for the provider's failure."""

    def hear(self, attempt: int, text: str) -> None:
        """Pass a piece of text on; a client left behind by an earlier attempt is not heard any more."""
        if attempt != self.attempt:
            return
        self.heard, self.heard_of = True, attempt
        if self.on_text is None or self.fault is not None:
            return
        try:
            self.on_text(text)
        except Exception as error:  # noqa: BLE001 - raised to the caller once the outcome is recorded
            self.fault = error

    def begin(self, attempt: int) -> None:
        """Say that the text starts over, if some of it was heard."""
        if self.heard and self.on_restart is not None and self.fault is None:
            try:
                self.on_restart(attempt)
            except Exception as error:  # noqa: BLE001 - likewise
                self.fault = error
        if self.heard:
            self.heard_of = attempt
        self.heard = False
        self.attempt = attempt

    def settle(self, attempt: int, text: str) -> None:
        """Give the answer again where the caller has none or another attempt's text: a higher tier broke off."""
        if self.heard_of and (self.heard_of != attempt or not self.heard):
            self.begin(attempt)
            self.hear(attempt, text)
            self.attempt = 0
