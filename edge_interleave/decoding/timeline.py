"""The timeline's bookkeeping: which tokens and images the KV cache holds, and at which positions.

An entry is one text token or one image. Its key identifies it: a token's id, or the digest of an image's visual tokens.
After an eviction positions have gaps, as in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Key = int | bytes
"""A token's id, or `VisualInput.key`."""


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
