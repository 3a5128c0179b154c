"""The text of a streamed answer: passed on piece by piece, and kept whole."""

from __future__ import annotations

import time

from clients.base import OnText

__all__ = ["Pieces"]


class Pieces:
    """Takes in the pieces of one answer and passes them on at once.

    Half a surrogate pair waits for its other half, so every piece is Unicode text, and all of them make the answer.

    Attributes:
        fault: what the caller's ``on_text`` raised, which is no fault of the provider's; after it, or after ``close``,
            nothing more is passed on.
        first_at: when the first text came, on the monotonic clock; None before.
    """

    def __init__(self, on_text: OnText | None) -> None:
        self.fault: Exception | None = None
        self.first_at: float | None = None
        self._on_text = on_text
        self._said: list[str] = []
        self._half = ""

    def add(self, text: str) -> None:
        """Take in the next piece."""
        whole = self._half + text
        self._half = whole[-1] if whole and "\ud800" <= whole[-1] <= "\udbff" else ""
        self._pass(whole.removesuffix(self._half))

    def end(self) -> str:
        """Take in that no more comes, and give the whole text."""
        left, self._half = self._half, ""
        self._pass(left)
        return "".join(self._said)

    def close(self) -> None:
        """Pass nothing on any more."""
        self._on_text = None

    def ttft_ms(self, sent_at: float) -> int | None:
        """Count from an instant of the monotonic clock to the first text; None when none came."""
        return None if self.first_at is None else max(0, int((self.first_at - sent_at) * 1000))

    def _pass(self, text: str) -> None:
        if not text:
            return
        piece = text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._said.append(piece)
        if self.first_at is None:
            self.first_at = time.monotonic()
        if self._on_text is None or self.fault is not None:
            return
        try:
            self._on_text(piece)
        except Exception as error:  # noqa: BLE001 - raised by the client once the stream is closed
            self.fault = error
