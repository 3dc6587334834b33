"""Predicts the bytes that llama.cpp allocates on a CPU: the KV cache exactly, compute buffers nearly.

The formulas were fitted to llama.cpp's own count of its buffers and to the process's resident memory, for contexts of
many sizes. Tests compare them with both.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from edge_interleave.backends.llama_cpp.gguf_check import GgufFacts, check_gguf
from edge_interleave.bundle.manifest import GGUF_NAME, Bundle, DecoderInfo
from edge_interleave.decoding.decoder import DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError

CELLS_MULTIPLE = 256
"""llama.cpp rounds the number of KV cells up to this."""
_BLOCK = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
"""By precision: values in a block, and bytes of a block. q8_0 and q4_0 have a scale for each block."""
_ROTATED = 64
"""llama.cpp multiplies quantized keys by a Hadamard matrix of this size. It ends the process when keys of another size
are re-rotated (https://github.com/ggml-org/llama.cpp/pull/25636)."""
_ROTATION_OFF = "LLAMA_ATTN_ROT_DISABLE"
_FLOAT, _HALF = 4, 2
_OUTPUTS = 2
"""Rows of logits that llama.cpp keeps, one for each sequence."""


def cells(capacity: int) -> int:
    """KV cells for `capacity` entries, with one spare cell for a pending re-rotation when the others are full."""
    return -(-(capacity + 1) // CELLS_MULTIPLE) * CELLS_MULTIPLE


def bytes_per_token(info: DecoderInfo, precision: str) -> int:
    """Bytes of one KV entry: keys and values of all layers."""
    values, size = _BLOCK[precision]
    return 2 * info.layers * info.kv_heads * info.head_dim * size // values


def check_precision(bundle: Bundle, precision: str) -> None:
    """Raise BackendError if this decoder's keys and values cannot be stored in this precision."""
    width = bundle.manifest.decoder.head_dim
    if precision == "f16":
        return
    if width % _ROTATED:
        raise BackendError(
            f"{bundle.folder}: llama.cpp re-rotates keys in {precision} only if heads have a multiple of {_ROTATED} "
            f"values, and this decoder's have {width}; use f16"
        )
    if os.environ.get(_ROTATION_OFF, "0") not in ("", "0"):
        raise BackendError(f"llama.cpp cannot re-rotate keys in {precision} while {_ROTATION_OFF} is set; unset it")


def decoder_memory(bundle: Bundle, options: DecoderOptions, batch: int) -> DecoderMemory:
    """The bytes of weights, KV cache and compute buffers. Raises BundleError, BackendError."""
    check_precision(bundle, options.kv_precision)
    info = bundle.manifest.decoder
    facts = _facts(bundle, info)
    count = cells(max(1, min(options.context, info.context_length)))
    row = _row_bytes(info, facts.feed_forward, count, flash=options.kv_precision != "f16")
    return DecoderMemory(
        weights=facts.weight_bytes,
        cache=count * bytes_per_token(info, options.kv_precision),
        compute=min(batch, count) * row + _OUTPUTS * _FLOAT * info.vocab_size,
    )


def _facts(bundle: Bundle, info: DecoderInfo) -> GgufFacts:
    path = bundle.file(GGUF_NAME)
    stat = path.stat()
    return _read(path, info, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, info: DecoderInfo, _changed: int, _size: int) -> GgufFacts:
    return check_gguf(path, info)


def _row_bytes(info: DecoderInfo, feed_forward: int, count: int, flash: bool) -> int:
    """Bytes for each row of a batch: those of every stage, and those of the larger of two stages."""
    hidden, queries, keys = info.hidden_size, info.heads * info.head_dim, info.kv_heads * info.head_dim
    # The batch's embeddings: the caller's copy and llama.cpp's two.
    inputs = 3 * _FLOAT * hidden
    feeding = _FLOAT * (3 * feed_forward + 5 * hidden)
    if flash:
        return inputs + max(feeding, _FLOAT * (4 * hidden + queries + 2 * keys)) + _HALF * count
    # Attention scores of each head over all cells, a copy in f16 for the product with the values, and the mask.
    scores = (_FLOAT * count + _HALF * count) * info.heads
    attending = _FLOAT * (4 * hidden + queries + 2 * keys) + scores
    return inputs + max(feeding, attending) + _FLOAT * count
