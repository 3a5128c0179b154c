"""Bodies of responses: unpacked here, and never more than a limit."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator

import httpx2

from clients.anthropic_errors import ResponseTooLong

__all__ = ["bound"]

RESPONSE_BYTES_MAX = 64 * 2**20
PART_BYTES = 2**18


async def bound(response: httpx2.Response) -> None:
    """Put a limit on the bytes of a response, unpacked, before any is read."""
    if not isinstance(response.stream, httpx2.AsyncByteStream):
        raise TypeError("an async client answers with async streams")
    # Unpacked here, as httpx itself would unpack a few bytes to as many as they say.
    packed = response.headers.pop("content-encoding", "").strip().lower() == "gzip"
    response.stream = _Bounded(response.stream, packed=packed)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, *, packed: bool) -> None:
        self._inner = inner
        self._packed = packed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        received = 0
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if self._packed else None
        try:
            async for piece in self._inner:
                for part in _unpacked(piece, unpacker):
                    received += len(part)
                    if received > RESPONSE_BYTES_MAX:
                        raise ResponseTooLong(f"more than {RESPONSE_BYTES_MAX:,} bytes")
                    yield part
        except zlib.error as error:
            raise httpx2.DecodingError(f"no gzip: {error}") from error

    async def aclose(self) -> None:
        await self._inner.aclose()


def _unpacked(piece: bytes, unpacker: zlib._Decompress | None) -> Iterator[bytes]:
    """Give a piece, or what it unpacks to, in parts of a bounded size."""
    if unpacker is None:
        yield piece
        return
    while piece:
        if part := unpacker.decompress(piece, PART_BYTES):
            yield part
        piece = unpacker.unconsumed_tail
