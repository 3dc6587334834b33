"""The backend: a timeline over the engine, and the object that the entry point names. Read this file first.

A timeline is three arrays: positions, keys and values of its entries. Their order does not matter, since attention
depends on positions only. To evict is to drop rows; to recompute is to drop rows and append others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_interleave.bundle.manifest import MLX_NAME, Bundle
from edge_interleave.decoding.decoder import INTERRUPTED, Decoder, DecoderFacts, DecoderMemory, DecoderOptions
from edge_interleave.errors import BackendError, InputError
from edge_interleave.util.arrays import FloatArray

from .inputs import check_room, embeddings, token_ids
from .qwen2 import Qwen2
from .timeline_file import read_timeline, write_timeline
from .weights import read_config

BATCH = 64
"""The greatest number of entries computed at a time."""


class NumpyBackend:
    """The backend of the entry point `numpy-example`."""

    name = "numpy-example"
    decoder_file = MLX_NAME
    """The part of a bundle that this backend runs. It is chosen for bundles that have this part."""

    def open(self, bundle: Bundle, options: DecoderOptions) -> Decoder:
        """Open the bundle's `decoder-mlx/`. Raises BundleError, BackendError for a KV precision other than f16."""
        return NumpyDecoder(bundle, options)

    def memory(self, bundle: Bundle, options: DecoderOptions) -> DecoderMemory:
        """The bytes that an open decoder takes when its cache is full. Reads no weights. Raises like `open`."""
        facts, config, info = _facts(bundle, options), read_config(bundle), bundle.manifest.decoder
        rows, cells = min(options.batch or BATCH, BATCH), facts.capacity
        attending = 4 * rows * info.heads * cells + 12 * cells * info.kv_heads * info.head_dim
        floats = rows * (6 * info.hidden_size + 5 * config.feed_forward) + 3 * info.vocab_size
        moving = cells * (facts.bytes_per_token // info.layers + 64)
        largest = max(entry.bytes for _, entry in config.tensors.values())
        return DecoderMemory(
            weights=config.bytes,
            cache=facts.capacity * facts.bytes_per_token,
            compute=max(4 * (floats + attending) + moving, largest),
        )


BACKEND = NumpyBackend()


class NumpyDecoder:
    """One timeline. See `edge_interleave.decoding.decoder.Decoder` for what each method promises.

    It has no lock: the runtime makes one call at a time, from any thread. Two decoders may be called at the same time;
    they share nothing.
    """

    def __init__(self, bundle: Bundle, options: DecoderOptions) -> None:
        self.facts = _facts(bundle, options)
        self._model: Qwen2 | None = Qwen2(read_config(bundle))
        self._batch = min(options.batch or BATCH, BATCH)
        self._interrupted = False
        info, files = bundle.manifest.decoder, bundle.manifest.files
        shape = (info.layers, self.facts.capacity, info.kv_heads, info.head_dim)
        self._keys, self._values = np.zeros(shape, np.float16), np.zeros(shape, np.float16)
        self._positions = np.zeros(0, np.int64)  # of the stored entries; the arrays above have room for more
        weights = "".join(files[f"{MLX_NAME}/{name}"].sha256 for name in sorted(bundle.files_in(MLX_NAME)))
        self._fingerprint = hashlib.sha256(f"numpy-example 1 {weights}".encode()).digest()

    @property
    def length(self) -> int:
        """Entries in the KV cache."""
        return len(self._positions)

    @property
    def position(self) -> int:
        """One past the last entry's position."""
        return int(self._positions.max(initial=-1)) + 1

    def append_tokens(self, ids: Sequence[int]) -> FloatArray:
        """Extend the timeline by tokens. Returns the logits of the last one."""
        return self._append(self._alive().embed(token_ids(ids, self.facts)))

    def append_embeddings(self, rows: FloatArray) -> FloatArray:
        """Extend the timeline by embeddings. Returns the logits of the last one."""
        self._alive()
        return self._append(embeddings(rows, self.facts))

    def truncate(self, position: int) -> None:
        """Remove the entries at `position` and after."""
        self._alive()
        self._keep(self._positions < position)

    def evict(self, start: int, end: int) -> None:
        """Remove a range. Later entries keep their positions."""
        self._alive()
        if not 0 <= start <= end:
            raise ValueError(f"not a range of stored positions: {start} to {end}")
        self._keep((self._positions < start) | (self._positions >= end))

    def rebase(self) -> None:
        """Close the gaps. Keys are stored before rotation, so only the positions change."""
        self._alive()
        self._positions = np.argsort(np.argsort(self._positions))

    def recompute(self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray]) -> None:
        """Recompute a range right behind the entries before it, then give it its positions back."""
        embed = self._alive().embed
        rows = [
            embeddings(part, self.facts) if isinstance(part, np.ndarray) else embed(token_ids(part, self.facts))
            for part in parts
        ]
        inside = (self._positions >= start) & (self._positions < end)
        if start >= end or inside.sum() != end - start:
            raise ValueError(f"not a range of stored positions: {start} to {end}")
        if sum(map(len, rows)) != end - start:
            raise ValueError(f"{sum(map(len, rows))} entries do not fill the positions {start} to {end}")
        before = int(self._positions[self._positions < start].max(initial=-1)) + 1
        self._keep(~inside)
        self._compute(np.concatenate(rows), before)
        self._positions[start - end :] = np.arange(start, end)

    def prefetch(
        self, start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], leaving: tuple[int, int], rows: int
    ) -> bool:
        """Prepare nothing: this is optional. `recompute` then computes everything."""
        self._alive()
        return False

    def save(self, path: Path) -> None:
        """Write the arrays to a file."""
        self._alive()
        arrays = (self._positions, self._keys[:, : self.length], self._values[:, : self.length])
        write_timeline(path, self._fingerprint, b"".join(array.tobytes() for array in arrays))

    def load(self, path: Path) -> None:
        """Replace the timeline with a saved one. The file is untrusted and checked before anything changes."""
        self._alive()
        entry = self.facts.bytes_per_token + 8
        body = read_timeline(path, self._fingerprint, self.facts.capacity * entry)
        length, rest = divmod(len(body), entry)
        positions = np.frombuffer(body[: 8 * length], np.int64).copy()
        past = positions.max(initial=-1) >= self.facts.trained_context
        if rest or past or positions.min(initial=0) < 0 or len(np.unique(positions)) != length:
            raise InputError(f"{path}: its positions are damaged; prefill again")
        halves = np.frombuffer(body[8 * length :], np.float16)
        both = halves.reshape(2, len(self._keys), length, *self._keys.shape[2:])
        self._keys[:, :length], self._values[:, :length], self._positions = both[0], both[1], positions

    def interrupt(self) -> None:
        """Make the running call, and all later ones, fail before the next layer. May be called from any thread."""
        self._interrupted = True

    def resume(self) -> None:
        """Let later calls compute again after `interrupt`."""
        self._interrupted = False

    def close(self) -> None:
        """Free weights and cache."""
        self._model = None
        self._keys = self._values = np.zeros((0, 0, 0, 0), np.float16)

    def _alive(self) -> Qwen2:
        if self._model is None:
            raise BackendError("the decoder is closed; open the model again")
        return self._model

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise BackendError(INTERRUPTED)

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Keep these entries, moved to the front of the arrays, and drop the others."""
        count = int(kept.sum())
        for cache in (*self._keys, *self._values):  # layer by layer: copying all at once would double the memory
            cache[:count] = cache[: self.length][kept]
        self._positions = self._positions[kept]

    def _append(self, rows: FloatArray) -> FloatArray:
        check_room(self.length, self.position, len(rows), self.facts)
        return self._compute(rows, self.position)

    def _compute(self, rows: FloatArray, start: int) -> FloatArray:
        """Store entries at positions from `start` on, behind the others in the arrays. Stores none if it fails."""
        model, before = self._alive(), self._positions
        try:
            for first in range(0, len(rows), self._batch):
                chunk = rows[first : first + self._batch]
                self._positions = np.concatenate((self._positions, start + first + np.arange(len(chunk))))
                cells = slice(0, self.length)
                caches = self._keys[:, cells], self._values[:, cells]
                hidden = model.forward(chunk, self._positions, *caches, self._check_interrupted)
            logits = model.logits(hidden[-1])
            if not np.isfinite(logits).all():
                raise BackendError("the weights give logits that are not finite; convert the model again")
        except BaseException:
            self._positions = before
            raise
        return logits


def _facts(bundle: Bundle, options: DecoderOptions) -> DecoderFacts:
    if options.kv_precision != "f16":
        raise BackendError(f"the NumPy example has no KV precision {options.kv_precision}; use f16")
    info = bundle.manifest.decoder
    return DecoderFacts(
        hidden_size=info.hidden_size,
        vocab_size=info.vocab_size,
        trained_context=info.context_length,
        capacity=max(1, min(options.context, info.context_length)),
        bytes_per_token=2 * info.layers * info.kv_heads * info.head_dim * np.dtype(np.float16).itemsize,
    )
