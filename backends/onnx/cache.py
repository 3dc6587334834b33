"""The KV cache that ONNX Runtime reads and writes in place: entries lie in cells, close together, in no order.

`GroupQueryAttention` sees the cells before those that it writes, all of them. So the timeline lies in the first cells,
without a gap: what leaves its middle is filled up with its last entries. Attention does not mind their order, for keys
are stored rotated by their positions (RoPE), and a table knows each cell's position. Entries that are computed beside
the timeline lie in the last cells, behind copies of those that they see.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_interleave.backends.common.ranges import Ranges

Numbers = npt.NDArray[np.int64]
Cells = npt.NDArray[np.float16] | npt.NDArray[np.int8]

SPARE = 128
"""Cells beyond the capacity, for copies of what prefetched entries see: a system prompt, say."""
_FREE = -1


class KvCache:
    """All layers' keys and values, and the positions of the timeline's entries."""

    def __init__(
        self,
        layers: int,
        heads: int,
        size: int,
        capacity: int,
        frequencies: npt.NDArray[np.float64],
        dtype: npt.DTypeLike = np.float16,
    ) -> None:
        """`frequencies`: of RoPE, radians a position, (size / 2,). `dtype`: float16, or int8 in steps."""
        self.cells = capacity + SPARE
        self.arrays: Cells = np.zeros((layers, 2, heads, self.cells, size), dtype)
        """(layers, keys and values, kv heads, cells, head size)."""
        self.positions: Numbers = np.full(self.cells, _FREE, np.int64)
        """By cell; -1 where there is no entry of the timeline."""
        self.length = 0
        """Entries of the timeline; they lie in the first cells."""
        self._frequencies = frequencies

    @property
    def position(self) -> int:
        """One past the last entry's position."""
        return int(self.positions[: self.length].max(initial=_FREE)) + 1

    @property
    def ranges(self) -> Ranges:
        """The stored positions, ascending, start <= p < end."""
        stored = np.sort(self.positions[: self.length])
        runs = np.split(stored, np.flatnonzero(np.diff(stored) != 1) + 1) if len(stored) else []
        return [(int(run[0]), int(run[-1]) + 1) for run in runs]

    def pointer(self, layer: int, kind: int, first: int = 0) -> int:
        """Address of a layer's keys (0) or values (1), as if cell `first` were the first."""
        return self.arrays[layer, kind, 0, first:].ctypes.data

    def add(self, start: int, count: int) -> None:
        """Entries of positions from `start` on were written behind the timeline."""
        self.positions[self.length : self.length + count] = np.arange(start, start + count)
        self.length += count

    def remove(self, start: int, end: int) -> None:
        """Forget the entries at positions start <= p < end."""
        here = self.positions[: self.length]
        leaving = np.flatnonzero((here >= start) & (here < end))
        self.positions[leaving] = _FREE
        self._close(self.length - len(leaving))

    def open_gap(self, seen: Ranges, count: int) -> int:
        """Have the entries at the positions `seen` lie first, and so many free cells behind them; where those begin.

        `close_gap` must follow. There must be `count` cells of the capacity free.
        """
        here = self.positions[: self.length]
        chosen = _within(here, seen)
        first = int(chosen.sum())
        low, high = np.flatnonzero(~chosen[:first]), first + np.flatnonzero(chosen[first:])
        if len(low):
            kept = self.arrays[:, :, :, low]  # an array of indices makes a copy
            self.arrays[:, :, :, low] = self.arrays[:, :, :, high]
            self.arrays[:, :, :, high] = kept
            here[low], here[high] = here[high], here[low]
        moved = min(self.length - first, count)
        self._copy(first, max(self.length, first + count), moved)
        target = max(self.length, first + count)
        self.positions[target : target + moved] = self.positions[first : first + moved]
        self.positions[first : first + count] = _FREE
        return first

    def close_gap(self, first: int, start: int, count: int, reserved: int) -> None:
        """`count` entries, of positions from `start` on, were written into the `reserved` cells of `open_gap`."""
        others = self.length - first
        self.positions[first : first + count] = np.arange(start, start + count)
        self.length = first + reserved + others
        self._close(self.length - (reserved - count))

    def copy_behind(self, seen: Ranges, first: int) -> int:
        """Copy the entries at the positions `seen` to cells from `first` on; how many they are."""
        cells = np.flatnonzero(_within(self.positions[: self.length], seen))
        done = 0
        for start, end in _runs(cells):
            self._copy(start, first + done, end - start)
            done += end - start
        return done

    def copy_cells(self, source: int, target: int, count: int) -> None:
        """Copy cells to others, which they do not overlap."""
        self._copy(source, target, count)

    def rebase(self) -> Ranges:
        """Number the entries 0, 1, 2, ... in the order of their positions; the ranges whose keys were re-rotated."""
        moved: Ranges = []
        here, position = self.positions[: self.length], 0
        for start, end in self.ranges:
            if start != position:
                cells = np.flatnonzero((here >= start) & (here < end))
                for first, last in _runs(cells):
                    self.rotate(first, last - first, position - start)
                moved.append((start, end))
            position += end - start
        order = np.argsort(here)
        here[order] = np.arange(self.length)
        return moved

    def rotate(self, first: int, count: int, by: int) -> None:
        """Rotate the keys of cells by a distance in positions. Rotations add up."""
        if by == 0 or count == 0:
            return
        angles = self._frequencies * by
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        half = len(angles)
        for layer in self.arrays:
            keys = layer[0, :, first : first + count]
            left, right = keys[..., :half].astype(np.float32), keys[..., half:].astype(np.float32)
            # Whole numbers are rotated as they are: the two channels of a pair have the same step.
            keys[..., :half] = self._stored(left * cosine - right * sine)
            keys[..., half:] = self._stored(right * cosine + left * sine)

    def clear(self) -> None:
        """Forget the timeline."""
        self.positions[:] = _FREE
        self.length = 0

    def in_order(self) -> Cells:
        """A copy of the timeline's entries by position: (layers, 2, kv heads, length, head size)."""
        return self.arrays[:, :, :, np.argsort(self.positions[: self.length])]

    def fill(self, ranges: Ranges, arrays: Cells) -> None:
        """Make these entries, as `in_order` gives them, the timeline."""
        self.clear()
        count = arrays.shape[3]
        self.arrays[:, :, :, :count] = arrays
        self.positions[:count] = np.concatenate([np.arange(*pair) for pair in ranges] or [np.zeros(0, np.int64)])
        self.length = count

    def _stored(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.rint(values).clip(-127, 127) if self.arrays.dtype == np.int8 else values

    def _close(self, length: int) -> None:
        """Fill free cells below `length` with the entries that lie above."""
        holes = np.flatnonzero(self.positions[:length] < 0)
        above = length + np.flatnonzero(self.positions[length : self.length] >= 0)
        # The last ones first, so that runs of cells stay runs.
        for hole, cell, count in _pairs(holes, above):
            self._copy(cell, hole, count)
            self.positions[hole : hole + count] = self.positions[cell : cell + count]
        self.positions[length : self.length] = _FREE
        self.length = length

    def _copy(self, source: int, target: int, count: int) -> None:
        if count and source != target:
            self.arrays[:, :, :, target : target + count] = self.arrays[:, :, :, source : source + count]


def _within(positions: Numbers, ranges: Ranges) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(positions), bool)
    for start, end in ranges:
        chosen |= (positions >= start) & (positions < end)
    return chosen


def _runs(cells: Numbers) -> list[tuple[int, int]]:
    """Neighbouring cells together, first <= c < last."""
    if not len(cells):
        return []
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1)]


def _pairs(holes: Numbers, cells: Numbers) -> list[tuple[int, int, int]]:
    """Which cells go where, in runs: (hole, cell, count)."""
    if not len(holes):
        return []
    breaks = np.flatnonzero((np.diff(holes) != 1) | (np.diff(cells) != 1)) + 1
    groups = zip(np.split(holes, breaks), np.split(cells, breaks), strict=True)
    return [(int(hole[0]), int(cell[0]), len(hole)) for hole, cell in groups]
