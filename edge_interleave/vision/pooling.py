"""Fewer visual tokens: the grid of one image pooled to a smaller grid.

The same sums as PyTorch's, for the modes that LLaVA-NeXT's `get_2dPool` (llava/model/llava_arch.py) knows:
`average` is avg_pool2d and `max` is max_pool2d with kernel = stride (rows and columns left over at the far edges are
dropped), `bilinear` is interpolate to ceil(grid / stride) with align_corners=False and without antialiasing.
"""

from __future__ import annotations

import numpy as np

from edge_interleave.bundle.manifest import POOLING_MODES, VisionInfo
from edge_interleave.errors import UsageError
from edge_interleave.util.arrays import FloatArray


def pooled_grid(grid: int, stride: int, mode: str) -> int:
    """Side of the pooled grid: floor(grid / stride), for `bilinear` ceil. Raises UsageError where nothing is left."""
    if mode not in POOLING_MODES:
        raise UsageError(f"no pooling mode {mode!r}; choose one of {', '.join(POOLING_MODES)}")
    if stride < 1:
        raise UsageError(f"pooling stride {stride} makes no sense; give 1 or more")
    if mode == "bilinear":
        return -(-grid // stride)
    if stride > grid:
        raise UsageError(f"pooling stride {stride} leaves nothing of a {grid} x {grid} grid; give at most {grid}")
    return grid // stride


def image_tokens(vision: VisionInfo, stride: int, mode: str) -> int:
    """Visual tokens that an image in one part takes in the decoder, `image_newline` included. Raises UsageError."""
    return pooled_grid(vision.grid, stride, mode) ** 2 + vision.image_newline


def pool(tokens: FloatArray, grid: int, stride: int, mode: str) -> FloatArray:
    """Pool float32 of shape (n, grid * grid, hidden), row by row, to (n, side * side, hidden).

    `side` is `pooled_grid`. Stride 1 gives the tokens back as they are. Raises UsageError as `pooled_grid` does.
    """
    side = pooled_grid(grid, stride, mode)
    if stride == 1:
        return tokens
    n, _, hidden = tokens.shape
    cells = tokens.reshape(n, grid, grid, hidden)
    if mode == "bilinear":
        pooled = _interpolate(_interpolate(cells, side, axis=1), side, axis=2)
    else:
        pooled = _blocks(cells, side, stride, mode)
    return pooled.reshape(n, side * side, hidden)


def _blocks(cells: FloatArray, side: int, stride: int, mode: str) -> FloatArray:
    """Sum or maximum over stride x stride blocks, one strided view at a time: no copy of the whole in blocks."""
    edge = side * stride
    combine = np.add if mode == "average" else np.maximum
    pooled = cells[:, :edge:stride, :edge:stride].copy()
    for row in range(stride):
        for column in range(stride):
            if row or column:
                combine(pooled, cells[:, row:edge:stride, column:edge:stride], out=pooled)
    if mode == "average":
        pooled /= np.float32(stride * stride)
    return pooled


def _interpolate(cells: FloatArray, side: int, axis: int) -> FloatArray:
    """Linear interpolation of one axis to `side` points: point i lies at (i + 0.5) * length / side - 0.5."""
    length = cells.shape[axis]
    place = np.maximum((np.arange(side) + 0.5) * (length / side) - 0.5, 0.0)
    low = place.astype(np.intp)
    high = np.minimum(low + 1, length - 1)
    weight = np.expand_dims((place - low).astype(np.float32), [i for i in range(cells.ndim) if i != axis])
    start: FloatArray = np.take(cells, low, axis)
    end: FloatArray = np.take(cells, high, axis)
    end -= start
    end *= weight
    start += end
    return start
