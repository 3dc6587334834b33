"""Models trained with tiles (LLaVA-NeXT, LLaVA-OneVision): their visual tokens are those of transformers."""

from __future__ import annotations

import numpy as np
import pytest
from support import tiles_oracle as oracle
from support.paths import GOLDEN_FOLDER

from edge_interleave.vision.merge import merge, merged_tokens, most_merged_tokens
from edge_interleave.vision.tiles import tile_grid

FAMILIES = tuple(oracle.FAMILIES)


def ours(family: oracle.Family, size: tuple[int, int]) -> np.ndarray:
    grid = tile_grid(size, family.pixels, family.tiling)
    assert grid is not None
    most = family.tiling.most_tiles
    tokens = merge(list(oracle.parts(family, grid)), size, grid, oracle.NEWLINE, most_tiles=most)
    counted = merged_tokens(family.side, size, grid, newline=True, most_tiles=most)
    assert len(tokens) == counted <= most_merged_tokens(family.side, family.tiling, newline=True)
    return tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_images_of_a_thousand_sizes_have_the_parts_and_tokens_of_transformers(name: str) -> None:
    golden, family = np.load(GOLDEN_FOLDER / "tiles.npz"), oracle.FAMILIES[name]
    expected = (golden[f"{name}/parts"].tolist(), golden[f"{name}/tokens"].tolist(), golden[f"{name}/checksums"])
    for size, parts, length, checksum in zip(oracle.sizes(), *expected, strict=True):
        grid = tile_grid(size, family.pixels, family.tiling)
        assert grid is not None
        assert 1 + grid[0] * grid[1] == parts, size
        tokens = ours(family, size)
        assert len(tokens) == length, size
        assert abs(oracle.checksum(tokens) - checksum) < 1e-7 * len(tokens) * np.abs(tokens).max(), size


@pytest.mark.oracle
@pytest.mark.parametrize("name", FAMILIES)
def test_each_token_of_a_thousand_sizes_equals_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    family = oracle.FAMILIES[name]
    theirs = oracle.Packed(family)
    for size in oracle.sizes():
        grid = tile_grid(size, family.pixels, family.tiling)
        assert grid is not None
        assert 1 + grid[0] * grid[1] == theirs.parts(size), size
        expected, tokens = theirs.tokens(oracle.parts(family, grid), size), ours(family, size)
        assert tokens.shape == expected.shape, size
        np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-2, err_msg=str(size))


def test_a_newline_ends_each_row_of_tiles_after_the_overview() -> None:
    family = oracle.FAMILIES["llava_next"]
    tokens = ours(family, (672, 672))
    rows = tokens[family.side**2 :].reshape(2 * family.side, 2 * family.side + 1, 2)
    assert (rows[:, -1] == oracle.NEWLINE).all()
    assert (rows[:, :-1, 0] >= family.side**2).all()


def test_a_grid_of_more_than_nine_tiles_is_scaled_down_to_nine_tiles_worth() -> None:
    family = oracle.FAMILIES["llava_onevision"]
    assert tile_grid((2304, 2304), family.pixels, family.tiling) == (6, 6)
    side = 3 * family.side
    assert len(ours(family, (2304, 2304))) == family.side**2 + side * (side + 1)


def test_a_small_image_is_split_too_as_in_training() -> None:
    assert tile_grid((100, 100), 384, oracle.FAMILIES["llava_onevision"].tiling) == (1, 1)
    assert tile_grid((100, 100), 336, oracle.FAMILIES["llava_next"].tiling) == (2, 1)
