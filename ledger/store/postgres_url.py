"""The name of a ledger in PostgreSQL: what the driver is given, and what people are shown of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from ledger.errors import ConfigurationError

__all__ = ["PostgresUrl"]

SCHEMES: Final = ("postgresql", "postgresql+asyncpg")
PRIVATE: Final = ("password", "sslpassword")
HIDDEN: Final = "…"
EXPECTED: Final = "expected postgresql://USER:PASSWORD@HOST:PORT/NAME"
SHORT: Final = 4
"""Characters below which a password is not looked for in other texts: it would be found in every word."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """Where a database is; as text it shows no password."""

    dsn: str = field(repr=False)
    """As the driver takes it, password included."""
    shown: str

    def __str__(self) -> str:
        return self.shown

    @classmethod
    def parse(cls, text: str) -> Self:
        """Understand a URL.

        Raises:
            ConfigurationError: it is none of a database; the message does not repeat it, for its password.
        """
        if "#" in text:
            raise ConfigurationError("a # in the user, password or name of a ledger's URL is written %23")
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ConfigurationError(f"the ledger's URL cannot be understood; {EXPECTED}") from None
        if parts.scheme not in SCHEMES:
            raise ConfigurationError(f"no driver is known as {parts.scheme}; {EXPECTED}")
        if parts.netloc.count("@") > 1:
            raise ConfigurationError("an @ in the user or password of a ledger's URL is written %40")
        if "\0" in unquote(text):
            raise ConfigurationError(f"the ledger's URL has a NUL in it; {EXPECTED}")
        parts = parts._replace(scheme="postgresql")
        return cls(_whole(parts), _whole(_without_password(parts)))

    def hide(self, text: str) -> str:
        """Return what a server or a driver said, without the password."""
        for secret in self._secrets():
            text = text.replace(secret, HIDDEN)
        return text

    def _secrets(self) -> set[str]:
        parts = urlsplit(self.dsn)
        options = [option.partition("=") for option in parts.query.split("&")]
        written = {parts.password or "", *(value for name, _, value in options if name.lower() in PRIVATE)}
        return {secret for text in written for secret in (text, unquote(text)) if len(secret) >= SHORT}


def _without_password(parts: SplitResult) -> SplitResult:
    user_and_password, at, host = parts.netloc.rpartition("@")
    user, colon, _ = user_and_password.partition(":")
    options = [
        f"{name}={HIDDEN}" if name.lower() in PRIVATE else option
        for option in parts.query.split("&")
        for name in (option.partition("=")[0],)
    ]
    netloc = f"{user}:{HIDDEN}{at}{host}" if colon else parts.netloc
    return parts._replace(netloc=netloc, query="&".join(options))


def _whole(parts: SplitResult) -> str:
    """Put a URL together; the standard library drops the slashes of a host that is not named."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")
