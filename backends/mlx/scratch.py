"""MLX's scratch entries: cells of the KV cache that the timeline does not attend to."""

from __future__ import annotations

import numpy as np

from edge_interleave.backends.common.ranges import Ranges
from edge_interleave.backends.common.scratch import ScratchEntries
from edge_interleave.backends.mlx.cache import GapCache, Numbers


class MlxScratch(ScratchEntries):
    """Held cells that are not part of the timeline."""

    def __init__(self, cache: GapCache) -> None:
        super().__init__()
        self._cache = cache
        self._cells: Numbers = np.zeros(0, np.int64)

    def begin(self, start: int, count: int) -> Numbers:
        """Hold cells for `count` more entries, at positions from `start` on, and return them."""
        positions = self._cache.cells.positions
        visible = np.zeros(len(positions), bool)
        for first, last in self.visible:
            visible |= (positions >= first) & (positions < last)
        visible[self._cells] = True
        taken = self._cache.begin(start, count, visible)
        self._cells = np.concatenate((self._cells, taken))
        return taken

    def move_to_timeline(self, start: int) -> None:
        """Put the entries into the timeline at `start`, with their keys re-rotated."""
        cells, first = self._cells, self.position
        self._cells = self._cells[:0]
        self.drop()
        self._cache.cells.positions[cells] = np.arange(first, first + len(cells))
        self._cache.move(cells, np.arange(start, start + len(cells)))

    def _start(self, visible: Ranges) -> None:
        self._cells = np.zeros(0, np.int64)

    def _free(self) -> None:
        self._cache.cells.free(self._cells)
        self._cells = self._cells[:0]
