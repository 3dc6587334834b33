"""The KV cache for MLX alone, and MLX's count of its memory."""

from __future__ import annotations

import gc

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")

from edge_interleave.backends.mlx.cache import FREE, STEP, Cells, GapCache, Precision  # noqa: E402

HEADS, WIDTH, LAYERS = 2, 64, 2
PRECISIONS = {"f16": Precision(), "q8_0": Precision(8, 64), "q4_0": Precision(4, 64)}
ROUNDED = {"f16": 2e-3, "q8_0": 0.05, "q4_0": 0.8}
"""Greatest difference of two keys of normal values, one rounded, rotated and rounded again, the other rounded once: one
and a half steps of a range of about 7, and as much again for the rotation."""


@pytest.fixture(params=PRECISIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cache_of(name: str, capacity: int, layers: int = LAYERS) -> GapCache:
    return GapCache([nn.RoPE(WIDTH)] * layers, capacity, PRECISIONS[name])


def values(count: int, seed: int = 0) -> mx.array:
    drawn = np.random.default_rng(seed).standard_normal((1, HEADS, count, WIDTH))
    return mx.array(drawn.astype(np.float32))


def append(cache: GapCache, rows: mx.array, start: int | None = None) -> None:
    """Store rows as keys, rotated by their positions, and as values, in every layer, like a model."""
    begin = cache.cells.position if start is None else start
    cache.begin_at_the_end(begin, rows.shape[2])
    for layer in cache.layers:
        layer.update_and_fetch(nn.RoPE(WIDTH)(rows, offset=layer.offset), rows)
    mx.eval(cache.arrays())


def held(cache: GapCache, part: str = "keys", layer: int = 0) -> np.ndarray:
    """Keys or values of all entries in order of position, float32 (heads, entries, width)."""
    stored = cache.precision.unpacked(getattr(cache.layers[layer], part))
    return np.array(stored.astype(mx.float32))[0][:, cache.cells.all()]


def nbytes(cache: GapCache) -> int:
    return sum(array.nbytes for array in cache.arrays())


# --- Which cell holds what


def test_it_grows_by_steps_to_the_capacity_and_no_further(name: str) -> None:
    cache = cache_of(name, 600)
    sizes = []
    for count in (1, STEP - 1, 1, STEP, 600 - 2 * STEP - 1):
        append(cache, values(count))
        sizes.append(cache.layers[0].keys[0].shape[2])
        assert len(cache.cells.positions) == sizes[-1]
    assert sizes == [256, 256, 512, 600, 600]
    assert cache.cells.length == 600


def test_a_large_append_grows_the_cache_as_needed() -> None:
    cells = Cells(10_000)
    assert len(cells.hold(700)) == 700
    assert len(cells.positions) == 3 * STEP


def test_cells_that_were_freed_are_taken_before_it_grows(name: str) -> None:
    cache = cache_of(name, 2000)
    append(cache, values(STEP))
    for number in range(20):
        cache.cells.free(cache.cells.within(number * 50, number * 50 + 50))
        append(cache, values(50, seed=number), STEP + number * 50)
        assert len(cache.cells.positions) == STEP
    assert cache.cells.ranges == [(1000, 1256)]


def test_entries_are_found_by_position_wherever_they_lie(name: str) -> None:
    """Evict in several places, so that one append is scattered over the freed cells."""
    cache = cache_of(name, 100)
    append(cache, values(100))
    for start in (3, 20, 21, 55):
        cache.cells.free(cache.cells.within(start, start + 1))
    append(cache, values(4, seed=1))
    assert sorted(cache.cells.within(100, 104).tolist()) == [3, 20, 21, 55]
    assert cache.cells.ranges == [(0, 3), (4, 20), (22, 55), (56, 104)]
    kept = np.delete(np.array(values(100))[0], [3, 20, 21, 55], axis=1)
    wanted = np.concatenate((kept, np.array(values(4, seed=1))[0]), axis=1)
    assert np.abs(held(cache, "values") - wanted).max() < ROUNDED[name]


def test_entries_attend_to_no_free_cell_and_no_later_entry() -> None:
    cache = cache_of("f16", 100)
    append(cache, values(10))
    cache.cells.free(cache.cells.within(2, 5))
    cache.begin_at_the_end(10, 4)
    seen, positions = np.array(cache.mask), cache.cells.positions
    assert seen.shape == (4, len(positions))
    for row, position in enumerate(range(10, 14)):
        wanted = {0, 1, *range(5, position + 1)}
        assert set(positions[seen[row]].tolist()) == wanted
        assert not seen[row][positions == FREE].any()


# --- Keys that move


@pytest.mark.parametrize("by", [-1, -37, 5])
def test_a_moved_key_equals_one_computed_at_its_new_position(name: str, by: int) -> None:
    moved, afresh = cache_of(name, 100), cache_of(name, 100)
    append(moved, values(20), 50)
    append(afresh, values(20), 50 + by)
    assert np.abs(held(moved) - held(afresh)).max() > 1, "the distance must matter, or this test shows nothing"
    moved.move(moved.cells.all(), np.arange(50 + by, 70 + by))
    assert moved.cells.ranges == [(50 + by, 70 + by)]
    for layer in range(LAYERS):
        assert np.abs(held(moved, layer=layer) - held(afresh, layer=layer)).max() < ROUNDED[name]
        assert np.array_equal(held(moved, "values", layer), held(afresh, "values", layer))


def test_each_entry_moves_by_its_own_distance_and_the_others_stay(name: str) -> None:
    cache, afresh = cache_of(name, 100), cache_of(name, 100)
    append(cache, values(30))
    before = held(cache)
    cache.cells.free(cache.cells.within(5, 8))
    cache.cells.free(cache.cells.within(20, 22))
    cache.move(cache.cells.all(), np.arange(25))
    append(afresh, values(30)[:, :, [*range(5), *range(8, 20), *range(22, 30)]])
    assert cache.cells.ranges == [(0, 25)]
    assert np.array_equal(held(cache)[:, :5], before[:, :5])
    assert np.abs(held(cache) - held(afresh)).max() < ROUNDED[name]


# --- Memory


def test_its_size_follows_from_its_precision(name: str) -> None:
    cache = cache_of(name, 3 * STEP)
    append(cache, values(3 * STEP))
    assert nbytes(cache) == 2 * LAYERS * 3 * STEP * cache.precision.bytes_for(HEADS * WIDTH)


def test_a_full_cache_that_evicts_and_appends_copies_nothing(name: str) -> None:
    """Each step evicts a frame at another place and appends one. It takes no more memory than the frame's rows."""
    cache = cache_of(name, 8192, layers=1)
    append(cache, values(8192))
    full, rows = nbytes(cache), values(16)
    mx.eval(rows)
    # A byte for each new entry and cell, and some copies of the rows. The smallest copy of the keys has 0.5 MB.
    mask, copies = 16 * 8192, 6 * rows.nbytes
    for number in range(5):
        start = 500 * number
        gc.collect()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        cache.cells.free(cache.cells.within(start, start + 16))
        append(cache, rows)
        assert mx.get_peak_memory() - before < mask + copies < full / 5
        assert nbytes(cache) == full
    assert cache.cells.length == 8192


def test_moving_a_few_entries_copies_only_them(name: str) -> None:
    cache = cache_of(name, 8192, layers=1)
    append(cache, values(8192))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    cells = cache.cells.within(8182, 8192)
    cache.cells.free(cache.cells.within(8172, 8182))
    cache.move(cells, np.arange(8172, 8182))
    # The smallest copy of all keys would be nearly half of it.
    assert mx.get_peak_memory() - before < nbytes(cache) / 10


def test_clearing_frees_it(name: str) -> None:
    gc.collect()
    before = mx.get_active_memory()
    cache = cache_of(name, 2048)
    append(cache, values(2048))
    assert mx.get_active_memory() - before >= nbytes(cache) > 0
    cache.clear()
    assert mx.get_active_memory() - before < 1 << 12
    append(cache, values(10))
    assert cache.cells.ranges == [(0, 10)]
