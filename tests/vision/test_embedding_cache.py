"""EmbeddingCache: keyed by content, drops the least recently used first, stays within its capacity."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_interleave.vision.cache import CacheKey, EmbeddingCache, cache_key

ROW_BYTES = 4 * 8


def rows(count: int, value: float = 0.0) -> np.ndarray:
    return np.full((count, 8), value, np.float32)


def key(name: str) -> CacheKey:
    return CacheKey(name.encode(), "tower", 1, "")


def test_the_key_holds_everything_that_determines_an_entry() -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    other = pixels.copy()
    other[0, 0, 0] += 1e-6
    one = cache_key(pixels, "t", 2, "average")
    assert one == cache_key(pixels.copy(), "t", 2, "average")
    assert one == cache_key(np.asfortranarray(pixels), "t", 2, "average")
    different = [
        cache_key(other, "t", 2, "average"),
        cache_key(pixels, "u", 2, "average"),
        cache_key(pixels, "t", 3, "average"),
        cache_key(pixels, "t", 2, "max"),
    ]
    assert len({one, *different}) == 5


def test_the_mode_does_not_matter_at_stride_1() -> None:
    pixels = np.zeros((3, 4, 4), np.float32)
    assert cache_key(pixels, "t", 1, "average") == cache_key(pixels, "t", 1, "bilinear")


def test_entries_are_found_and_hits_counted() -> None:
    cache = EmbeddingCache()
    assert cache.get(key("a")) is None
    cache.put(key("a"), rows(2, 5))
    found = cache.get(key("a"))
    assert found is not None
    assert (found == 5).all()
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (1, 1, 2 * ROW_BYTES, 1)
    assert key("a") in cache
    assert key("b") not in cache
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_least_recently_used_entry_is_dropped_first() -> None:
    cache = EmbeddingCache(3 * ROW_BYTES)
    for name in "abc":
        cache.put(key(name), rows(1))
    cache.get(key("a"))
    cache.put(key("d"), rows(1))
    assert [name for name in "abcd" if key(name) in cache] == ["a", "c", "d"]


def test_bytes_stay_within_the_capacity() -> None:
    cache = EmbeddingCache(10 * ROW_BYTES)
    generator = np.random.default_rng(3)
    for _ in range(500):
        name, size = str(generator.integers(8)), int(generator.integers(1, 14))
        cache.put(key(name), rows(size))
        assert cache.bytes <= cache.capacity_bytes
        held = [found for n in range(8) if (found := cache.get(key(str(n)))) is not None]
        assert cache.bytes == sum(found.nbytes for found in held)


def test_an_entry_larger_than_the_cache_is_not_kept_and_drops_only_its_own_old_value() -> None:
    cache = EmbeddingCache(4 * ROW_BYTES)
    cache.put(key("a"), rows(1))
    cache.put(key("b"), rows(1))
    assert (cache.put(key("b"), rows(5, 9)) == 9).all()
    assert key("a") in cache
    assert key("b") not in cache
    assert cache.bytes == ROW_BYTES


def test_entries_are_read_only_copies() -> None:
    cache = EmbeddingCache()
    batch = np.stack([rows(2, 1), rows(2, 2)])
    kept = cache.put(key("a"), batch[0])
    batch[:] = 7
    assert (kept == 1).all()
    assert kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 3


def test_threads_share_the_cache() -> None:
    cache = EmbeddingCache(50 * ROW_BYTES)

    def work(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 40, 500):
            if cache.get(key(str(number))) is None:
                cache.put(key(str(number)), rows(int(number) % 5 + 1, float(number)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.hits + cache.misses == 2000
    held = [(n, found) for n in range(40) if (found := cache.get(key(str(n)))) is not None]
    assert all((found == n).all() for n, found in held)
    assert cache.bytes == sum(found.nbytes for _, found in held)
