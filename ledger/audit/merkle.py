"""Merkle trees as RFC 6962 has them: one hash for any number of leaves, and short proofs that a leaf is among them.

A leaf of ours is an event's place and hash: ``position`` as 8 bytes, big-endian, then the 32 bytes of the hash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

__all__ = ["Tree", "leaf_hash"]

HEIGHT_MAX: Final = 64


def leaf_hash(position: int, event_hash: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + position.to_bytes(8, "big") + event_hash).digest()


@dataclass(slots=True)
class Tree:
    """A tree that grows leaf by leaf and keeps a few hashes only: its peaks, and what proofs need."""

    size: int = 0
    _peaks: list[tuple[int, bytes]] = field(default_factory=list)
    """Roots of full subtrees from left to right, each with its height."""
    _wanted: set[tuple[int, int]] = field(default_factory=set)
    _found: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def add(self, leaf: bytes, *, prove: bool = False) -> None:
        """Add the hash of the next leaf; with ``prove`` its path can be asked for in the end."""
        height, index, node = 0, self.size, leaf
        if prove:
            # To the left of it stand the peaks; what will stand to the right is kept when it comes.
            self._found |= {(high, (index >> high) ^ 1): peak for high, peak in self._peaks}
            self._wanted |= {(high, (index >> high) ^ 1) for high in range(HEIGHT_MAX) if not index >> high & 1}
        self.size += 1
        self._keep(height, index, node)
        while index & 1:
            node = _parent(self._peaks.pop()[1], node)
            height, index = height + 1, index >> 1
            self._keep(height, index, node)
        self._peaks.append((height, node))

    def root(self) -> bytes:
        """Return the root; that of no leaves is the hash of nothing."""
        if not self._peaks:
            return sha256(b"").digest()
        height, node = self._peaks[-1]
        for left_height, left in reversed(self._peaks[:-1]):
            # What stands alone at the right edge rises unchanged until it has a sibling.
            self._keep(left_height, (self.size - 1) >> left_height, node)
            height, node = left_height + 1, _parent(left, node)
            self._keep(height, (self.size - 1) >> height, node)
        return node

    def path(self, index: int) -> list[bytes]:
        """Return the siblings on the way from a proved leaf to the root, lowest first; ask for the root before."""
        places = ((height, (index >> height) ^ 1) for height in range(max(self.size - 1, 0).bit_length()))
        return [self._found[place] for place in places if place in self._found]

    def _keep(self, height: int, index: int, node: bytes) -> None:
        if (height, index) in self._wanted:
            self._found[height, index] = node


def _parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
