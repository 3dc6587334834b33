"""Computes the visual tokens of images in tiles with transformers, as the oracle of comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from edge_interleave.bundle.manifest import TilingInfo

COUNT = 1000
NEWLINE = np.array([-1.0, -2.0], np.float32)


@dataclass(frozen=True)
class Family:
    """A family of models that sees images in tiles."""

    name: str
    pixels: int
    patch: int
    tiling: TilingInfo

    @cached_property
    def side(self) -> int:
        return self.pixels // self.patch

    @property
    def pinpoints(self) -> list[list[int]]:
        return [[rows * self.pixels, columns * self.pixels] for columns, rows in self.tiling.grids]


FAMILIES = {
    "llava_next": Family("llava_next", 336, 14, TilingInfo(((2, 1), (1, 2), (2, 2), (1, 3), (3, 1)))),
    "llava_next_video": Family("llava_next_video", 336, 14, TilingInfo(((2, 1), (1, 2), (2, 2), (1, 3), (3, 1)))),
    "llava_onevision": Family(
        "llava_onevision",
        384,
        14,
        TilingInfo(
            tuple((columns, rows) for rows in range(1, 7) for columns in range(1, 7)), most_tiles=9, several=False
        ),
    ),
}


def sizes() -> list[tuple[int, int]]:
    """Random (width, height); extreme shapes too."""
    exponents = np.random.default_rng(7).uniform(0, np.log(4000), (COUNT, 2))
    return [(int(width), int(height)) for width, height in np.exp(exponents).round().tolist()]


def parts(family: Family, grid: tuple[int, int]) -> np.ndarray:
    """Tokens of an overview and tiles that are all different, float32 (parts, side * side, 2)."""
    count = 1 + grid[0] * grid[1]
    numbers = np.arange(count * family.side**2, dtype=np.float32).reshape(count, family.side**2)
    return np.stack([numbers, np.sin(numbers)], axis=-1)


def checksum(tokens: np.ndarray) -> float:
    """One number that depends on each value and its place."""
    return float((tokens.astype(np.float64) @ [1.0, 3.0] * np.cos(np.arange(len(tokens)))).sum())


class Packed:
    """transformers' `pack_image_features` and `image_size_to_num_patches` of a family."""

    def __init__(self, family: Family) -> None:
        import torch

        self.family, self._torch = family, torch
        code: Any = import_module(f"transformers.models.{family.name}.modeling_{family.name}")
        self._count = code.image_size_to_num_patches
        vision = SimpleNamespace(image_size=family.pixels, patch_size=family.patch)
        self._model = SimpleNamespace(
            config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=family.pinpoints)
        )
        models = {
            "llava_next": "LlavaNextModel",
            "llava_next_video": "LlavaNextVideoModel",
            "llava_onevision": "LlavaOnevisionModel",
        }
        self._pack = getattr(code, models[family.name]).pack_image_features

    def parts(self, size: tuple[int, int]) -> int:
        """Overview and tiles of an image of (width, height)."""
        return int(self._count((size[1], size[0]), self.family.pinpoints, self.family.pixels))

    def tokens(self, features: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The image's visual tokens."""
        of_next = self.family.name.startswith("llava_next")
        more = {"vision_feature_select_strategy": "default"} if of_next else {}
        given = [self._torch.from_numpy(features)]
        shape = self._torch.tensor([[size[1], size[0]]])
        packed, _ = self._pack(self._model, given, shape, image_newline=self._torch.from_numpy(NEWLINE), **more)
        return np.asarray(packed[0].numpy())
