"""Scratch KV entries: computed against part of the timeline, before they are moved into it.

This module keeps track of which entries they are and how many are computed. Each engine computes and stores them.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge_interleave.backends.common.inputs import Entries
from edge_interleave.backends.common.ranges import Ranges


class ScratchEntries(ABC):
    """The first entries of a sequence, each computed as if the timeline had only the visible positions."""

    def __init__(self) -> None:
        self._work: _Work | None = None

    @property
    def done(self) -> int:
        """Entries computed so far; each takes a cell."""
        return 0 if self._work is None else self._work.done

    @property
    def visible(self) -> Ranges:
        """The positions of the timeline that the entries attend to."""
        return [] if self._work is None else self._work.visible

    @property
    def position(self) -> int:
        """The position of the first entry: right after the last visible one."""
        return self.visible[-1][1] if self.visible else 0

    def select(self, entries: Sequence[Entries], visible: Ranges) -> None:
        """Keep the computed entries if they are these, with these visible positions; otherwise drop them."""
        digest = _digest(entries)
        if self._work is not None and (self._work.visible, self._work.digest) == (visible, digest):
            return
        self.drop()
        self._work = _Work(visible, digest)
        self._start(visible)

    def compute(self, entries: Sequence[Entries], upto: int, run: Callable[[Entries, int], object]) -> None:
        """Compute the selected entries until `upto` of them are done.

        `run(entries, position)` computes some of them, the first at `position`. If it raises, all entries are dropped.
        """
        assert self._work is not None
        try:
            for piece in _between(entries, self.done, upto):
                run(piece, self.position + self.done)
                self._work.done += len(piece)
        except BaseException:
            self.drop()
            raise

    def invalidate(self, start: int, end: int) -> None:
        """Drop the entries if they attend to positions start <= p < end, which are about to be evicted or moved."""
        if any(first < end and start < last for first, last in self.visible):
            self.drop()

    def drop(self) -> None:
        """Drop the entries and free their cells."""
        if self._work is not None:
            self._work = None
            self._free()

    @abstractmethod
    def _start(self, visible: Ranges) -> None:
        """Prepare for entries that attend to these positions."""

    @abstractmethod
    def _free(self) -> None:
        """Free the cells of the computed entries that were not moved into the timeline."""


@dataclass
class _Work:
    visible: Ranges
    digest: bytes
    done: int = 0


def _between(parts: Sequence[Entries], start: int, end: int) -> Iterator[Entries]:
    """The entries of all parts from index `start` to before `end`, by part."""
    offset = 0
    for part in parts:
        piece = part[max(0, start - offset) : max(0, end - offset)]
        if len(piece):
            yield piece
        offset += len(part)


def _digest(parts: Sequence[Entries]) -> bytes:
    """Identifies entries by their content, since the caller may change the arrays later."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(repr((part.dtype.str, part.shape)).encode())
        found.update(part.data)
    return found.digest()
