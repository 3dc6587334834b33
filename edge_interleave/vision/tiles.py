"""Splits a large image into an overview and tiles, each of the tower's size: multi-patch, or "anyres".

As LLaVA-NeXT does (llava/mm_utils.py: select_best_resolution, resize_and_pad_image, divide_to_patches): choose the
candidate grid that keeps the most of the image's own pixels, and among equals the one with the least padding; resize
the image into it with its aspect ratio, centre it on black, and cut. `merge` joins the tokens of the parts again.
"""

from __future__ import annotations

import math

from PIL import Image

from edge_interleave.media.pictures.image import open_image
from edge_interleave.vision.preprocess import RESAMPLING

GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
"""Candidate grids as (columns, rows), in LLaVA-NeXT's order (for 384 pixels: 384x768, 768x384, 768x768, 1152x384,
384x1152, each height x width): the first of equal candidates wins."""
MAX_PARTS = 1 + max(columns * rows for columns, rows in GRIDS)
"""The largest number of parts: an overview and the tiles of the largest grid."""


def tile_grid(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """The best grid (columns, rows) of tiles of `side` pixels for an image of (width, height) pixels.

    (1, 1) for an image no larger than one tile, which tiles would only magnify.
    """
    width, height = image_size
    if width <= side and height <= side:
        return (1, 1)
    return max(GRIDS, key=lambda grid: _merit(width, height, grid[0] * side, grid[1] * side))


def split_tiles(image: Image.Image, side: int, resample: str = "bicubic") -> list[Image.Image]:
    """The overview, then the tiles row by row, each RGB of side x side pixels.

    The overview is the whole image squashed to a square, as in LLaVA-NeXT. An image no larger than one tile is returned
    alone, at its own size.
    """
    image = open_image(image)
    columns, rows = tile_grid(image.size, side)
    if (columns, rows) == (1, 1):
        return [image]
    width, height = columns * side, rows * side
    inner = _fit(image.size, width, height)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner, RESAMPLING[resample]), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    overview = image.resize((side, side), RESAMPLING[resample])
    corners = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    return [overview, *(canvas.crop((x, y, x + side, y + side)) for x, y in corners)]


def _merit(width: int, height: int, grid_width: int, grid_height: int) -> tuple[int, int]:
    """For comparing grids: the image's pixels that the grid keeps, then minus the grid's wasted pixels."""
    scale = min(grid_width / width, grid_height / height)
    kept = min(int(width * scale) * int(height * scale), width * height)
    return kept, kept - grid_width * grid_height


def _fit(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """The image's size when it fills the grid in one direction; rounded up in the other."""
    across, down = width / size[0], height / size[1]
    if across < down:
        return width, min(math.ceil(size[1] * across), height)
    return min(math.ceil(size[0] * down), width), height
