"""Scratch entries of the ONNX Runtime backend: in the last cells of the cache, behind copies of what they see."""

from __future__ import annotations

from edge_interleave.backends.common.ranges import Ranges, positions_in
from edge_interleave.backends.common.scratch import ScratchEntries
from edge_interleave.backends.onnx.cache import KvCache


class OnnxScratch(ScratchEntries):
    """The last cells: copies of what is seen, then the entries. The timeline must end before `first`."""

    def __init__(self, cache: KvCache) -> None:
        super().__init__()
        self._cache = cache
        self._moved = 0
        self.first = cache.cells
        """The first of these cells."""
        self.copied = 0
        """Entries that are seen, and were copied."""

    def reserve(self, count: int) -> int:
        """Make room for up to `count` entries behind copies of what they see; for how many there is room."""
        if self.done == 0:
            seen = positions_in(self.visible)
            room = min(count, self._cache.cells - self._cache.length - seen)
            if room <= 0:
                return 0
            self.first = self._cache.cells - seen - room
            self.copied = self._cache.copy_behind(self.visible, self.first)
        return min(count, self._cache.cells - self.first - self.copied)

    def move(self, start: int) -> None:
        """Rotate the keys so that the entries lie at positions from `start` on."""
        by = start - (self.position + self._moved)
        self._cache.rotate(self.first + self.copied, self.done, by)
        self._moved += by

    def copy_to(self, cell: int) -> int:
        """Copy the entries to cells from `cell` on; the position that the first of them has."""
        self._cache.copy_cells(self.first + self.copied, cell, self.done)
        return self.position + self._moved

    def _start(self, visible: Ranges) -> None:
        self._reset()

    def _free(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._moved, self.copied, self.first = 0, 0, self._cache.cells
