"""Pools the grid of an image's visual tokens to a smaller grid.

The modes are those of LLaVA-NeXT's `get_2dPool` (llava/model/llava_arch.py), with PyTorch's results. `average` and
`max` are avg_pool2d and max_pool2d with kernel = stride: rows and columns left over at the far edges are dropped.
`bilinear` is interpolate to ceil(grid / stride) with align_corners=False, without antialiasing.
"""

from __future__ import annotations

import numpy as np

from edge_interleave.bundle.manifest import FRAME, GRID, POOLING_MODES, VisionInfo
from edge_interleave.errors import UsageError
from edge_interleave.util.arrays import FloatArray


def pooled_grid(grid: int, stride: int, mode: str) -> int:
    """The side of the pooled grid: floor(grid / stride), or ceil for `bilinear`.

    Raises UsageError for an unknown mode, a stride below 1, or one that leaves no token.
    """
    if mode not in POOLING_MODES:
        raise UsageError(f"no pooling mode {mode!r}; choose one of {', '.join(POOLING_MODES)}")
    if stride < 1:
        raise UsageError(f"pooling stride {stride} is less than 1; give 1 or more")
    if mode == "bilinear":
        return -(-grid // stride)
    if stride > grid:
        raise _no_token(stride, grid)
    return grid // stride


def check_stride(vision: VisionInfo, stride: int) -> None:
    """Raise UsageError for a pooling stride above 1 if the model's visual tokens are no full grid."""
    if vision.first_patch_dropped and stride > 1:
        raise UsageError(
            f"pooling stride {stride}: this model leaves out the first patch of each image, and {vision.tokens} visual "
            "tokens are no grid that could be pooled; give stride 1 (--pool 1)"
        )


def coarsest_stride(vision: VisionInfo) -> int:
    """The pooling stride that leaves the fewest visual tokens."""
    return 1 if vision.first_patch_dropped else vision.grid


def frame_stride(vision: VisionInfo, stride: int) -> int:
    """The pooling stride of a video's frame: at least the one that the model was trained with.

    If the tower pools frames, a multiple of that: a larger stride is rounded down.
    """
    video = vision.video
    if video is None:
        return stride
    return max(stride, video.stride) if not video.before_projector else max(1, stride // video.stride) * video.stride


def frame_grid(vision: VisionInfo, stride: int, mode: str) -> tuple[int, int]:
    """The side of the grid of tokens that the tower gives for a video's frame, and the stride by which to pool it.

    `stride`: of the whole; a tower that pools frames has done a part of it. Raises UsageError as `pooled_grid`.
    """
    video, whole = vision.video, frame_stride(vision, stride)
    if video is None or not video.before_projector:
        return vision.grid, whole
    side, rest = pooled_grid(vision.grid, video.stride, mode), whole // video.stride
    if rest > side:
        raise _no_token(whole, vision.grid)
    return side, rest


def tokens_of_frame(vision: VisionInfo, stride: int, mode: str) -> int:
    """How many visual tokens a frame of a video or of a live window has, with its `image_newline` rows.

    Without the row that a model puts after a whole video. A model that was not trained on video sees a frame of a live
    window as an image. Raises UsageError as `pooled_grid` and `check_stride`.
    """
    check_stride(vision, stride)
    side = pooled_grid(*frame_grid(vision, stride, mode), mode)
    if not vision.image_newline:
        return side**2 - vision.first_patch_dropped
    place = FRAME if vision.video is None else vision.video.newline
    return side**2 + {FRAME: 1, GRID: side}.get(place, 0)


def image_tokens(vision: VisionInfo, stride: int, mode: str) -> int:
    """How many visual tokens an image without tiles has, with `image_newline`.

    Raises UsageError as `pooled_grid` and `check_stride`.
    """
    check_stride(vision, stride)
    return pooled_grid(vision.grid, stride, mode) ** 2 - vision.first_patch_dropped + vision.image_newline


def pool(tokens: FloatArray, grid: int, stride: int, mode: str) -> FloatArray:
    """Pool visual tokens, float32 (n, grid * grid, hidden) in row-major order, to (n, side * side, hidden).

    `side` is `pooled_grid(grid, stride, mode)`. Stride 1 returns `tokens` itself. Raises UsageError as `pooled_grid`.
    """
    side = pooled_grid(grid, stride, mode)
    if stride == 1:
        return tokens
    n, _, hidden = tokens.shape
    cells = tokens.reshape(n, grid, grid, hidden)
    if mode == "bilinear":
        pooled = interpolate(interpolate(cells, side, axis=1), side, axis=2)
    else:
        pooled = _blocks(cells, side, stride, mode)
    return pooled.reshape(n, side * side, hidden)


def interpolate(cells: FloatArray, side: int, axis: int) -> FloatArray:
    """Interpolate one axis linearly to `side` points; point i lies at (i + 0.5) * length / side - 0.5.

    As PyTorch's `interpolate` without antialiasing and with align_corners=False.
    """
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


def _no_token(stride: int, grid: int) -> UsageError:
    return UsageError(f"pooling stride {stride} leaves no token of a {grid} x {grid} grid; give at most {grid}")


def _blocks(cells: FloatArray, side: int, stride: int, mode: str) -> FloatArray:
    """Mean or maximum of each stride x stride block, accumulated over strided views, which need no reordered copy."""
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
