"""MLX decoders take the predicted memory and give it back, by MLX's own count."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from support.paths import CHECKPOINT

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.decoder import KV_PRECISIONS, Decoder, DecoderOptions
from edge_interleave.decoding.registry import find_backend

mx = pytest.importorskip("mlx.core")

from edge_interleave.backends.mlx import weights as mlx_weights  # noqa: E402
from edge_interleave.backends.mlx.memory import _MOST_KEPT  # noqa: E402

SMALL = 1 << 14
"""Bytes that MLX may keep after everything is closed."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model in f16. Read only."""
    folder = tmp_path_factory.mktemp("embedded") / "bundle"
    return convert(CHECKPOINT, folder, backends=["mlx"], mlx_quantization="f16")


@pytest.fixture(params=KV_PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def before() -> int:
    """Bytes that MLX holds before the test."""
    gc.collect()
    mx.clear_cache()
    return int(mx.get_active_memory())


def rows(bundle: Bundle, count: int) -> np.ndarray:
    width = bundle.manifest.decoder.hidden_size
    return np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)


def held(decoder: Decoder) -> int:
    """Bytes of the KV cache's arrays."""
    return sum(array.nbytes for array in decoder._cache.arrays())


def limit() -> int:
    """MLX's memory limit."""
    found = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(found)
    return int(found)


@pytest.mark.parametrize("context", [60, 300])
def test_a_full_cache_takes_the_predicted_bytes(bundle: Bundle, precision: str, context: int) -> None:
    options = DecoderOptions(context=context, kv_precision=precision)
    said = find_backend("mlx").memory(bundle, options).cache
    decoder = find_backend("mlx").open(bundle, options)
    decoder.append_embeddings(rows(bundle, context))
    assert held(decoder) == pytest.approx(said, rel=0.02)
    assert said == context * decoder.facts.bytes_per_token
    decoder.close()


def test_weights_take_the_predicted_bytes_and_two_decoders_share_them(bundle: Bundle, before: int) -> None:
    options = DecoderOptions(context=64)
    said = find_backend("mlx").memory(bundle, options).weights
    shared = len(mlx_weights._shared)
    first = find_backend("mlx").open(bundle, options)
    assert mx.get_active_memory() - before == pytest.approx(said, rel=0.02)
    second = find_backend("mlx").open(bundle, options)
    assert mx.get_active_memory() - before == pytest.approx(said, rel=0.02)
    assert len(mlx_weights._shared) == shared + 1
    first.close()
    gc.collect()
    assert mx.get_active_memory() - before == pytest.approx(said, rel=0.02)
    second.append_tokens([1, 2, 3])
    second.close()
    gc.collect()
    assert len(mlx_weights._shared) == shared
    assert mx.get_active_memory() - before < SMALL


@pytest.mark.parametrize("batch", [32, 128])
def test_compute_buffers_are_close_to_the_prediction_and_never_above(
    bundle: Bundle, precision: str, batch: int
) -> None:
    """The peak: batch after batch in a full cache. The prediction has as much again for buffers that MLX keeps."""
    options = DecoderOptions(context=300, kv_precision=precision, batch=batch)
    said = find_backend("mlx").memory(bundle, options)
    decoder = find_backend("mlx").open(bundle, options)
    opened = mx.get_active_memory()
    mx.reset_peak_memory()
    decoder.append_embeddings(rows(bundle, 300))
    decoder.evict(0, batch)
    decoder.append_embeddings(rows(bundle, batch))
    decoder.evict(310, 311)
    decoder.rebase()
    computed = mx.get_peak_memory() - opened - said.cache
    assert computed <= said.compute
    assert said.compute <= 2 * 2.5 * computed
    assert mx.get_cache_memory() <= _MOST_KEPT
    decoder.close()


def test_a_closed_decoder_frees_all_memory(bundle: Bundle, precision: str, before: int) -> None:
    unlimited = limit()
    options = DecoderOptions(context=200, kv_precision=precision)
    decoder = find_backend("mlx").open(bundle, options)
    decoder.append_embeddings(rows(bundle, 200))
    assert mx.get_active_memory() - before > held(decoder)
    decoder.close()
    gc.collect()
    assert mx.get_active_memory() - before < SMALL
    assert mx.get_cache_memory() < SMALL
    assert limit() == unlimited


def test_a_garbage_collected_decoder_frees_all_memory(bundle: Bundle, before: int) -> None:
    decoder = find_backend("mlx").open(bundle, DecoderOptions(context=100))
    decoder.append_tokens([1, 2, 3])
    del decoder
    gc.collect()
    assert mx.get_active_memory() - before < SMALL


def test_the_memory_limit_is_the_sum_of_the_open_decoders(bundle: Bundle) -> None:
    gc.collect()
    unlimited, backend = limit(), find_backend("mlx")
    needs, decoders = [], []
    for context in (100, 300):
        options = DecoderOptions(context=context)
        said = backend.memory(bundle, options)
        needs.append(said.weights + said.cache + said.compute)
        decoders.append(backend.open(bundle, options))
        assert limit() == sum(needs)
    decoders[0].close()
    decoders[0].close()
    assert limit() == needs[1]
    decoders[1].close()
    assert limit() == unlimited
