"""Ed25519 signatures of anchors, by PyCA's ``cryptography``: an extra, imported only when a key is given."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.audit.anchors import statement
from ledger.errors import ConfigurationError
from ledger.system_events import AnchorSealed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Sign", "is_signed_by", "read_public_key", "read_signing_key"]

Sign = Callable[[AnchorSealed], AnchorSealed]
"""Returns an anchor with its signature and the key that checks it."""

KEY_BYTES_MAX: Final = 10_000
MAKE: Final = "`openssl genpkey -algorithm ed25519 -out anchor.key` makes one"
MAKE_PUBLIC: Final = "`openssl pkey -in anchor.key -pubout -out anchor.pub` makes one"


def read_signing_key(path: Path) -> Sign:
    """Read a private key, which nobody else may read.

    Raises:
        ConfigurationError: there is no such key, others may read it, or ``cryptography`` is not installed.
    """
    text = _read(path, secret=True)
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing() from error
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        raise ConfigurationError(
            f"{path}: no private key in PEM form without a password can be read; {MAKE}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: not an Ed25519 key; {MAKE}")
    return lambda sealed: _signed(key, sealed)


def _signed(key: Ed25519PrivateKey, sealed: AnchorSealed) -> AnchorSealed:
    named = sealed.model_copy(update={"public_key": key.public_key().public_bytes_raw().hex()})
    return named.model_copy(update={"signature": key.sign(statement(named)).hex()})


def read_public_key(path: Path) -> bytes:
    """Read the 32 bytes of a public key.

    Raises:
        ConfigurationError: there is no such key, or ``cryptography`` is not installed.
    """
    text = _read(path, secret=False)
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _missing() from error
    try:
        key = serialization.load_pem_public_key(text)
    except ValueError as error:
        raise ConfigurationError(f"{path}: no public key in PEM form can be read; {MAKE_PUBLIC}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: not an Ed25519 key; {MAKE_PUBLIC}")
    return key.public_bytes_raw()


def is_signed_by(key: bytes, sealed: AnchorSealed) -> bool:
    """Say whether an anchor bears a signature of this key over all that it says."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra; who has a key has read it by this
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - likewise

    if sealed.public_key != key.hex() or sealed.signature is None:
        return False
    public: Ed25519PublicKey = Ed25519PublicKey.from_public_bytes(key)
    try:
        public.verify(bytes.fromhex(sealed.signature), statement(sealed))
    except (InvalidSignature, ValueError):
        return False
    return True


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if secret and os.name == "posix" and stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigurationError(f"{path}: others may read or write this private key; chmod 600 it")
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise ConfigurationError(f"{path}: the key cannot be read: {error.strerror}") from error


def _missing() -> ConfigurationError:
    return ConfigurationError("signatures need the extra `sign`: pip install 'dispatch-ledger[sign]'")
