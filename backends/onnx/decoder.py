"""The ONNX Runtime backend: the Decoder protocol over a graph with a KV cache that is written in place.

ONNX Runtime installs as a wheel. Decoders of a bundle share its weights; each has its own KV cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.backends.common.inputs import (
    Entries,
    check_prefetch,
    check_room,
    embedding_entries,
    parts_of_range,
    token_entries,
)
from edge_interleave.backends.common.ranges import below, check_range, positions_in, without
from edge_interleave.backends.common.state import SavedState, read_state, write_state
from edge_interleave.backends.onnx.cache import KvCache
from edge_interleave.backends.onnx.memory import CACHE_TYPES, bytes_per_token, check_kv_precision, decoder_memory
from edge_interleave.backends.onnx.scratch import OnnxScratch
from edge_interleave.backends.onnx.weights import Weights, acquire, cache_names, release
from edge_interleave.bundle.manifest import ONNX_NAME, Bundle
from edge_interleave.decoding.decoder import INTERRUPTED, Decoder, DecoderFacts, DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError, InputError, one_line
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.cpus import usable_cores
from edge_interleave.util.engine_lock import check_process, claim_process, is_forked
from edge_interleave.util.onnx_runtime import run_options

BATCH = 256
"""The greatest number of rows computed at a time; more rows save no time and take memory."""
_POSITIONS = 1024
"""Positions whose rotations are computed at a time."""


class OnnxBackend:
    """The backend of the entry point `onnx`."""

    name = "onnx"
    decoder_file = ONNX_NAME

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's `decoder-onnx/`. Raises BundleError if it is damaged or not of this bundle."""
        return OnnxDecoder(bundle, options)

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """The bytes that ONNX Runtime allocates on a CPU after `open`. Raises BundleError, BackendError."""
        return decoder_memory(bundle, options, min(options.batch or BATCH, BATCH))


BACKEND = OnnxBackend()


class OnnxDecoder:
    """One timeline. See `edge_interleave.decoding.decoder.Decoder`."""

    def __init__(self, bundle: Bundle, options: DecoderOptions) -> None:
        claim_process()
        info = bundle.manifest.decoder
        check_kv_precision(bundle, options.kv_precision)
        self._batch = min(options.batch or BATCH, BATCH)
        self._folder = bundle.folder / ONNX_NAME
        self._dtype = np.dtype(CACHE_TYPES[options.kv_precision])
        self._weights = acquire(bundle, options.threads or usable_cores(), self._dtype)
        self._finalizer = weakref.finalize(self, _free, self._weights)
        self._finalizer.atexit = False  # threads may still compute at exit; the system frees the memory
        capacity = max(1, min(options.context, info.context_length))
        self._facts = DecoderFacts(
            hidden_size=info.hidden_size,
            vocab_size=info.vocab_size,
            trained_context=info.context_length,
            capacity=capacity,
            bytes_per_token=bytes_per_token(info, options.kv_precision),
        )
        files = bundle.manifest.files
        digests = " ".join(files[f"{ONNX_NAME}/{name}"].sha256 for name in sorted(bundle.files_in(ONNX_NAME)))
        self._fingerprint = f"onnx {digests} kv={options.kv_precision}"
        frequencies = self._weights.frequencies
        self._cache = KvCache(info.layers, info.kv_heads, info.head_dim, capacity, frequencies, self._dtype)
        self._scratch = OnnxScratch(self._cache)
        self._run = _Run(self._weights, self._cache, info.context_length, info.vocab_size)

    @property
    def facts(self) -> DecoderFacts:
        """Sizes of this decoder."""
        return self._facts

    @property
    def length(self) -> int:
        """Entries in the KV cache."""
        return self._cache.length

    @property
    def position(self) -> int:
        """The position of the next entry: one past the last stored one."""
        return self._cache.position

    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        """Extend the timeline by tokens. Returns the logits of the last one, float32 (vocab_size,).

        Raises ContextFullError, with the timeline unchanged, and ValueError for no ids or an id outside the vocabulary.
        """
        return self._append(token_entries(ids, self._facts))

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

    def rebase(self) -> None:
        """Close the gaps: positions become 0 to length - 1, and the keys after a gap are re-rotated."""
        self._alive()
        for start, end in self._cache.rebase():
            self._scratch.invalidate(start, end)

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Recompute the entries at positions start <= p < end as if only the entries before them had ever existed.

        Raises ValueError for a range that is not stored or parts of another length. Raises BackendError if ONNX Runtime
        fails; the range is then removed.
        """
        self._alive()
        cache, scratch = self._cache, self._scratch
        entries = parts_of_range(start, end, parts, cache.ranges, self._facts)
        self._remove(start, end)
        seen = below(cache.ranges, start)
        scratch.select(entries, seen)
        first = cache.open_gap(seen, end - start)
        computed = 0
        try:
            position = scratch.copy_to(first)
            here = scratch.position

            def run(piece: Entries, at: int) -> None:
                self._compute(piece, at, 0, first + at - here, wanted=False)

            scratch.compute(entries, end - start, run)
            cache.rotate(first, end - start, start - position)
            computed = end - start
        finally:
            scratch.drop()
            cache.close_gap(first, start, computed, end - start)

    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Compute up to `rows` of the entries that `recompute` will need once `leaving` is evicted.

        They take free cells only, with copies of what they attend to. Returns whether more can be prefetched. Raises
        ValueError like `recompute`, and BackendError if ONNX Runtime fails; no scratch entries remain then.
        """
        self._alive()
        ranges, scratch = self._cache.ranges, self._scratch
        entries = parts_of_range(start, end, parts, ranges, self._facts)
        check_prefetch(start, leaving, rows)
        scratch.select(entries, without(below(ranges, start), *leaving))
        possible = scratch.reserve(min(end - start, self._facts.capacity - self.length))
        if scratch.done < possible:
            here = scratch.position

            def run(piece: Entries, at: int) -> None:
                self._compute(piece, at, scratch.first, scratch.copied + at - here, wanted=False)

            scratch.compute(entries, min(scratch.done + rows, possible), run)
            if scratch.done == end - start:
                scratch.move(start)
        return scratch.done < possible

    def save(self, path: Path) -> None:
        """Write the timeline's KV state to a file, atomically."""
        self._alive()
        payload = self._cache.in_order().astype(self._dtype.newbyteorder("<")).tobytes()
        write_state(Path(path), SavedState(self._fingerprint, self._cache.ranges, payload))

    def load(self, path: Path) -> None:
        """Replace the timeline with a saved one.

        Raises InputError if the file was not saved by a decoder like this one. The timeline is then unchanged.
        """
        self._alive()
        state = read_state(Path(path), self._fingerprint, self._facts)
        length = positions_in(state.ranges)
        if len(state.payload) != length * self._facts.bytes_per_token:
            raise InputError(f"{path}: damaged, not the keys and values of {length} entries; prefill again")
        shape = self._cache.arrays.shape
        arrays = np.frombuffer(state.payload, self._dtype.newbyteorder("<")).reshape(*shape[:3], length, shape[4])
        # The file holds its own digest, so a wrong file can match it.
        if not np.isfinite(arrays).all():
            raise InputError(f"{path}: damaged, not all of its keys and values are finite; prefill again")
        self._scratch.drop()
        self._cache.fill(state.ranges, arrays)

    def interrupt(self) -> None:
        """Make the running call, and all later ones, fail with BackendError. May be called from any thread.

        ONNX Runtime stops between two operators of its graph.
        """
        self._run.interrupt()

    def resume(self) -> None:
        """Let later calls compute again after `interrupt`."""
        self._run.resume()

    def close(self) -> None:
        """Free the KV cache, and the weights if no other decoder uses them. A second call does nothing."""
        if self._finalizer.alive:
            self._run.close()
            self._cache = KvCache(1, 1, 2, 0, self._weights.frequencies[:1])
            self._scratch = OnnxScratch(self._cache)
        self._finalizer()

    def _alive(self) -> None:
        if not self._finalizer.alive:
            raise BackendError("the decoder is closed; open the model again")

    def _append(self, entries: Entries) -> FloatArray:
        self._alive()
        start, count, cache = self.position, len(entries), self._cache
        check_room(self.length, start, count, self._facts)
        if self.length + count + self._scratch.done > self._facts.capacity or self.length + count > self._scratch.first:
            self._scratch.drop()
        logits = self._compute(entries, start, 0, self.length, wanted=True)
        if not np.isfinite(logits).all():
            raise BackendError(f"{self._folder}: gives logits that are not finite; convert or pull it again")
        cache.add(start, count)
        return logits

    def _compute(self, entries: Entries, position: int, first: int, before: int, *, wanted: bool) -> FloatArray:
        """Write entries into the cells after the `before` cells that they attend to, which start at cell `first`.

        Returns the logits of the last entry if `wanted`. Raises BackendError.
        """
        check_process()
        logits = np.zeros(0, np.float32)
        for start in range(0, len(entries), self._batch):
            chunk = entries[start : start + self._batch]
            rows = self._weights.rows(chunk) if entries.ndim == 1 else chunk
            last = wanted and start + len(chunk) == len(entries)
            logits = self._run(rows, position + start, first, before + start, wanted=last)
        return logits

    def _remove(self, start: int, end: int) -> None:
        self._alive()
        check_range(start, end)
        self._scratch.invalidate(start, end)
        self._cache.remove(start, end)


class _Run:
    """Runs the graph for one decoder; inputs and outputs are bound to memory once."""

    def __init__(self, weights: Weights, cache: KvCache, trained: int, vocab_size: int) -> None:
        self._session = weights.session
        self._cache = cache
        self._cos, self._sin = _rotations(weights.frequencies, trained)
        self._logits = np.zeros((1, vocab_size), np.float32)
        self._options = {True: run_options(), False: run_options()}
        self._options[False].only_execute_path_to_fetches = True
        self._bindings = {wanted: self._session.io_binding() for wanted in (True, False)}
        self._first = {True: -1, False: -1}

    def __call__(self, rows: FloatArray, position: int, first: int, before: int, *, wanted: bool) -> FloatArray:
        """Compute rows (n, hidden) at positions from `position` on; see `OnnxDecoder._compute`."""
        binding, count = self._bindings[wanted], len(rows)
        if self._first[wanted] != first:
            self._bind_cache(binding, first, wanted)
            self._first[wanted] = first
        inputs = {
            "rows": np.ascontiguousarray(rows, np.float32)[np.newaxis],
            "positions": np.arange(position, position + count, dtype=np.int64)[np.newaxis],
            "last": np.array([before + count - 1], np.int32),
            "total": np.array([before + count], np.int32),
        }
        for name, values in inputs.items():  # `inputs` keeps them alive during the run: the binding holds addresses
            binding.bind_cpu_input(name, values)
        try:
            self._session.run_with_iobinding(binding, self._options[wanted])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this.
            if self._options[True].terminate:
                raise BackendError(INTERRUPTED) from None
            raise BackendError(f"ONNX Runtime failed to compute ({one_line(error, 300)})") from error
        logits: FloatArray = self._logits[0].copy()
        return logits

    def interrupt(self) -> None:
        """Make the running run, and all later ones, fail."""
        for options in self._options.values():
            options.terminate = True

    def resume(self) -> None:
        """Let later runs compute again."""
        for options in self._options.values():
            options.terminate = False

    def close(self) -> None:
        """Drop the references to session and memory."""
        self._session = self._cache = None  # type: ignore[assignment]
        self._bindings = {}

    def _bind_cache(self, binding: Any, first: int, wanted: bool) -> None:
        """Bind the arrays that never move; the cache starts at its cell `first`."""
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        binding.bind_cpu_input("cos", self._cos)
        binding.bind_cpu_input("sin", self._sin)
        layers, _, heads, cells, size = self._cache.arrays.shape
        for layer, names in enumerate(cache_names(layers)):
            for kind, name in enumerate(names):
                address = self._cache.pointer(layer, kind, first)
                place = ("cpu", 0, self._cache.arrays.dtype, [1, heads, cells, size], address)
                binding.bind_input(name, *place)
                binding.bind_output(f"new_{name}", *place)
        if wanted:
            binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)


def _rotations(
    frequencies: npt.NDArray[np.float64], trained: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    """Cosines and sines of RoPE by position, (trained, head size / 2) each, made in parts that take little memory."""
    cos, sin = (np.empty((trained, len(frequencies)), np.float16) for _ in range(2))
    for start in range(0, trained, _POSITIONS):
        part = slice(start, min(start + _POSITIONS, trained))
        angles = np.arange(part.start, part.stop)[:, np.newaxis] * frequencies
        cos[part], sin[part] = np.cos(angles), np.sin(angles)
    return cos, sin


def _free(weights: Weights) -> None:
    if not is_forked():  # a child would wait for threads that exist only in the parent
        release(weights)
