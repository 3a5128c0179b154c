"""An HTTP server on loopback that plays the providers and logs every request: the witness of every call."""

from tests.emulator.server import Emulator, Reply, Request

__all__ = ["Emulator", "Reply", "Request"]
