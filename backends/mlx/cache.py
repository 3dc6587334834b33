"""A KV cache with gaps: entries lie in cells, in any order, and each cell has its entry's position.

mlx-lm's caches have one number for length and position, so they cannot evict from the middle. Here an evicted entry
frees its cell for a later one: nothing is copied, and the attention mask excludes free cells. Keys are stored rotated
by their positions (RoPE). To move an entry, the model's rotary embedding re-rotates its key: rotations add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

STEP = 256
"""The cache grows by this many cells."""
FREE, HELD = -1, -2
"""In place of a position: a free cell, or a cell held for an entry outside the timeline."""
Numbers = npt.NDArray[np.int64]
Rotate = Callable[..., Any]
"""A rotary embedding: rotates keys (n, heads, 1, size) by `offset` positions."""


@dataclass(frozen=True)
class Precision:
    """How keys and values are stored: as f16, or quantized in groups with a scale and an offset."""

    bits: int | None = None
    """Bits of a value; None: f16."""
    group: int = 32
    """Values that share a scale and an offset."""

    def bytes_for(self, values: int) -> int:
        """Bytes of `values` values, with f16 scales and offsets."""
        return 2 * values if self.bits is None else values * self.bits // 8 + 4 * values // self.group

    def packed(self, values: Any) -> tuple[Any, ...]:
        """The stored form of values (..., size): one array, or three (numbers, scales, offsets)."""
        values = values.astype(mx.float16)
        if self.bits is None:
            return (values,)
        return tuple(mx.quantize(values, group_size=self.group, bits=self.bits))

    def unpacked(self, parts: tuple[Any, ...]) -> Any:
        """The values of their stored form."""
        return parts[0] if self.bits is None else mx.dequantize(*parts, group_size=self.group, bits=self.bits)


class Cells:
    """The table of cells and positions, shared by all layers."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: the greatest number of entries."""
        self.capacity = capacity
        self.positions: Numbers = np.full(0, FREE, np.int64)
        """The position of each cell's entry; FREE or HELD if the cell has no entry of the timeline."""

    @property
    def length(self) -> int:
        """Number of entries in the timeline."""
        return int((self.positions >= 0).sum())

    @property
    def position(self) -> int:
        """One past the last entry's position."""
        return int(self.positions.max(initial=FREE)) + 1

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The stored positions, ascending, start <= p < end."""
        stored = np.sort(self.positions[self.positions >= 0])
        runs = np.split(stored, np.flatnonzero(np.diff(stored) != 1) + 1) if len(stored) else []
        return [(int(run[0]), int(run[-1]) + 1) for run in runs]

    def within(self, start: int, end: int) -> Numbers:
        """The cells of the entries at positions start <= p < end, in order of position."""
        there = np.flatnonzero((self.positions >= max(start, 0)) & (self.positions < end))
        return there[np.argsort(self.positions[there])]

    def all(self) -> Numbers:
        """The cells of all entries, in order of position."""
        return self.within(0, self.position)

    def hold(self, count: int) -> Numbers:
        """Hold `count` free cells and return them. There must be room."""
        free = np.flatnonzero(self.positions == FREE)
        if len(free) < count:
            used = len(self.positions) - len(free)
            size = min(self.capacity, -(-(used + count) // STEP) * STEP)
            self.positions = np.concatenate((self.positions, np.full(size - len(self.positions), FREE, np.int64)))
            free = np.flatnonzero(self.positions == FREE)
        taken = free[:count]
        self.positions[taken] = HELD
        return taken

    def free(self, cells: Numbers) -> None:
        """Free cells."""
        self.positions[cells] = FREE


class LayerCache:
    """One layer's keys and values, each (1, kv heads, cells, ...). mlx-lm's attention takes it as its cache."""

    def __init__(self, owner: GapCache, rotate: Rotate) -> None:
        self._owner = owner
        self._rotate = rotate
        self.keys: tuple[Any, ...] = ()
        self.values: tuple[Any, ...] = ()

    @property
    def offset(self) -> int:
        """Position of the first entry being appended."""
        return self._owner.start

    def make_mask(self, count: int, **_: Any) -> Any:
        """The attention mask, bool (new entries, cells)."""
        return self._owner.mask

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Store new entries, (1, kv heads, n, size), and return all cells."""
        precision = self._owner.precision
        self.keys = self._with(self.keys, precision.packed(keys))
        self.values = self._with(self.values, precision.packed(values))
        self._owner.on_layer((*self.keys, *self.values))
        if precision.bits is None:
            return self.keys[0], self.values[0]
        return self.keys, self.values

    def rotate(self, cells: Numbers, by: int) -> None:
        """Rotate the keys of some cells by a distance."""
        chosen, precision = mx.array(cells), self._owner.precision
        keys = precision.unpacked(tuple(part[:, :, chosen] for part in self.keys))
        turned = self._rotate(keys.transpose(2, 1, 0, 3).astype(mx.float32), offset=by).transpose(2, 1, 0, 3)
        packed = precision.packed(turned)
        # Evaluated first: MLX would write into a copy of the cells while a read of them is pending.
        mx.eval(packed)
        for part, new in zip(self.keys, packed, strict=True):
            part[:, :, chosen] = new
        mx.eval(self.keys)

    def _with(self, held: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
        """The cells with new entries. MLX writes in place if no one else holds the array."""
        count = len(self._owner.cells.positions)
        more = count - (held[0].shape[2] if held else 0)
        if more:
            blank = [mx.zeros((*part.shape[:2], more, part.shape[3]), part.dtype) for part in new]
            held = tuple(mx.concatenate(pair, 2) for pair in zip(held, blank, strict=True)) if held else tuple(blank)
        for first, last, begin in self._owner.runs:
            for old, part in zip(held, new, strict=True):
                old[:, :, first:last] = part[:, :, begin : begin + last - first]
        return held


class QuantizedLayerCache(LayerCache):
    """A quantized cache, which mlx-lm's attention recognises by `bits`."""

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return self._owner.precision.bits or 0

    @property
    def group_size(self) -> int:
        """Values that share a scale and an offset."""
        return self._owner.precision.group


class GapCache:
    """All layers' cells. Call `begin`, then run the model with `layers` as its cache: it stores the entries."""

    def __init__(
        self,
        rotations: Sequence[Rotate],
        capacity: int,
        precision: Precision,
        on_layer: Callable[[tuple[Any, ...]], None] = lambda _: None,
    ) -> None:
        """`rotations`: each layer's rotary embedding. `on_layer` gets the arrays that a layer stores at each append."""
        self.cells = Cells(capacity)
        self.precision = precision
        self.on_layer = on_layer
        self.start = 0
        self.mask: Any = None
        self.runs: list[tuple[int, int, int]] = []
        """Cells first <= c < last for the new entries from `begin` on."""
        kind = LayerCache if precision.bits is None else QuantizedLayerCache
        self.layers = [kind(self, rotate) for rotate in rotations]

    def begin(self, start: int, count: int, visible: npt.NDArray[np.bool_]) -> Numbers:
        """Hold cells for `count` entries, at positions from `start` on, and return the cells.

        Each entry attends to those before it and to the `visible` cells, bool (cells,) or shorter.
        """
        taken = self.cells.hold(count)
        mask = np.zeros((count, len(self.cells.positions)), bool)
        mask[:, : len(visible)] = visible
        mask[:, taken] = np.tri(count, dtype=bool)
        self.start = start
        self.mask = mx.array(mask)
        self.runs = list(_runs(taken))
        return taken

    def begin_at_the_end(self, start: int, count: int) -> Numbers:
        """Like `begin`, for entries that extend the timeline and attend to all of it."""
        taken = self.begin(start, count, self.cells.positions >= 0)
        self.cells.positions[taken] = np.arange(start, start + count)
        return taken

    def move(self, cells: Numbers, to: Numbers) -> None:
        """Move the entries in some cells to other positions."""
        by = to - self.cells.positions[cells]
        for distance in np.unique(by[by != 0]):
            for layer in self.layers:
                layer.rotate(cells[by == distance], int(distance))
        self.cells.positions[cells] = to

    def clear(self) -> None:
        """Remove all entries and free the memory."""
        self.cells = Cells(self.cells.capacity)
        self.mask = None
        for layer in self.layers:
            layer.keys = layer.values = ()

    def arrays(self) -> list[Any]:
        """All stored arrays, each (1, kv heads, cells, ...), in a fixed order."""
        return [part for layer in self.layers for part in (*layer.keys, *layer.values)]

    def fill(self, positions: Numbers, arrays: Sequence[Any]) -> None:
        """Replace all entries. `arrays`: like the result of the method `arrays`, with one cell for each position."""
        self.clear()
        if not len(positions):
            return
        taken = self.cells.hold(len(positions))
        self.cells.positions[taken] = positions
        self.runs = list(_runs(taken))
        parts = len(self.precision.packed(mx.zeros((1, 1, 1, self.precision.group))))
        each = iter(arrays)
        for layer in self.layers:
            layer.keys = layer._with((), tuple(next(each) for _ in range(parts)))
            layer.values = layer._with((), tuple(next(each) for _ in range(parts)))
            mx.eval(layer.keys, layer.values)


def _runs(cells: Numbers) -> Iterator[tuple[int, int, int]]:
    """Runs of neighbouring cells: first cell, one past the last cell, index of the first cell in `cells`."""
    begin = 0
    for run in np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1):
        yield int(run[0]), int(run[-1]) + 1, begin
        begin += len(run)
