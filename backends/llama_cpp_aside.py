"""What is computed beside the timeline, in a second sequence of llama.cpp's, before it takes its place there.

A sequence is what sees itself only, so that entries computed there see what they are told to. Cells that both sequences
hold are counted once. Also ranges of positions: lists of (start, end), start <= p < end, ascending, with gaps between.
Knows nothing about how entries are computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as low

from .llama_cpp_batch import Entries

TIMELINE, ASIDE = 0, 1
"""llama.cpp's numbers of the two sequences."""
Ranges = list[tuple[int, int]]


@dataclass
class _Work:
    seen: Ranges
    digest: bytes
    done: int = 0


class Aside:
    """The second sequence: nothing, or the first of some entries, computed from what they see of the timeline."""

    def __init__(self, memory: Any) -> None:
        """`memory`: llama.cpp's `llama_memory_t`."""
        self._memory = memory
        self._work: _Work | None = None

    @property
    def done(self) -> int:
        """Entries that are computed; each takes a cell."""
        return 0 if self._work is None else self._work.done

    @property
    def position(self) -> int:
        """Where the first of them lies: right behind what they see."""
        return self._work.seen[-1][1] if self._work is not None and self._work.seen else 0

    def turn_to(self, entries: Sequence[Entries], seen: Ranges) -> None:
        """Go on with these entries that see those positions, where this is what lies here; else begin with them."""
        digest = _digest(entries)
        if self._work is not None and (self._work.seen, self._work.digest) == (seen, digest):
            return
        self.drop()
        self._work = _Work(seen, digest)
        for start, end in seen:
            low.llama_memory_seq_cp(self._memory, TIMELINE, ASIDE, start, end)

    def add(self, count: int) -> None:
        """So many more are computed."""
        assert self._work is not None
        self._work.done += count

    def move_to_timeline(self, start: int) -> bool:
        """Put them into the timeline, at `start`; gives whether keys are to be re-rotated for that."""
        first, count = self.position, self.done
        if start != first:
            low.llama_memory_seq_add(self._memory, ASIDE, first, first + count, start - first)
        low.llama_memory_seq_cp(self._memory, ASIDE, TIMELINE, start, start + count)
        self.drop()
        return start != first

    def changes(self, start: int, end: int) -> None:
        """The timeline's entries at positions start <= p < end are about to go, or move: what saw them is dropped."""
        if self._work is not None and any(first < end and start < last for first, last in self._work.seen):
            self.drop()

    def drop(self) -> None:
        """Forget what lies here."""
        if self._work is not None:
            self._work = None
            low.llama_memory_seq_rm(self._memory, ASIDE, -1, -1)


def without(ranges: Ranges, start: int, end: int) -> Ranges:
    """What is left of ranges when the positions start <= p < end leave."""
    if start >= end:
        return ranges
    pieces = [piece for first, last in ranges for piece in ((first, min(last, start)), (max(first, end), last))]
    return [(first, last) for first, last in pieces if first < last]


def below(ranges: Ranges, end: int) -> Ranges:
    """What of ranges lies before `end`."""
    return [(first, min(last, end)) for first, last in ranges if first < end]


def between(parts: Sequence[Entries], start: int, end: int) -> Iterator[Entries]:
    """The entries of all parts from index `start` to before `end`, by part."""
    offset = 0
    for part in parts:
        piece = part[max(0, start - offset) : max(0, end - offset)]
        if len(piece):
            yield piece
        offset += len(part)


def _digest(parts: Sequence[Entries]) -> bytes:
    """Tells entries apart, though whoever gave them should change them later."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(repr((part.dtype.str, part.shape)).encode())
        found.update(part.data)
    return found.digest()
