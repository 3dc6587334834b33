"""The timeline's bookkeeping: which tokens and images the KV cache holds, and at which positions.

A span is one text token or one image: the KV entries at a range of positions. Its key identifies it: a token's id, or
the digest of an image's visual tokens. After an eviction positions have gaps, as in the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Key = int | bytes
"""A token's id, or `VisualInput.key`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A token or an image: the KV entries at positions start <= p < end."""

    key: Key
    start: int
    end: int


@dataclass
class Timeline:
    """Spans in order of position."""

    spans: list[Span] = field(default_factory=list)

    @property
    def length(self) -> int:
        """KV entries in use."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def position(self) -> int:
        """The position that the next KV entry will have."""
        return self.spans[-1].end if self.spans else 0

    def common_prefix(self, keys: Sequence[Key]) -> int:
        """How many of the first spans have these keys."""
        for index, (span, key) in enumerate(zip(self.spans, keys, strict=False)):
            if span.key != key:
                return index
        return min(len(self.spans), len(keys))

    def add(self, key: Key, size: int = 1) -> None:
        """Append a span of `size` KV entries."""
        self.spans.append(Span(key, self.position, self.position + size))

    def truncate(self, count: int) -> int:
        """Keep the first `count` spans; returns the position that the decoder must be truncated to."""
        del self.spans[count:]
        return self.position

    def evict(self, first: int, last: int) -> tuple[int, int]:
        """Remove the spans first <= index < last; returns the range of positions that the decoder must evict."""
        evicted = self.spans[first:last]
        if not evicted:
            raise ValueError(f"no spans from {first} to {last}")
        del self.spans[first:last]
        return evicted[0].start, evicted[-1].end

    def rebase(self) -> None:
        """Close the gaps, as the decoder does."""
        position, moved = 0, []
        for span in self.spans:
            moved.append(Span(span.key, position, position + span.end - span.start))
            position = moved[-1].end
        self.spans = moved
