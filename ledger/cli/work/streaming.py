"""An answer on its way to the reader, piece by piece: ``run --stream``."""

from __future__ import annotations

from clients.base import ExecutionResult
from ledger.cli import output

__all__ = ["Flow"]


class Flow:
    """Writes a text as it comes: untouched into a pipe, made safe for a terminal, as JSON lines when asked."""

    def __init__(self, *, as_json: bool, validated: bool = False) -> None:
        self._why = "the answer broke off, or another one is tried" if validated else "the answer broke off"
        self._as_json = as_json
        self._on_terminal = output.is_terminal()
        self._heard: list[str] = []
        self._held = ""
        self._in_line = False
        self._lost: output.Unwritable | None = None

    def hear(self, text: str) -> None:
        """Write the next piece."""
        self._heard.append(text)
        try:
            self._pass_on(text)
        except output.Unwritable as lost:
            self._lost = lost  # the call goes on, since it is paid for; from here all is written nowhere

    def _pass_on(self, text: str) -> None:
        if self._as_json:
            output.document({"type": "text", "text": text}, on_one_line=True)
            return
        if self._on_terminal:
            text = self._held + text
            # Before a newline it is a line's end, before anything else a control character: the next piece tells.
            self._held = "\r" if text.endswith("\r") else ""
            text = output.visible(text.removesuffix(self._held))
        self._write(text)

    def restart(self, attempt: int) -> None:
        """Say that what was written so far is void."""
        self._heard.clear()
        if self._as_json:
            output.document({"type": "restart", "attempt": attempt}, on_one_line=True)
            return
        self.end_line()
        output.note(f"dispatch-ledger: {self._why}; attempt {attempt} starts the text over")

    def check(self) -> None:
        """Say at the end that a piece was lost.

        Raises:
            Unwritable: it could not be written.
        """
        if self._lost is not None:
            raise self._lost

    def end(self, result: ExecutionResult) -> None:
        """End the text; an answer that came another way, or not as it was recorded, is written as a whole."""
        self.end_line()
        self.check()
        if not result.success or "".join(self._heard) == result.response:
            return
        if self._heard:
            output.note("dispatch-ledger: what came is not what was recorded; the recorded answer follows")
        output.answer(result.response)

    def end_line(self) -> None:
        """Let what follows begin on a line of its own."""
        held, self._held = self._held, ""
        self._write(output.visible(held))
        if self._in_line:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            output.write(text)
            self._in_line = not text.endswith("\n")
