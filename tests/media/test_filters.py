"""The rate limiter, the change filter, and the thumbnails that pictures are compared by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.pictures import noisy, picture

from edge_interleave.errors import UsageError
from edge_interleave.media.filters import ChangeFilter, RateLimiter, thumbnail


@pytest.mark.parametrize(
    ("had", "wanted"), [(30, 2), (30, 10), (29.97, 5), (25, 10), (10, 10), (30, 29), (10, 30), (1, 0.25)]
)
def test_the_rate_is_kept_on_average_and_evenly(had: float, wanted: float) -> None:
    rate = RateLimiter(wanted)
    times = [round(index / had, 3) for index in range(int(had * 40))]
    taken = [time_s for time_s in times if rate.take(time_s)]
    assert taken[0] == 0
    assert len(taken) == pytest.approx(40 * min(had, wanted), rel=0.02, abs=1)
    assert max(np.diff(taken)) <= 1 / min(had, wanted) + 1 / had + 0.002


def test_a_pause_is_not_caught_up() -> None:
    rate = RateLimiter(1)
    assert [rate.take(time_s) for time_s in (0, 0.5, 1, 100, 100.5, 100.9, 101, 101.5)] == [
        *(True, False, True),
        *(True, False, False, True, False),
    ]


def test_a_time_that_falls_starts_anew() -> None:
    rate = RateLimiter(1)
    assert [rate.take(time_s) for time_s in (50, 0, 0.5, 1)] == [True, True, False, True]


def shown(level: int) -> Image.Image:
    return Image.new("RGB", (320, 240), (level, level, level))


def test_only_changes_pass_and_slow_changes_add_up() -> None:
    change = ChangeFilter(5)
    levels = (100, 102, 104, 105, 107, 109, 110, 90, 110)
    assert [level for level in levels if change.take(shown(level))] == [100, 105, 110, 90, 110]


def test_noise_is_no_change_and_a_new_object_is_one() -> None:
    scene = picture(640, 480)
    change = ChangeFilter(0.5)
    assert change.take(noisy(scene, 0))
    assert not any(change.take(noisy(scene, seed)) for seed in range(1, 6))
    # A twelfth of the width and height.
    scene.paste((255, 255, 255), (300, 200, 353, 240))
    assert change.take(noisy(scene, 7))


@pytest.mark.parametrize("size", [(1, 1), (5, 3000), (32, 32), (33, 31), (1920, 1080)])
def test_a_thumbnail_holds_the_mean_of_each_area(size: tuple[int, int]) -> None:
    image = picture(*size)
    small = thumbnail(image)
    assert small.shape == (32, 32)
    exact = np.asarray(image.resize((32, 32), Image.Resampling.BOX).convert("L"), np.int16)
    assert np.abs(small - exact).mean() < 3


@pytest.mark.parametrize(
    "make",
    [lambda: RateLimiter(0), lambda: RateLimiter(-1), lambda: RateLimiter(float("nan")), lambda: ChangeFilter(-1)],
)
def test_invalid_limits_are_usage_errors(make: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        make()
