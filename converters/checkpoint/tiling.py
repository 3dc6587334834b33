"""Reads from `config.json` how a model was trained to see images in tiles.

The fields are `image_grid_pinpoints`, the candidate sizes in pixels, and `vision_aspect_ratio` (Hugging Face) or
`image_aspect_ratio` (original), which is `anyres` or `anyres_max_N`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edge_interleave.bundle.manifest import GRID_SIDE_MAX, GRIDS_MAX
from edge_interleave.util.json_fields import JsonFields

_LIMITED = re.compile(r"anyres_max_([1-9]\d?)")
_RANGE = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")

Grids = tuple[tuple[int, int], ...]


def most_tiles(fields: JsonFields, key: str, default: str | None = None) -> int | None:
    """The number in `anyres_max_N`; None for any other value of the field."""
    value = fields.raw.get(key, default)
    found = _LIMITED.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else int(found[1])


def read_grids(fields: JsonFields, image_size: int, default: Grids, *, width_first: bool = False) -> Grids:
    """`image_grid_pinpoints` as (columns, rows) of tiles.

    `default`: the grids if the field is absent, or () if it must be present. The field is a list of sizes in pixels,
    each a multiple of the tower's image size, or, in the original layout, `"(1x1),...,(6x6)"`: all grids from 1 x 1 to
    6 x 6 tiles. `width_first`: the original code takes a pair as width and
    height, transformers as height and width; the order decides between equally good grids. Raises CheckpointError.
    """
    value = fields.raw.get("image_grid_pinpoints")
    if value is None and default:
        return default
    if isinstance(value, str):
        found = _RANGE.fullmatch(value.replace(" ", ""))
        if found is None:
            raise fields.error("image_grid_pinpoints", "a list of sizes, or a range like '(1x1),...,(6x6)'")
        first_a, first_b, last_a, last_b = (int(side) for side in found.groups())
        grids: Grids = tuple(
            (a, b) if width_first else (b, a)
            for a in range(first_a, min(last_a, GRID_SIDE_MAX + 1) + 1)
            for b in range(first_b, min(last_b, GRID_SIDE_MAX + 1) + 1)
        )
    else:
        listed: Sequence[Any] = value if isinstance(value, list) else ()
        tiles = [(size[0] // image_size, size[1] // image_size) for size in listed if _is_size(size, image_size)]
        grids = tuple(pair if width_first else pair[::-1] for pair in tiles)
        fields.expect(
            "image_grid_pinpoints",
            len(grids) == len(listed),
            f"a list of pairs of pixels, each a multiple of {image_size} pixels, the tower's image size",
        )
    fields.expect(
        "image_grid_pinpoints",
        0 < len(grids) <= GRIDS_MAX and all(0 < side <= GRID_SIDE_MAX for grid in grids for side in grid),
        f"1 to {GRIDS_MAX} sizes of at most {GRID_SIDE_MAX} x {GRID_SIDE_MAX} tiles",
    )
    return grids


def _is_size(size: Any, image_size: int) -> bool:
    return (
        isinstance(size, list)
        and len(size) == 2
        and all(type(edge) is int and edge > 0 and edge % image_size == 0 for edge in size)
    )
