"""Qwen3 decoders in all engines: heads with norms, of another size than the width gives, through a timeline's changes.

The prompts of `tests/converters/test_parity.py` compare such a decoder with transformers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import Options, model_config, write_random_checkpoint
from support.backends_under_test import MLX_HERE, OURS
from support.numpy_decoder import NumpyDecoder, Qwen

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.convert import convert
from edge_interleave.converters.onnx.smoothing import find_smoothings
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import find_backend

TEXT = [5, 17, 99, 42, 7, 256, 33, 12]
SAME = 0.9999
"""Least cosine of logits minus their mean."""
MLX = pytest.mark.skipif(not MLX_HERE, reason="MLX has no wheels for this machine")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = model_config("tiny", "qwen3")
    # Four layers, so that an error in keys and values grows until the logits show it; heads of 64 values, so that
    # every engine has every KV precision.
    config = replace(config, decoder=replace(config.decoder, layers=4, head_dim=64))
    folder = tmp_path_factory.mktemp("qwen3") / "checkpoint"
    return write_random_checkpoint(folder, config, Options("hf-5", dtype="f16", seed=3, scale=1.5))


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Bundle:
    return convert(
        checkpoint,
        checkpoint.parent / "bundle",
        backends=[name for name in OURS if MLX_HERE or name != "mlx"],
        quantization="f16",
        mlx_quantization="f16",
        onnx_precision="f32",
        vision_precision="fp32",
    )


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


RUNS = [
    *(pytest.param(name, "f16", SAME, marks=MLX if name == "mlx" else ()) for name in OURS),
    pytest.param("llama-cpp", "q8_0", 0.999, id="llama-cpp-q8_0"),
    pytest.param("mlx", "q8_0", 0.999, marks=MLX, id="mlx-q8_0"),
]


@pytest.mark.parametrize(("name", "precision", "least"), RUNS)
def test_a_timeline_stays_that_of_the_reference(
    name: str, precision: str, least: float, bundle: Bundle, checkpoint: Path, tmp_path: Path
) -> None:
    """Entries are evicted, recomputed with and without a prefetch, re-rotated, saved and loaded."""
    info = bundle.manifest.decoder
    assert info.heads * info.head_dim != info.hidden_size
    decoder = find_backend(name).open(bundle, DecoderOptions(context=300, threads=1, kv_precision=precision))
    reference = NumpyDecoder(Qwen(checkpoint))
    if precision == "f16":
        assert decoder.facts.bytes_per_token == 2 * info.layers * info.kv_heads * info.head_dim * 2

    def both(method: str, *arguments: object) -> None:
        ours, theirs = (getattr(one, method)(*arguments) for one in (decoder, reference))
        assert (decoder.length, decoder.position) == (reference.length, reference.position)
        assert ours is None or likeness(ours, theirs) >= least

    both("append_tokens", TEXT)
    for seed in range(3):
        both("append_embeddings", rows(20, seed))
    both("evict", 8, 28)
    both("recompute", 28, 48, [rows(20, 1)])
    both("append_tokens", TEXT)
    both("rebase")
    both("append_tokens", TEXT)
    decoder.prefetch(28, 48, [rows(20, 2)], (8, 28), 12)
    both("evict", 8, 28)
    both("recompute", 28, 48, [rows(20, 2)])
    decoder.save(tmp_path / "timeline")
    decoder.truncate(0)
    decoder.load(tmp_path / "timeline")
    both("append_tokens", TEXT)
    decoder.close()


def test_a_wrong_position_would_change_the_logits_noticeably(checkpoint: Path) -> None:
    reference = NumpyDecoder(Qwen(checkpoint))
    reference.append_tokens(TEXT)
    for seed in range(2):
        reference.append_embeddings(rows(20, seed))
    reference.evict(8, 28)
    before = reference.entries
    right = reference.append_tokens(TEXT)
    reference.entries = before
    reference.rebase()
    assert likeness(reference.append_tokens(TEXT), right) < 0.999


@pytest.mark.parametrize(
    ("precision", "cache", "least"),
    [("int8", "f16", 0.998), ("int8", "q8_0", 0.997), ("int4", "f16", 0.95), ("f16", "f16", 0.9999)],
)
def test_a_precision_of_onnx_is_near_to_f32(
    checkpoint: Path, bundle: Bundle, tmp_path: Path, precision: str, cache: str, least: float
) -> None:
    """Random weights magnify rounding."""
    coarse = convert(checkpoint, tmp_path / "b", onnx_precision=precision, vision_precision="fp32")
    logits = []
    for one, kv in ((bundle, "f16"), (coarse, cache)):
        decoder = find_backend("onnx").open(one, DecoderOptions(context=64, threads=1, kv_precision=kv))
        decoder.append_embeddings(rows(20))
        logits.append(decoder.append_tokens(TEXT))
        decoder.close()
    assert least < likeness(*logits) < 1


def test_smoothing_changes_nothing_but_the_rounding(checkpoint: Path) -> None:
    """Norms of heads stand behind the products of queries and keys: only their inputs may be divided."""
    plain, smoothed = Qwen(checkpoint), Qwen(checkpoint)
    with open_checkpoint(checkpoint) as opened:
        smoothings = find_smoothings(opened, TEXT, rows(12))
        for name, values in plain.weights.items():
            if name.startswith("layers."):
                smoothing = smoothings[int(name.split(".")[1])]
                smoothed.weights[name] = smoothing.apply(f"decoder.{name}", values.copy(), opened.config.decoder)
    assert min(max(smoothing.attention) for smoothing in smoothings) > 1.2
    first, second = (NumpyDecoder(one).append_embeddings(rows(9)) for one in (plain, smoothed))
    np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
