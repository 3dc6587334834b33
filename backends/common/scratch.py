"""What is computed beside the timeline, before it takes its place there: entries that see a part of the timeline only.

Knows which entries those are and how many are computed; how is each engine's own.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge_interleave.backends.common.inputs import Entries
from edge_interleave.backends.common.ranges import Ranges


@dataclass
class _Work:
    seen: Ranges
    digest: bytes
    done: int = 0


class Aside(ABC):
    """Nothing, or the first of some entries, computed from what they see of the timeline."""

    def __init__(self) -> None:
        self._work: _Work | None = None

    @property
    def done(self) -> int:
        """Entries that are computed; each takes a cell."""
        return 0 if self._work is None else self._work.done

    @property
    def seen(self) -> Ranges:
        """The positions that they see."""
        return [] if self._work is None else self._work.seen

    @property
    def position(self) -> int:
        """Where the first of them is computed: right behind what they see."""
        return self.seen[-1][1] if self.seen else 0

    def turn_to(self, entries: Sequence[Entries], seen: Ranges) -> None:
        """Go on with these entries that see those positions, where this is what lies here; else begin with them."""
        digest = _digest(entries)
        if self._work is not None and (self._work.seen, self._work.digest) == (seen, digest):
            return
        self.drop()
        self._work = _Work(seen, digest)
        self._begin(seen)

    def compute(self, entries: Sequence[Entries], upto: int, run: Callable[[Entries, int], object]) -> None:
        """Have entries computed up to so many, of those that were turned to.

        `run` computes some of them from a position on, and raises where that fails: nothing lies here then.
        """
        assert self._work is not None
        try:
            for piece in _between(entries, self.done, upto):
                run(piece, self.position + self.done)
                self._work.done += len(piece)
        except BaseException:
            self.drop()
            raise

    def changes(self, start: int, end: int) -> None:
        """The timeline's entries at positions start <= p < end are about to go, or move: what saw them is dropped."""
        if any(first < end and start < last for first, last in self.seen):
            self.drop()

    def drop(self) -> None:
        """Forget what lies here."""
        if self._work is not None:
            self._work = None
            self._forget()

    @abstractmethod
    def _begin(self, seen: Ranges) -> None:
        """Entries that see those positions will come."""

    @abstractmethod
    def _forget(self) -> None:
        """Free the cells of all that was computed and lies in no timeline."""


def _between(parts: Sequence[Entries], start: int, end: int) -> Iterator[Entries]:
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
