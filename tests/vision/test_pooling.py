"""Pooling equals PyTorch's to 1e-5."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support import vision_oracle as oracle
from support.paths import GOLDEN_FOLDER
from support.pictures import vision_info

from edge_interleave.bundle.manifest import NO_TOKEN, POOLING_MODES, VideoInfo
from edge_interleave.errors import UsageError
from edge_interleave.vision.pooling import frame_grid, pool, pooled_grid

GOLDEN = np.load(GOLDEN_FOLDER / "vision.npz")


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_equals_pytorch_as_stored(mode: str, stride: int) -> None:
    ours = pool(oracle.tokens(1, 27, 2), 27, stride, mode)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, GOLDEN[f"pool/{mode}/{stride}"], rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("grid", [1, 2, 5, 8, 16, 24, 27])
def test_equals_pytorch_live(mode: str, grid: int) -> None:
    pytest.importorskip("torch")
    rows = oracle.tokens(3, grid, 17)
    for stride in range(1, grid + 1):
        np.testing.assert_allclose(
            pool(rows, grid, stride, mode), oracle.pooled(rows, grid, stride, mode), rtol=0, atol=1e-5
        )


def test_the_side_of_the_pooled_grid() -> None:
    sides = {mode: [pooled_grid(27, stride, mode) for stride in (1, 2, 3, 4, 27)] for mode in POOLING_MODES}
    assert sides == {"average": [27, 13, 9, 6, 1], "max": [27, 13, 9, 6, 1], "bilinear": [27, 14, 9, 7, 1]}


def test_average_and_max_of_a_small_grid_computed_by_hand() -> None:
    rows = np.arange(25, dtype=np.float32).reshape(1, 25, 1)
    assert pool(rows, 5, 2, "average")[0, :, 0].tolist() == [3, 5, 13, 15]
    assert pool(rows, 5, 2, "max")[0, :, 0].tolist() == [6, 8, 16, 18]


def test_bilinear_keeps_a_slope() -> None:
    rows = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 16, 1)
    assert pool(rows, 4, 2, "bilinear")[0, :, 0].tolist() == [0.5, 0.5, 2.5, 2.5]


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_the_input_is_not_changed(mode: str) -> None:
    rows = oracle.tokens(2, 9, 5)
    rows.flags.writeable = False
    pool(rows, 9, 2, mode)
    assert (rows == oracle.tokens(2, 9, 5)).all()


@pytest.mark.parametrize(
    ("stride", "mode", "complaint"),
    [
        (0, "average", "stride 0 is less than 1"),
        (-2, "bilinear", "stride -2 is less than 1"),
        (28, "average", "leaves no token of a 27 x 27 grid"),
        (28, "max", "leaves no token"),
        (2, "median", "no pooling mode 'median'; choose one of average"),
    ],
)
def test_invalid_strides_and_modes_are_usage_errors(stride: int, mode: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        pooled_grid(27, stride, mode)
    with pytest.raises(UsageError, match=complaint):
        pool(oracle.tokens(1, 27, 2), 27, stride, mode)


def test_a_stride_too_large_for_frames_pooled_in_the_tower_is_named_in_strides_of_the_whole_grid() -> None:
    vision = replace(vision_info(), grid=4, video=VideoInfo(2, "crop", NO_TOKEN, before_projector=True))
    assert frame_grid(vision, 5, "average") == (2, 2)
    with pytest.raises(UsageError, match="stride 8 leaves no token of a 4 x 4 grid; give at most 4"):
        frame_grid(vision, 9, "average")
