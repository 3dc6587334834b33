"""The pool's pictures on the training device: copied to a GPU as they are drawn, or read from files on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pipeline import Pipeline
from precision import DEVICE
from torch import Tensor


@dataclass(frozen=True)
class Shown:
    """n pictures with their targets."""

    pixels: Tensor
    """(n, side, side, 3) uint8."""
    labels: Tensor
    """(n, grid, grid, 6) int64, as `pool.patch_labels`."""
    items: Tensor
    """(n, ITEMS, 2) int64, as `pool.listed_items`."""
    effects: Tensor
    """(n, EFFECTS) float32."""


def joined(one: Shown, other: Shown) -> Shown:
    """Both sets of pictures as one."""
    pairs = ((one.pixels, other.pixels), (one.labels, other.labels), (one.items, other.items))
    return Shown(*map(torch.cat, pairs), torch.cat((one.effects, other.effects)))


class Pictures:
    """The pool's arrays, by row."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._arrays = pipeline.arrays
        self._ranges: list[tuple[int, int]] = []
        self._kept = None
        if DEVICE.type != "cpu":
            self._kept = [torch.zeros(a.shape, dtype=_dtype(a), device=DEVICE) for a in self._all()]
        self.refresh()

    def refresh(self) -> int:
        """Add newly drawn pictures; returns the number of pictures."""
        before = self._ranges or [(first, first) for first, _ in self._pipeline.drawn()]
        self._ranges = self._pipeline.drawn()
        if self._kept is not None:
            for (_, first), (_, last) in zip(before, self._ranges, strict=True):
                for array, kept in zip(self._all(), self._kept, strict=True):
                    if last > first:
                        kept[first:last] = torch.from_numpy(np.array(array[first:last])).to(DEVICE)
        self._rows = np.concatenate([np.arange(first, last) for first, last in self._ranges])
        return len(self._rows)

    def some(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Sorted random rows of `count` drawn pictures."""
        return np.sort(self._rows[rng.integers(0, len(self._rows), count)])

    def get(self, rows: np.ndarray) -> Shown:
        """The pictures of the given rows."""
        if self._kept is not None:
            at = torch.from_numpy(rows.astype(np.int64)).to(DEVICE)
            pixels, labels, items, effects = (kept[at] for kept in self._kept)
        else:
            pixels, labels, items, effects = (torch.from_numpy(array[rows]) for array in self._all())
        return Shown(pixels, labels.long(), items.long(), effects)

    def _all(self) -> tuple[np.ndarray, ...]:
        arrays = self._arrays
        return arrays.pixels, arrays.labels, arrays.items, arrays.effects


def _dtype(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
