"""Predicts the bytes that MLX allocates for a decoder, and sets MLX's limits accordingly.

The formulas for intermediate results were fitted to MLX's own peak for decoders of many sizes. Tests compare them.
"""

from __future__ import annotations

import threading

import mlx.core as mx

from edge_interleave.backends.mlx.cache import Precision
from edge_interleave.backends.mlx.weights import MlxFiles, read_files
from edge_interleave.bundle.manifest import Bundle, DecoderInfo
from edge_interleave.decoding.decoder import DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError

_BITS = {"f16": None, "q8_0": 8, "q4_0": 4}
_GROUPS = (64, 32)
"""Values that share a scale and an offset. With 64, an entry takes as many bytes as in llama.cpp's same precision."""
_FLOAT = 4
_MOST_KEPT = 32 << 20
"""The greatest number of bytes that MLX may keep in freed buffers for reuse."""


class Limits:
    """Sets MLX's memory limit to the sum that the open decoders need, so that MLX reuses freed buffers first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: list[DecoderMemory] = []
        self._before: tuple[int, int] | None = None
        """MLX's limits of memory and of kept buffers before the first decoder."""

    def add(self, memory: DecoderMemory) -> None:
        """Count an opened decoder."""
        with self._lock:
            self._open.append(memory)
            before = self._set()
            if self._before is None:
                self._before = before

    def remove(self, memory: DecoderMemory) -> None:
        """Stop counting a closed decoder."""
        with self._lock:
            self._open.remove(memory)
            mx.clear_cache()
            if self._open:
                self._set()
            elif self._before is not None:
                mx.set_memory_limit(self._before[0])
                mx.set_cache_limit(self._before[1])
                self._before = None

    def _set(self) -> tuple[int, int]:
        needed = sum(memory.weights + memory.cache + memory.compute for memory in self._open)
        kept = max(min(memory.compute // 2, _MOST_KEPT) for memory in self._open)
        return mx.set_memory_limit(needed), mx.set_cache_limit(kept)


LIMITS = Limits()


def precision_of(bundle: Bundle, name: str) -> Precision:
    """How keys and values are stored. Raises BackendError if MLX cannot store this decoder's in that precision."""
    bits, width = _BITS[name], bundle.manifest.decoder.head_dim
    group = next((group for group in _GROUPS if not width % group), None)
    if bits is not None and group is None:
        raise BackendError(
            f"{bundle.folder}: MLX stores keys in {name} only if heads have a multiple of {min(_GROUPS)} values, and "
            f"this decoder's have {width}; use f16"
        )
    return Precision(bits, group or min(_GROUPS))


def bytes_per_token(info: DecoderInfo, precision: Precision) -> int:
    """Bytes of one KV entry: keys and values of all layers."""
    return 2 * info.layers * precision.bytes_for(info.kv_heads * info.head_dim)


def decoder_memory(bundle: Bundle, options: DecoderOptions, batch: int) -> DecoderMemory:
    """The bytes of weights, KV cache and intermediate results. Raises BundleError, BackendError."""
    info, precision = bundle.manifest.decoder, precision_of(bundle, options.kv_precision)
    found = read_files(bundle)
    capacity = max(1, min(options.context, info.context_length))
    computed = _compute(info, found, min(batch, capacity), capacity, precision)
    return DecoderMemory(
        weights=found.bytes,
        cache=capacity * bytes_per_token(info, precision),
        compute=computed + min(computed, _MOST_KEPT),
    )


def on_cpu() -> bool:
    """Whether MLX computes on the CPU, where it uses fp32 since it has no fast f16."""
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def _compute(info: DecoderInfo, found: MlxFiles, rows: int, cells: int, precision: Precision) -> int:
    """Bytes of a batch's intermediate results. MLX frees a layer's when the layer is done."""
    hidden, feed_forward = info.hidden_size, int(found.config.fields["intermediate_size"])
    feeding = rows * (3 * hidden + 3 * feed_forward)
    # Attention scores of each head over all cells, more than once; keys and values widened from f16 to fp32.
    attending = 3 * rows * hidden + int(rows * info.heads * cells * (1.25 if precision.bits is None else 2))
    widened = 2 * cells * info.kv_heads * info.head_dim if precision.bits is None else 0
    logits = 2 * info.vocab_size
    return _FLOAT * (feeding + attending + widened + logits) + (_widened(found) if on_cpu() else 0)


def _widened(found: MlxFiles) -> int:
    """Bytes of weights that a CPU widens from 16 bits to fp32: one layer's, and the embedding matrix's."""
    halves: dict[str, int] = {}
    for entries in found.tensors.values():
        for name, entry in entries.items():
            if entry.dtype in ("F16", "BF16"):
                place = ".".join(name.split(".")[:3])
                halves[place] = halves.get(place, 0) + 2 * entry.bytes
    return sum(sorted(halves.values())[-2:])
