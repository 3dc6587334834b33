"""Tiles equal those of LLaVA-NeXT's anyres."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support import vision_oracle as oracle
from support.paths import GOLDEN_FOLDER
from support.pictures import photograph, picture

from edge_interleave.media.pictures.image import open_image
from edge_interleave.vision.tiles import MAX_PARTS, split_tiles, tile_grid

GOLDEN = np.load(GOLDEN_FOLDER / "vision.npz")


def test_the_grid_is_that_of_select_best_resolution() -> None:
    compared = 0
    for size, grid in zip(GOLDEN["tiles/sizes"].tolist(), GOLDEN["tiles/grids"].tolist(), strict=True):
        if max(size) > 384:
            compared += 1
            assert list(tile_grid(tuple(size), 384)) == grid, size
    assert compared > 200


def test_an_image_no_larger_than_a_tile_is_not_split() -> None:
    for size in [(384, 384), (1, 1), (384, 20)]:
        assert tile_grid(size, 384) is None
        (only,) = split_tiles(picture(*size), 384)
        assert only.size == size


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_an_image_that_shrinks_below_a_pixel_is_still_split(size: tuple[int, int]) -> None:
    overview, *tiles = split_tiles(Image.new("RGB", size, "white"), 384)
    assert np.asarray(overview).min() == 255
    assert len(tiles) == 2
    assert max(np.asarray(tile).max() for tile in tiles) == 255


def test_overview_first_then_tiles_row_by_row() -> None:
    quarters = np.zeros((80, 80, 3), np.uint8)
    quarters[:40, :40, 0] = quarters[:40, 40:, 1] = quarters[40:, :40, 2] = quarters[40:, 40:] = 255
    overview, *tiles = split_tiles(Image.fromarray(quarters), 40)
    assert overview.size == (40, 40)
    assert np.abs(np.asarray(overview).mean(axis=(0, 1)) - 127.5).max() < 1
    centres = [tile.getpixel((20, 20)) for tile in tiles]
    assert centres == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_padding_is_black_on_both_sides() -> None:
    _, left, right = split_tiles(Image.new("RGB", (100, 40), "white"), 50)
    for tile in (left, right):
        rows = np.asarray(tile).max(axis=(1, 2))
        assert rows[:5].tolist() == [0] * 5
        assert rows[5:45].min() == 255
        assert rows[45:].tolist() == [0] * 5


def test_no_image_gives_more_than_max_parts() -> None:
    counts = {len(split_tiles(picture(*size), 20)) for size in [(21, 20), (40, 40), (500, 20), (20, 500), (999, 999)]}
    assert max(counts) == MAX_PARTS


@pytest.mark.oracle
def test_the_choice_of_grid_equals_transformers_live() -> None:
    pytest.importorskip("transformers")
    generator = np.random.default_rng(1)
    for width, height in generator.integers(1, 3000, (2000, 2)).tolist():
        expected = oracle.tile_grid((width, height), 384)
        if max(width, height) > 384:
            assert tile_grid((width, height), 384) == expected, (width, height)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "source", ["coffee.png", "hubble_deep_field.jpg", "retina.jpg", (1000, 300), (301, 997), (1, 900)]
)
def test_overview_and_tiles_equal_transformers(source: str | tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    image = open_image(photograph(source)) if isinstance(source, str) else picture(*source)
    theirs = oracle.tiled(image, 384)
    ours = [np.asarray(part).transpose(2, 0, 1) for part in split_tiles(image, 384)]
    assert len(ours) == len(theirs)
    for part, expected in zip(ours, theirs, strict=True):
        assert np.abs(part.astype(int) - expected).max() <= 1
