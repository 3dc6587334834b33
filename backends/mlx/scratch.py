"""What is computed beside the timeline, in cells of the same KV cache that it does not see.

Knows nothing about how entries are computed.
"""

from __future__ import annotations

import numpy as np

from edge_interleave.backends.common.ranges import Ranges
from edge_interleave.backends.common.scratch import Aside
from edge_interleave.backends.mlx.cache import GapCache, Numbers


class MlxAside(Aside):
    """Cells that are held, and belong to no entry of the timeline."""

    def __init__(self, cache: GapCache) -> None:
        super().__init__()
        self._cache = cache
        self._cells: Numbers = np.zeros(0, np.int64)

    def begin(self, start: int, count: int) -> Numbers:
        """Take cells for `count` entries more, at positions from `start` on."""
        positions = self._cache.cells.positions
        visible = np.zeros(len(positions), bool)
        for first, last in self.seen:
            visible |= (positions >= first) & (positions < last)
        visible[self._cells] = True
        taken = self._cache.begin(start, count, visible)
        self._cells = np.concatenate((self._cells, taken))
        return taken

    def move_to_timeline(self, start: int) -> None:
        """Put them into the timeline, at `start`: their keys are re-rotated."""
        cells, first = self._cells, self.position
        self._cells = self._cells[:0]
        self.drop()
        self._cache.cells.positions[cells] = np.arange(first, first + len(cells))
        self._cache.move(cells, np.arange(start, start + len(cells)))

    def _begin(self, seen: Ranges) -> None:
        self._cells = np.zeros(0, np.int64)

    def _forget(self) -> None:
        self._cache.cells.free(self._cells)
        self._cells = self._cells[:0]
