"""Joins the visual tokens of an image's overview and tiles, and adds the trained row `image_newline`.

LLaVA-NeXT has two ways (`mm_patch_merge_type`, llava/model/llava_arch.py: prepare_inputs_labels_for_multimodal):

- `flat`: the overview, then the tiles one after another; no `image_newline`.
- `spatial_unpad`: `image_newline` follows an image without tiles. For an image with tiles: the overview, then the tiles
  joined to one grid, without the rows and columns that show padding (`unpad_image`), and `image_newline` after each of
  the grid's rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_interleave.errors import BundleError, one_line
from edge_interleave.util.arrays import FloatArray
from edge_interleave.vision.tiles import GRIDS


def read_newline(path: Path, hidden_size: int) -> FloatArray:
    """Read `image_newline.npy`: float32 (hidden_size,), read-only. Raises BundleError for any other content."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version of the format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            # Checked before memory is allocated: the header may claim any size.
            if dtype != np.dtype("<f4") or shape != (hidden_size,):
                raise ValueError(f"{dtype} {shape} instead of float32 ({hidden_size},)")
            raw = file.read(4 * hidden_size + 1)
    except Exception as error:  # NumPy parses the header as a Python literal, and passes on any exception of that
        raise BundleError(
            f"{path}: not a valid image_newline ({one_line(error)}); convert or pull the model again"
        ) from error
    if len(raw) != 4 * hidden_size:
        raise BundleError(f"{path}: must hold {hidden_size} values; convert or pull the model again")
    row = np.frombuffer(raw, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(row).all():
        raise BundleError(f"{path}: holds values that are not finite; convert or pull the model again")
    return row


def merge(
    parts: Sequence[FloatArray],
    image_size: tuple[int, int],
    grid: tuple[int, int],
    newline: FloatArray | None,
    *,
    ends: bool = True,
) -> FloatArray:
    """An image's visual tokens, float32 (tokens, hidden), read-only.

    `parts`: the whole image, or its overview and its tiles row by row; each float32 (side * side, hidden).
    `image_size`: width and height in pixels. `grid`: columns and rows of tiles. `newline`: `image_newline`, float32
    (hidden,), or None for the flat merge. `ends`: whether `newline` follows an image without tiles.
    """
    if newline is None or (len(parts) == 1 and not ends):
        merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
    elif len(parts) == 1:
        merged = np.concatenate([parts[0], newline[np.newaxis]])
    else:
        side = math.isqrt(len(parts[0]))
        top, bottom, left, right = _shown(image_size, grid, side)
        columns, rows, hidden = grid[0] * side, grid[1] * side, len(newline)
        # (tile rows, tile columns, side, side, hidden) -> (tile rows, side, tile columns, side, hidden)
        cells = np.stack(parts[1:]).reshape(grid[1], grid[0], side, side, hidden).transpose(0, 2, 1, 3, 4)
        cells = cells.reshape(rows, columns, hidden)[top:bottom, left:right]
        lines = np.concatenate([cells, np.broadcast_to(newline, (bottom - top, 1, hidden))], axis=1)
        merged = np.concatenate([parts[0], lines.reshape(-1, hidden)])
    merged.flags.writeable = False
    return merged


def merged_tokens(side: int, image_size: tuple[int, int], grid: tuple[int, int], *, newline: bool) -> int:
    """The number of visual tokens that `merge` returns. `side`: the side of one part's pooled grid, in tokens."""
    if grid == (1, 1):
        return side * side + newline
    if not newline:
        return side * side * (1 + grid[0] * grid[1])
    top, bottom, left, right = _shown(image_size, grid, side)
    return side * side + (bottom - top) * (right - left + 1)


def most_merged_tokens(side: int, *, newline: bool) -> int:
    """The largest number of visual tokens that `merge` returns for any image with tiles."""
    return max(side * side + rows * side * (columns * side + newline) for columns, rows in GRIDS)


def _shown(image_size: tuple[int, int], grid: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    """The part of the tiles' token grid that shows the image and not its padding: top, bottom, left, right."""
    (width, height), columns, rows = image_size, grid[0] * side, grid[1] * side
    if width / height > columns / rows:
        margin = (rows - int(height * (columns / width))) // 2
        return margin, rows - margin, 0, columns
    margin = (columns - int(width * (rows / height))) // 2
    return 0, rows, margin, columns - margin
