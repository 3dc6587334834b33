"""Computes the bytes that ONNX Runtime allocates for a decoder on a CPU, without opening it.

The figures for what is computed were found by opening decoders of many sizes and reading the process's resident
memory; tests hold them to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_interleave.backends.onnx.cache import SPARE
from edge_interleave.bundle.manifest import ONNX_DATA, ONNX_NAME, Bundle, DecoderInfo
from edge_interleave.decoding.decoder import DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError

CACHE_TYPES: dict[str, npt.DTypeLike] = {"f16": np.float16, "q8_0": np.int8}
"""By KV precision."""
_FLOAT, _HALF = 4, 2
_PACKED, _SESSION = 1.05, 6 << 20
"""ONNX Runtime packs matrices anew, with sums of their columns; the graph itself takes some room."""
_ARENA = 2.5
"""ONNX Runtime's arena grows by more than it needs."""
_WIDENING = 5.5
"""The greatest ratio of feed-forward to hidden size in known models."""


def bytes_per_token(info: DecoderInfo, kv_precision: str) -> int:
    """KV cache bytes for one entry, keys and values of all layers."""
    return 2 * info.layers * info.kv_heads * info.head_dim * np.dtype(CACHE_TYPES[kv_precision]).itemsize


def check_kv_precision(bundle: Bundle, precision: str) -> None:
    """Raise BackendError for a KV precision that the decoder does not have: q8_0 needs one in int8 or int4."""
    if precision not in CACHE_TYPES:
        raise BackendError(f"{bundle.folder}: ONNX Runtime has no KV cache in {precision} here; take f16 or q8_0")
    stored = bundle.manifest.precisions.get(ONNX_NAME)
    if precision == "q8_0" and stored not in ("int8", "int4"):
        raise BackendError(
            f"{bundle.folder}: a KV cache in q8_0 needs a decoder in int8 or int4 here, not {stored}; take f16, or "
            "convert the model with --onnx-precision int8"
        )


def decoder_memory(bundle: Bundle, options: DecoderOptions, batch: int) -> DecoderMemory:
    """The bytes of weights, KV cache and computation. Raises BundleError, BackendError."""
    check_kv_precision(bundle, options.kv_precision)
    info = bundle.manifest.decoder
    bundle.file(f"{ONNX_NAME}/{ONNX_DATA}")
    capacity = max(1, min(options.context, info.context_length))
    return DecoderMemory(
        weights=int(bundle.manifest.files[f"{ONNX_NAME}/{ONNX_DATA}"].bytes * _PACKED) + _SESSION,
        cache=(capacity + SPARE) * bytes_per_token(info, options.kv_precision),
        compute=_compute(info, min(batch, capacity), capacity),
    )


def _compute(info: DecoderInfo, rows: int, cells: int) -> int:
    """Bytes for a batch: the larger of two stages, and what every stage needs."""
    hidden, queries, keys = info.hidden_size, info.heads * info.head_dim, info.kv_heads * info.head_dim
    feeding = int(_FLOAT * rows * (4 * _WIDENING * hidden + 4 * hidden))
    attending = rows * (_FLOAT * info.heads * cells + (_FLOAT + 2 * _HALF) * (queries + 2 * keys) + _FLOAT * 3 * hidden)
    if info.type == "qwen3":  # queries and keys apart, before and behind the norms of their heads
        attending += rows * 2 * _FLOAT * (queries + keys)
    rotations = 2 * _HALF * info.context_length * info.head_dim // 2
    return int(_ARENA * max(feeding, attending)) + rotations + 4 * _FLOAT * info.vocab_size
