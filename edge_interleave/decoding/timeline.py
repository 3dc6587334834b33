"""The timeline's bookkeeping: what goes into the KV cache, what lies there, and where. Knows nothing about engines.

An entry is one text token or one run of visual tokens. Entries are told apart by keys: a token's id, or the digest of
an image's visual tokens. Positions may have gaps after an eviction, as in the decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_interleave.util.arrays import FloatArray

Key = int | bytes


@dataclass(frozen=True)
class TextInput:
    """Text tokens of a prompt."""

    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualInput:
    """The visual tokens of one image in a prompt."""

    rows: FloatArray = field(repr=False)
    """float32 (tokens, hidden)."""
    newline: FloatArray | None = field(default=None, repr=False)
    """The row that ends the image, float32 (hidden,), where the model was trained with one (`vision.merge`)."""

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(np.ascontiguousarray(self.rows).data, digest_size=16)
        if self.newline is not None:
            digest.update(np.ascontiguousarray(self.newline).data)
        object.__setattr__(self, "key", digest.digest())

    key: bytes = field(init=False)

    @property
    def size(self) -> int:
        """Entries that it takes in the KV cache."""
        return len(self.rows) + (self.newline is not None)

    @property
    def embeddings(self) -> FloatArray:
        """What the decoder takes, float32 (size, hidden)."""
        return self.rows if self.newline is None else np.concatenate([self.rows, self.newline[np.newaxis]])


Input = TextInput | VisualInput


@dataclass(frozen=True, slots=True)
class Entry:
    """A token or an image, at positions start <= p < end."""

    key: Key
    start: int
    end: int


@dataclass
class Timeline:
    """Entries in order of position."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def length(self) -> int:
        """KV cache entries in use."""
        return sum(entry.end - entry.start for entry in self.entries)

    @property
    def position(self) -> int:
        """The position that the next entry will have."""
        return self.entries[-1].end if self.entries else 0

    def common_prefix(self, keys: Sequence[Key]) -> int:
        """How many of the first entries are those keys."""
        for index, (entry, key) in enumerate(zip(self.entries, keys, strict=False)):
            if entry.key != key:
                return index
        return min(len(self.entries), len(keys))

    def add(self, key: Key, size: int = 1) -> None:
        """Put an entry of `size` positions at the end."""
        self.entries.append(Entry(key, self.position, self.position + size))

    def truncate(self, count: int) -> int:
        """Keep the first `count` entries; gives the position that the decoder must be truncated to."""
        del self.entries[count:]
        return self.position

    def evict(self, first: int, last: int) -> tuple[int, int]:
        """Forget the entries first <= index < last; gives the range of positions that the decoder must evict."""
        gone = self.entries[first:last]
        if not gone:
            raise ValueError(f"no entries from {first} to {last}")
        del self.entries[first:last]
        return gone[0].start, gone[-1].end

    def rebase(self) -> None:
        """Close the gaps, as the decoder does."""
        position, moved = 0, []
        for entry in self.entries:
            moved.append(Entry(entry.key, position, position + entry.end - entry.start))
            position = moved[-1].end
        self.entries = moved
