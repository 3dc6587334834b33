"""Joins the visual tokens of an image's overview and tiles, and adds the trained row `image_newline`.

LLaVA-NeXT has two modes (`mm_patch_merge_type`, llava/model/llava_arch.py: prepare_inputs_labels_for_multimodal):

- `flat`: the overview, then the tiles one after another; no `image_newline`.
- `spatial_unpad`: `image_newline` follows an image without tiles; in LLaVA-Video it follows each row of a frame's grid
  (`add_token_per_grid`). For an image with tiles: the overview, then the tiles
  joined to one grid, without the rows and columns that show padding (`unpad_image`), and `image_newline` after each of
  the grid's rows. LLaVA-OneVision (`anyres_max_9`) first scales a grid of more than nine tiles' worth of tokens down,
  bilinearly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_interleave.bundle.manifest import TilingInfo
from edge_interleave.errors import BundleError, one_line
from edge_interleave.util.arrays import FloatArray
from edge_interleave.vision.pooling import interpolate
from edge_interleave.vision.tiles import ON_REQUEST, most_cells, token_cells


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
    except Exception as error:  # NumPy parses the header as a Python literal, which can raise anything
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
    grid: tuple[int, int] | None,
    newline: FloatArray | None,
    *,
    most_tiles: int | None = None,
    ends: bool = True,
    rows: bool = False,
) -> FloatArray:
    """Join the parts of an image to its visual tokens, float32 (tokens, hidden), read-only.

    `parts`: the whole image, or its overview and its tiles row by row; each float32 (side * side, hidden).
    `image_size`: width and height in pixels. `grid`: columns and rows of tiles, or None for the whole image. `newline`:
    `image_newline`, float32 (hidden,), or None for the flat merge. `most_tiles`: see `TilingInfo`. `ends`: whether
    `newline` follows an image without tiles. `rows`: whether `newline` follows each row of its grid.
    """
    if newline is None or (grid is None and not ends and not rows):
        merged = parts[0] if len(parts) == 1 else np.concatenate(parts)
    elif grid is None and rows:
        side = math.isqrt(len(parts[0]))
        merged = _with_row_ends(parts[0].reshape(side, side, -1), newline)
    elif grid is None:
        merged = np.concatenate([parts[0], newline[np.newaxis]])
    else:
        side, hidden = math.isqrt(len(parts[0])), len(newline)
        kept = token_cells(image_size, grid, side, most_tiles)
        # (tile rows, tile columns, side, side, hidden) -> (tile rows, side, tile columns, side, hidden)
        cells = np.stack(parts[1:]).reshape(grid[1], grid[0], side, side, hidden).transpose(0, 2, 1, 3, 4)
        cells = cells.reshape(grid[1] * side, grid[0] * side, hidden)[kept.top : kept.bottom, kept.left : kept.right]
        if cells.shape[:2] != (kept.rows, kept.columns):
            cells = interpolate(interpolate(cells, kept.rows, axis=0), kept.columns, axis=1)
        merged = np.concatenate([parts[0], _with_row_ends(cells, newline)])
    merged.flags.writeable = False
    return merged


def merged_tokens(
    side: int,
    image_size: tuple[int, int],
    grid: tuple[int, int] | None,
    *,
    newline: bool,
    most_tiles: int | None = None,
) -> int:
    """The number of visual tokens that `merge` returns. `side`: the side of one part's pooled grid, in tokens."""
    if grid is None:
        return side * side + newline
    if not newline:
        return side * side * (1 + grid[0] * grid[1])
    kept = token_cells(image_size, grid, side, most_tiles)
    return side * side + kept.rows * (kept.columns + 1)


def most_merged_tokens(side: int, tiling: TilingInfo = ON_REQUEST, *, newline: bool) -> int:
    """An upper bound of the visual tokens that `merge` returns for any image with tiles."""
    return side * side + most_cells(side, tiling, newline=newline)


def _with_row_ends(cells: FloatArray, newline: FloatArray) -> FloatArray:
    """A grid of tokens, (rows, columns, hidden), row by row with `newline` after each row."""
    rows, _, hidden = cells.shape
    lines: FloatArray = np.concatenate([cells, np.broadcast_to(newline, (rows, 1, hidden))], axis=1)
    return lines.reshape(-1, hidden)
