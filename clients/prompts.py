"""What a text must be before it can be sent."""

from __future__ import annotations

from clients.errors import PromptRefused

__all__ = ["check_texts"]


def check_texts(prompt: str, system: str | None, *, bytes_max: int) -> None:
    """Refuse an empty prompt, text that is no Unicode, and more bytes than the provider takes.

    Raises:
        PromptRefused: says which text is at fault and why.
    """
    if not prompt:
        raise PromptRefused("the prompt is empty; there is nothing to send")
    size = _size(prompt, "prompt")
    if size > bytes_max:
        raise PromptRefused(f"the prompt has {size:,} bytes; at most {bytes_max:,} can be sent")
    if system:
        whole = size + _size(system, "system")
        if whole > bytes_max:
            message = f"system text and prompt have {whole:,} bytes; at most {bytes_max:,} can be sent"
            raise PromptRefused(message, field="system")


def _size(text: str, field: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        where = f"character {error.start:,} (U+{ord(text[error.start]):04X})"
        raise PromptRefused(f"the {field} is not Unicode text: {where} is half of a pair", field=field) from None
