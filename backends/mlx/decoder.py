"""The MLX backend: the Decoder protocol over mlx-lm's models and a KV cache of our own.

It computes in the weights' dtype on Apple Silicon and CUDA, and in fp32 on CPUs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from edge_interleave.backends.common.inputs import (
    Entries,
    check_prefetch,
    check_room,
    embedding_entries,
    parts_of_range,
    token_entries,
)
from edge_interleave.backends.common.ranges import below, check_range, without
from edge_interleave.backends.mlx.cache import GapCache, Numbers
from edge_interleave.backends.mlx.engine import in_mlx_thread, later_in_mlx_thread
from edge_interleave.backends.mlx.memory import LIMITS, bytes_per_token, decoder_memory, on_cpu, precision_of
from edge_interleave.backends.mlx.scratch import MlxScratch
from edge_interleave.backends.mlx.state import read_arrays, stored, write_arrays
from edge_interleave.backends.mlx.weights import Weights, acquire, release
from edge_interleave.bundle.manifest import MLX_NAME, Bundle
from edge_interleave.decoding.decoder import INTERRUPTED, Decoder, DecoderFacts, DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError, one_line
from edge_interleave.util.arrays import FloatArray

BATCH = 512
"""The greatest number of entries computed at a time."""


class MlxBackend:
    """The backend of the entry point `mlx`."""

    name = "mlx"
    decoder_file = MLX_NAME

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's `decoder-mlx/`. Raises BundleError if it is damaged or not of this bundle."""
        return MlxDecoder(bundle, options)

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """The bytes that MLX allocates when the KV cache is full. Raises BundleError, BackendError."""
        return decoder_memory(bundle, options, min(options.batch or BATCH, BATCH))


BACKEND = MlxBackend()


class MlxDecoder:
    """One timeline in one KV cache. See `edge_interleave.decoding.decoder.Decoder`. MLX ignores `options.threads`."""

    @in_mlx_thread
    def __init__(self, bundle: Bundle, options: DecoderOptions) -> None:
        info = bundle.manifest.decoder
        precision = precision_of(bundle, options.kv_precision)
        self._batch = min(options.batch or BATCH, BATCH)
        memory = decoder_memory(bundle, options, self._batch)
        self._weights = acquire(bundle)
        LIMITS.add(memory)
        self._finalizer = weakref.finalize(self, _free, self._weights, memory)
        self._finalizer.atexit = False  # threads may still compute at exit; the system frees the memory
        self._type = mx.float32 if on_cpu() else self._weights.model.model.norm.weight.dtype
        rotations = [layer.self_attn.rope for layer in self._weights.model.layers]
        capacity = max(1, min(options.context, info.context_length))
        self._facts = DecoderFacts(
            hidden_size=info.hidden_size,
            vocab_size=info.vocab_size,
            trained_context=info.context_length,
            capacity=capacity,
            bytes_per_token=bytes_per_token(info, precision),
        )
        self._interruption = _Interruption()
        self._cache = GapCache(rotations, capacity, precision, self._interruption.check)
        self._scratch = MlxScratch(self._cache)
        per_entry = precision.packed(mx.zeros((1, info.kv_heads, 1, info.head_dim)))
        self._stored = [stored(part) for part in per_entry] * 2 * info.layers
        files = bundle.manifest.files
        digests = " ".join(files[f"{MLX_NAME}/{name}"].sha256 for name in sorted(bundle.files_in(MLX_NAME)))
        self._fingerprint = f"mlx {digests} kv={options.kv_precision}"

    @property
    def facts(self) -> DecoderFacts:
        """Sizes of this decoder."""
        return self._facts

    @property
    def length(self) -> int:
        """Entries in the KV cache."""
        return self._cache.cells.length

    @property
    def position(self) -> int:
        """The position of the next entry: one past the last stored one."""
        return self._cache.cells.position

    @in_mlx_thread
    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        """Extend the timeline by tokens. Returns the logits of the last one, float32 (vocab_size,).

        Raises ContextFullError, with the timeline unchanged, and ValueError for no ids or an id outside the vocabulary.
        """
        return self._append(token_entries(ids, self._facts))

    @in_mlx_thread
    def append_embeddings(self, rows: FloatArray) -> FloatArray:
        """Extend the timeline by embeddings, float32 (n, hidden_size). Returns logits like `append_tokens`.

        Raises ContextFullError, with the timeline unchanged, and ValueError for another shape or dtype, or values that
        are not finite.
        """
        return self._append(embedding_entries(rows, self._facts))

    def truncate(self, position: int) -> None:
        """Remove the entries at `position` and after. The next position is one past the last entry kept."""
        self._remove(position, max(position, self.position))

    def evict(self, start: int, end: int) -> None:
        """Remove the entries at positions start <= p < end. Later entries keep their positions, which leaves a gap.

        A range up to the end leaves no gap: it is a truncation.
        """
        self._remove(start, end)

    @in_mlx_thread
    def rebase(self) -> None:
        """Close the gaps: positions become 0 to length - 1, and the keys are re-rotated."""
        self._alive()
        position = 0
        for start, end in self._cache.cells.ranges:
            if start != position:
                self._scratch.invalidate(start, end)
            position += end - start
        self._cache.move(self._cache.cells.all(), np.arange(self.length))

    @in_mlx_thread
    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Recompute the entries at positions start <= p < end as if only the entries before them had ever existed.

        Raises ValueError for a range that is not stored or parts of another length. Raises BackendError if MLX fails;
        the range is then removed.
        """
        self._alive()
        entries = parts_of_range(start, end, parts, self._cache.cells.ranges, self._facts)
        self._remove(start, end)
        self._scratch.select(entries, below(self._cache.cells.ranges, start))
        self._scratch.compute(entries, end - start, self._compute_scratch)
        self._scratch.move_to_timeline(start)

    @in_mlx_thread
    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Compute up to `rows` of the entries that `recompute` will need once `leaving` is evicted.

        They take free cells only. Returns whether more can be prefetched. Raises ValueError like `recompute`, and
        BackendError if MLX fails; no scratch entries remain then.
        """
        self._alive()
        ranges = self._cache.cells.ranges
        entries = parts_of_range(start, end, parts, ranges, self._facts)
        check_prefetch(start, leaving, rows)
        self._scratch.select(entries, without(below(ranges, start), *leaving))
        possible = min(end - start, self._facts.capacity - self.length)
        if self._scratch.done < possible:
            self._scratch.compute(entries, min(self._scratch.done + rows, possible), self._compute_scratch)
        return self._scratch.done < possible

    @in_mlx_thread
    def save(self, path: Path) -> None:
        """Write the timeline's KV state to a safetensors file, atomically."""
        self._alive()
        chosen = mx.array(self._cache.cells.all())
        arrays = [array[:, :, chosen] for array in self._cache.arrays()] if self.length else []
        write_arrays(Path(path), self._fingerprint, self._cache.cells.ranges, arrays)

    @in_mlx_thread
    def load(self, path: Path) -> None:
        """Replace the timeline with a saved one.

        Raises InputError, with the timeline unchanged, if the file was not saved by a decoder like this one.
        """
        self._alive()
        ranges, arrays = read_arrays(Path(path), self._fingerprint, self._facts, self._stored)
        self._scratch.drop()
        self._cache.fill(np.concatenate([np.arange(*pair) for pair in ranges] or [np.zeros(0, np.int64)]), arrays)

    def interrupt(self) -> None:
        """Make the running call, and all later ones, fail with BackendError. May be called from any thread.

        A batch of several entries stops between two layers.
        """
        self._interruption.wanted = True

    def resume(self) -> None:
        """Let later calls compute again after `interrupt`."""
        self._interruption.wanted = False

    @in_mlx_thread
    def close(self) -> None:
        """Free the KV cache, and the weights if no other decoder uses them. A second call does nothing."""
        self._cache.clear()
        self._finalizer()

    def _alive(self) -> None:
        if not self._finalizer.alive:
            raise BackendError("the decoder is closed; open the model again")

    def _append(self, entries: Entries) -> FloatArray:
        self._alive()
        start = self.position
        check_room(self.length, start, len(entries), self._facts)
        if self.length + len(entries) + self._scratch.done > self._facts.capacity:
            self._scratch.drop()
        hidden = self._compute(entries, start, self._cache.begin_at_the_end)
        logits = np.array(self._weights.head(hidden).astype(mx.float32)).reshape(-1)
        if not np.isfinite(logits).all():
            self._remove(start, start + len(entries))
            raise BackendError(f"{self._weights.folder}: gives logits that are not finite; convert or pull it again")
        return logits

    def _compute_scratch(self, entries: Entries, start: int) -> None:
        self._compute(entries, start, self._scratch.begin)

    def _compute(self, entries: Entries, start: int, begin: Callable[[int, int], Numbers]) -> Any:
        """Store entries from a position on, in the cells that `begin` gives. Returns the last one's hidden state.

        It has the shape (1, hidden). Raises BackendError, with nothing stored.
        """
        hidden: Any = None
        taken: list[Numbers] = []
        model = self._weights.model.model
        try:
            for first in range(0, len(entries), self._batch):
                chunk = mx.array(entries[first : first + self._batch])
                rows = (model.embed_tokens(chunk) if entries.ndim == 1 else chunk).astype(self._type)
                self._interruption.begin(len(rows))
                taken.append(begin(start + first, len(rows)))
                hidden = model(None, self._cache.layers, input_embeddings=rows[None])[:, -1]
                mx.eval(hidden, self._cache.arrays())
        except BaseException as error:
            for cells in taken:
                self._cache.cells.free(cells)
            if isinstance(error, RuntimeError | ValueError):
                raise BackendError(f"MLX failed to compute ({one_line(error)})") from error
            raise
        return hidden

    def _remove(self, start: int, end: int) -> None:
        self._alive()
        check_range(start, end)
        self._scratch.invalidate(start, end)
        self._cache.cells.free(self._cache.cells.within(start, end))


class _Interruption:
    """Stops a batch between layers. MLX computes lazily, so each layer's result is evaluated at once."""

    def __init__(self) -> None:
        self.wanted = False
        self._many = False

    def begin(self, count: int) -> None:
        """Start a batch of `count` entries. Raises BackendError after an interruption."""
        self._many = count > 1
        self._stop()

    def check(self, arrays: tuple[Any, ...]) -> None:
        """Evaluate the arrays that a layer stores. Raises BackendError after an interruption."""
        if self._many:
            mx.eval(arrays)
            self._stop()

    def _stop(self) -> None:
        if self.wanted:
            raise BackendError(INTERRUPTED)


def _free(weights: Weights, memory: DecoderMemory) -> None:
    def free() -> None:
        release(weights)
        LIMITS.remove(memory)

    later_in_mlx_thread(free)
