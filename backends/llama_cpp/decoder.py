"""The llama.cpp backend: the Decoder protocol over llama_cpp's low-level API.

Decoders of the same file share its weights; each has its own context (KV cache). The timeline is one sequence of the
context. A second sequence holds scratch entries: recomputed or prefetched.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as low
import numpy as np

from edge_interleave.backends.common.inputs import (
    Entries,
    check_prefetch,
    check_room,
    embedding_entries,
    parts_of_range,
    token_entries,
)
from edge_interleave.backends.common.ranges import Ranges, below, check_range, positions_in, without
from edge_interleave.backends.common.state import SavedState, read_state, write_state
from edge_interleave.backends.llama_cpp.batch import BatchRows, pointer_to
from edge_interleave.backends.llama_cpp.memory import bytes_per_token, cells, check_precision, decoder_memory
from edge_interleave.backends.llama_cpp.scratch import SCRATCH, TIMELINE, LlamaCppScratch
from edge_interleave.backends.llama_cpp.weights import LOG, Weights, acquire, release
from edge_interleave.bundle.manifest import GGUF_NAME, Bundle
from edge_interleave.decoding.decoder import INTERRUPTED, Decoder, DecoderFacts, DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError, BundleError, InputError
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.cpus import usable_cores as _physical_cores
from edge_interleave.util.engine_lock import claim_process, is_forked

BATCH = 512
"""The greatest number of rows that llama.cpp computes at a time; more rows save no time."""
_UNABORTED = 16
"""The greatest number of rows of a decode that cannot be aborted."""
_NEVER = ctypes.create_string_buffer(1)
"""An empty string: the abort callback's data while nothing may be aborted."""
_C = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
_KV_TYPES = {"f16": low.GGML_TYPE_F16, "q8_0": low.GGML_TYPE_Q8_0, "q4_0": low.GGML_TYPE_Q4_0}


class LlamaCppBackend:
    """The backend of the entry point `llama-cpp`."""

    name = "llama-cpp"
    decoder_file = GGUF_NAME

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's GGUF. Raises BundleError if the file is damaged or not of this bundle."""
        return LlamaCppDecoder(bundle, options)

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """The bytes that llama.cpp allocates on a CPU after `open`. Raises BundleError, BackendError."""
        return decoder_memory(bundle, options, min(options.batch or BATCH, BATCH))


BACKEND = LlamaCppBackend()


class LlamaCppDecoder:
    """One timeline in one llama.cpp context. See `edge_interleave.decoding.decoder.Decoder`."""

    def __init__(self, bundle: Bundle, options: DecoderOptions) -> None:
        claim_process()
        info = bundle.manifest.decoder
        path = bundle.file(GGUF_NAME)
        check_precision(bundle, options.kv_precision)
        self._batch = min(options.batch or BATCH, BATCH)
        self._weights = acquire(path, info)
        try:
            pointer = self._weights.pointer
            vocab_size = low.llama_vocab_n_tokens(low.llama_model_get_vocab(pointer))
            hidden_size = low.llama_model_n_embd(pointer)
            for what, found, said in (
                ("hidden size", hidden_size, info.hidden_size),
                ("vocabulary", vocab_size, info.vocab_size),
                ("layers", low.llama_model_n_layer(pointer), info.layers),
            ):
                if found != said:
                    raise BundleError(f"{path}: {what} {found} where bundle.json says {said}; convert the model again")
            trained = low.llama_model_n_ctx_train(pointer)
            capacity = max(1, min(options.context, trained))
            self._context = _new_context(self._weights.pointer, capacity, self._batch, options, path)
        except BaseException:
            release(self._weights)
            raise
        self._path = path
        self._finalizer = weakref.finalize(self, _free, self._context, self._weights)
        self._finalizer.atexit = False  # threads may still compute at exit; the system frees the memory
        self._memory = low.llama_get_memory(self._context)
        self._facts = DecoderFacts(
            hidden_size=hidden_size,
            vocab_size=vocab_size,
            trained_context=trained,
            capacity=capacity,
            bytes_per_token=bytes_per_token(info, options.kv_precision),
        )
        self._fingerprint = f"{bundle.manifest.files[GGUF_NAME].sha256} kv={options.kv_precision}"
        self._ranges: Ranges = []
        """Stored positions."""
        self._scratch = LlamaCppScratch(self._memory)
        self._shifted = False
        """Whether keys wait to be re-rotated: llama.cpp does it at its next decode."""
        self._rows = BatchRows(self._batch)
        # llama.cpp calls a function to learn whether to stop. A Python function would wait for the interpreter lock,
        # thousands of times a second. C's `strlen` does not: it returns 0 (go on) for an empty string.
        self._interruption = ctypes.create_string_buffer(2)
        self._may_abort(True)

    @property
    def facts(self) -> DecoderFacts:
        """Sizes of this decoder."""
        return self._facts

    @property
    def length(self) -> int:
        """Entries in the KV cache."""
        return positions_in(self._ranges)

    @property
    def position(self) -> int:
        """The position of the next entry: one past the last stored one."""
        return self._ranges[-1][1] if self._ranges else 0

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
        """Close the gaps: positions become 0 to length - 1. llama.cpp re-rotates the keys at the next append."""
        self._alive()
        position = 0
        for start, end in self._ranges:
            if start != position:
                self._scratch.invalidate(start, end)
                low.llama_memory_seq_add(self._memory, TIMELINE, start, end, position - start)
                self._shifted = True
            position += end - start
        self._ranges = [(0, position)] if position else []

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Recompute the entries at positions start <= p < end as if only the entries before them had ever existed.

        Raises ValueError for a range that is not stored or parts of another length. Raises BackendError if llama.cpp
        fails; the range is then removed.
        """
        self._alive()
        entries = parts_of_range(start, end, parts, self._ranges, self._facts)
        kept = self._ranges
        self._remove(start, end)
        self._scratch.select(entries, below(self._ranges, start))
        self._scratch.compute(entries, end - start, self._decode_scratch)
        self._shifted |= self._scratch.move_to_timeline(start)
        self._ranges = kept

    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Compute up to `rows` of the entries that `recompute` will need once `leaving` is evicted.

        They take free cells only. Returns whether more can be prefetched. Raises ValueError like `recompute`, and
        BackendError if llama.cpp fails; no scratch entries remain then.
        """
        self._alive()
        entries = parts_of_range(start, end, parts, self._ranges, self._facts)
        check_prefetch(start, leaving, rows)
        self._scratch.select(entries, without(below(self._ranges, start), *leaving))
        possible = min(end - start, self._facts.capacity - self.length)
        if self._scratch.done < possible:
            self._scratch.compute(entries, min(self._scratch.done + rows, possible), self._decode_scratch)
        if self._scratch.done == end - start and self._scratch.move(start):
            self._shifted = True
            self._apply_shift()
        return self._scratch.done < possible

    def save(self, path: Path) -> None:
        """Write the timeline's KV state to a file, atomically."""
        self._alive()
        self._apply_shift()
        size = low.llama_state_seq_get_size(self._context, TIMELINE)
        payload = bytearray(size)
        target = (ctypes.c_uint8 * size).from_buffer(payload)
        written = low.llama_state_seq_get_data(self._context, target, size, TIMELINE)
        if written != size:
            raise BackendError(f"{path}: llama.cpp wrote {written} of {size} bytes of KV state")
        write_state(Path(path), SavedState(self._fingerprint, self._ranges, payload))

    def load(self, path: Path) -> None:
        """Replace the timeline with a saved one.

        Raises InputError if the file was not saved by a decoder like this one. The timeline is then unchanged; it is
        empty if llama.cpp refuses a file that passed every check here.
        """
        self._alive()
        state = read_state(Path(path), self._fingerprint, self._facts)
        self._scratch.drop()
        low.llama_memory_clear(self._memory, False)
        self._ranges, self._shifted = [], False
        if not state.ranges:
            return
        data = np.frombuffer(state.payload, np.uint8)
        done = low.llama_state_seq_set_data(self._context, pointer_to(data, ctypes.c_uint8), len(data), TIMELINE)
        if done != len(data) or low.llama_memory_seq_pos_max(self._memory, TIMELINE) != state.ranges[-1][1] - 1:
            low.llama_memory_clear(self._memory, True)
            raise InputError(f"{path}: llama.cpp refuses this KV state; prefill again")
        self._ranges = state.ranges

    def interrupt(self) -> None:
        """Make the running call, and all later ones, fail with BackendError. May be called from any thread.

        On CPUs, llama.cpp stops between two operations of its graph.
        """
        self._interruption.value = b"!"

    def resume(self) -> None:
        """Let later calls compute again after `interrupt`."""
        self._interruption.value = b""

    def close(self) -> None:
        """Free the context, and the weights if no other decoder uses them. A second call does nothing."""
        self._finalizer()

    def _alive(self) -> None:
        if not self._finalizer.alive:
            raise BackendError("the decoder is closed; open the model again")

    def _append(self, entries: Entries) -> FloatArray:
        self._alive()
        count, start = len(entries), self.position
        check_room(self.length, start, count, self._facts)
        if self.length + count + self._scratch.done > self._facts.capacity:
            self._scratch.drop()
        self._decode(entries, start, TIMELINE, wanted=True)
        logits = np.ctypeslib.as_array(low.llama_get_logits_ith(self._context, -1), (self._facts.vocab_size,)).copy()
        if not np.isfinite(logits).all():
            low.llama_memory_seq_rm(self._memory, TIMELINE, start, -1)
            raise BackendError(f"{self._path}: gives logits that are not finite; convert or pull the model again")
        self._store(start, start + count)
        return logits

    def _decode(self, entries: Entries, start: int, sequence: int, *, wanted: bool) -> None:
        """Append entries to a sequence; `wanted`: with the logits of the last. Raises BackendError, with none kept."""
        first = 0
        while first < len(entries):
            # llama.cpp re-rotates keys in place, layer by layer. Aborting that would leave some layers rotated, so the
            # decode that does it is short, and is not aborted.
            rotates = self._shifted
            chunk = entries[first : first + (min(self._batch, _UNABORTED) if rotates else self._batch)]
            last = wanted and first + len(chunk) == len(entries)
            if rotates:
                self._may_abort(False)
            status = low.llama_decode(self._context, self._rows.batch(chunk, start + first, sequence, last))
            if rotates:
                self._may_abort(True)
            if status != 0:
                low.llama_memory_seq_rm(self._memory, sequence, start, -1)
                if self._interruption.value:
                    raise BackendError(INTERRUPTED)
                raise BackendError(f"llama.cpp failed to decode (status {status}){LOG.reason()}")
            self._shifted = False
            first += len(chunk)

    def _may_abort(self, allowed: bool) -> None:
        callback = ctypes.cast(_C.strlen, low.ggml_abort_callback)
        text = self._interruption if allowed else _NEVER
        low.llama_set_abort_callback(self._context, callback, ctypes.cast(text, ctypes.c_void_p))

    def _decode_scratch(self, entries: Entries, start: int) -> None:
        self._decode(entries, start, SCRATCH, wanted=False)

    def _store(self, start: int, end: int) -> None:
        if self._ranges and self._ranges[-1][1] == start:
            start = self._ranges.pop()[0]
        self._ranges.append((start, end))

    def _remove(self, start: int, end: int) -> None:
        self._alive()
        check_range(start, end)
        if start == end:
            return
        self._scratch.invalidate(start, end)
        if not low.llama_memory_seq_rm(self._memory, TIMELINE, start, end):
            raise BackendError(f"llama.cpp cannot remove the positions {start} to {end}")
        self._ranges = without(self._ranges, start, end)

    def _apply_shift(self) -> None:
        """Do pending key rotations now, by decoding an entry into the spare cell and removing it."""
        if self._shifted and self._ranges:
            start = self.position
            self._may_abort(False)
            status = low.llama_decode(self._context, self._rows.batch(np.zeros(1, np.int32), start, TIMELINE, True))
            self._may_abort(True)
            low.llama_memory_seq_rm(self._memory, TIMELINE, start, -1)
            if status != 0:
                raise BackendError(f"llama.cpp failed to re-rotate the keys (status {status}){LOG.reason()}")
            self._shifted = False


def _new_context(model: Any, capacity: int, batch: int, options: DecoderOptions, path: Path) -> Any:
    params = low.llama_context_default_params()
    params.n_ctx = cells(capacity)
    params.n_batch = params.n_ubatch = batch
    params.n_seq_max = 2
    params.kv_unified = True  # both sequences share the cells
    params.n_outputs_max = 2  # llama.cpp wants one for each sequence
    params.n_threads = params.n_threads_batch = options.threads or _physical_cores()
    params.type_k = params.type_v = _KV_TYPES[options.kv_precision]
    params.no_perf = True
    # On CPUs llama.cpp's flash attention accumulates in f16, which costs the logits three digits, and is slower. On
    # GPUs it does neither. Quantized values need it.
    if options.kv_precision != "f16":
        params.flash_attn_type = low.LLAMA_FLASH_ATTN_TYPE_ENABLED
    else:
        gpu = low.llama_supports_gpu_offload()
        params.flash_attn_type = low.LLAMA_FLASH_ATTN_TYPE_AUTO if gpu else low.LLAMA_FLASH_ATTN_TYPE_DISABLED
    LOG.clear()
    context = low.llama_init_from_model(model, params)
    if not context:
        raise BackendError(f"{path}: no room for a context of {capacity} entries{LOG.reason()}; use a smaller context")
    return context


def _free(context: Any, weights: Weights) -> None:
    if is_forked():  # they belong to the parent, whose threads llama.cpp would wait for
        return
    low.llama_free(context)
    release(weights)
