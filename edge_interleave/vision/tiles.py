"""Splits an image into an overview and tiles, each of the tower's size: multi-patch, or "anyres".

As LLaVA-NeXT and transformers do (select_best_resolution, resize_and_pad_image, divide_to_patches, unpad_image): choose
the candidate grid that keeps the most of the image's own pixels, and among equals the one with the least padding;
resize the image into it with its aspect ratio, centre it on black, and cut.

The module holds all geometry of tiles: the grid, the padding, and which cells of the tiles' token grid are kept.
`merge` joins the tokens of the parts by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from edge_interleave.bundle.manifest import TilingInfo
from edge_interleave.media.pictures.image import open_image
from edge_interleave.vision.preprocess import RESAMPLING

GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
"""Candidate grids as (columns, rows), in LLaVA-NeXT's order (for 384 pixels: 384x768, 768x384, 768x768, 1152x384,
384x1152, each height x width)."""
MAX_PARTS = 1 + max(columns * rows for columns, rows in GRIDS)
"""The largest number of parts: an overview and the tiles of the largest grid."""
ON_REQUEST = TilingInfo(GRIDS, small=False)
"""The tiles of a model that encodes images whole, unless a call requests tiles."""
_SHRINKS_ABOVE = 1.1
"""LLaVA-OneVision scales the tiles' grid down where its side exceeds the limit's by more than this factor."""


@dataclass(frozen=True)
class TokenCells:
    """Which cells of the tiles' joined token grid an image keeps."""

    top: int
    bottom: int
    left: int
    right: int
    """The part that shows the image, without padding: rows top to bottom, columns left to right, ends excluded."""
    rows: int
    columns: int
    """The size, in cells, to which that part is scaled down; its own size if it is not scaled."""


def tile_grid(image_size: tuple[int, int], side: int, tiling: TilingInfo = ON_REQUEST) -> tuple[int, int] | None:
    """The best grid (columns, rows) of tiles of `side` pixels for an image of (width, height) pixels.

    None if the image is not split.
    """
    width, height = image_size
    if not tiling.small and width <= side and height <= side:
        return None
    return max(tiling.grids, key=lambda grid: _merit(width, height, grid[0] * side, grid[1] * side))


def split_tiles(
    image: Image.Image, side: int, resample: str = "bicubic", tiling: TilingInfo = ON_REQUEST
) -> list[Image.Image]:
    """The overview, then the tiles row by row, each RGB of side x side pixels.

    The overview is the whole image squashed to a square, as in LLaVA-NeXT. An image that is not split is returned
    alone, at its own size.
    """
    image = open_image(image)
    grid = tile_grid(image.size, side, tiling)
    if grid is None:
        return [image]
    width, height = grid[0] * side, grid[1] * side
    inner = _fit(image.size, width, height)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner, RESAMPLING[resample]), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    overview = image.resize((side, side), RESAMPLING[resample])
    corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    return [overview, *(canvas.crop((x, y, x + side, y + side)) for x, y in corners)]


def token_cells(
    image_size: tuple[int, int], grid: tuple[int, int], side: int, most_tiles: int | None = None
) -> TokenCells:
    """Which cells of the tiles' token grid are kept for an image of (width, height) pixels.

    `grid`: columns and rows of tiles. `side`: tokens along one side of a tile. `most_tiles`: of `TilingInfo`.
    As transformers' `unpad_image` and LLaVA-OneVision's `pack_image_features`, including their rounding.
    """
    (width, height), columns, rows = image_size, grid[0] * side, grid[1] * side
    top = left = 0
    if width / height > columns / rows:
        top = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        left = (columns - int(round(width * (rows / height), 7))) // 2
    bottom, right = rows - top, columns - left
    rows, columns = bottom - top, right - left
    if most_tiles is not None:
        ratio = math.sqrt(rows * columns / (most_tiles * side**2))
        if ratio > _SHRINKS_ABOVE:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return TokenCells(top, bottom, left, right, rows, columns)


def most_cells(side: int, tiling: TilingInfo, *, newline: bool) -> int:
    """An upper bound of the visual tokens of an image's tiles. `newline`: whether `image_newline` ends each row."""
    most = math.inf if tiling.most_tiles is None else (_SHRINKS_ABOVE * side) ** 2 * tiling.most_tiles
    return max(int(min(columns * rows * side**2, most)) + newline * rows * side for columns, rows in tiling.grids)


def _merit(width: int, height: int, grid_width: int, grid_height: int) -> tuple[int, int]:
    """A grid's rank: first by the number of the image's pixels that it keeps, then by minus its unused pixels."""
    scale = min(grid_width / width, grid_height / height)
    kept = min(int(width * scale) * int(height * scale), width * height)
    return kept, kept - grid_width * grid_height


def _fit(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The image's size scaled to fill the grid in one direction, rounded up in the other."""
    across, down = width / size[0], height / size[1]
    if across < down:
        return width, min(math.ceil(size[1] * across), height)
    return min(math.ceil(size[0] * down), width), height
