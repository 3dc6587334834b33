"""Many frames through the embedded model with questions in between: `benchmarks/soak.py`, shortened."""

import threading
from collections.abc import Iterator

import pytest
import soak

import edge_interleave as ei


@pytest.fixture
def model() -> Iterator[ei.Model]:
    with ei.load(threads=1) as model:
        yield model


def test_the_last_of_600_frames_cost_no_more_than_the_first(model: ei.Model) -> None:
    before = threading.active_count()
    figures = soak.soak(model, 600, window=4, pool=3)
    assert (figures.frames_given, figures.frames_in_window, figures.frames_lost) == (600, 600, 0)
    assert figures.questions == 30
    # The first frames load libraries and fill caches. A leak of one picture per frame would be 30 MB.
    assert figures.memory_end_bytes - figures.memory_after_first_bytes < 8_000_000
    assert figures.last_frame_cpu_s < 1.5 * figures.first_frame_cpu_s
    assert threading.active_count() == before


def test_a_lost_source_is_reopened_without_losing_frames(model: ei.Model) -> None:
    said: list[str] = []
    figures = soak.soak(model, 250, window=2, pool=3, die_every=100, report=said.append)
    assert (figures.deaths, figures.reconnects) == (2, 2)
    assert (figures.frames_given, figures.frames_in_window, figures.frames_lost) == (250, 250, 0)
    assert figures.questions == 12
    assert sum("gone after" in line for line in said) == 2
    assert sum("back after" in line for line in said) == 2
