"""What is handed to llama.cpp at a time: token ids or embeddings, checked, with their positions and their sequence.

Knows nothing about what lies in the KV cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as low
import numpy as np
import numpy.typing as npt

from edge_interleave.decoder import DecoderFacts, FloatArray

Entries = npt.NDArray[Any]
"""Token ids, int32 (n,), or embeddings, float32 (n, hidden), contiguous."""


def token_entries(ids: Sequence[int], facts: DecoderFacts) -> Entries:
    """Token ids as an array. Raises ValueError for none, or one that is not in the vocabulary."""
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise ValueError("token ids must be a non-empty flat sequence of whole numbers")
    if tokens.min() < 0 or tokens.max() >= facts.vocab_size:
        raise ValueError(f"token id out of range: the vocabulary has {facts.vocab_size}")
    return np.ascontiguousarray(tokens, np.int32)


def embedding_entries(rows: FloatArray, facts: DecoderFacts) -> Entries:
    """Embeddings as they are. Raises ValueError for another shape or dtype, or values that are not finite."""
    width = facts.hidden_size
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"embeddings must be a float32 array of shape (n, {width})")
    if not len(rows) or not np.isfinite(rows).all():
        raise ValueError("embeddings must have at least one row and finite values")
    return np.ascontiguousarray(rows)


class BatchRows:
    """The arrays that a llama_batch points to, allocated once."""

    def __init__(self, size: int) -> None:
        """`size`: the most entries of a batch."""
        self._positions = np.zeros(size, np.int32)
        self._counts = np.ones(size, np.int32)
        self._sequence = (low.llama_seq_id * 1)(0)
        pointer = ctypes.cast(self._sequence, ctypes.POINTER(low.llama_seq_id))
        self._sequences = (ctypes.POINTER(low.llama_seq_id) * size)(*[pointer] * size)
        self._logits = np.zeros(size, np.int8)
        self._entries: Entries | None = None

    def batch(self, entries: Entries, start: int, sequence: int, last: bool) -> Any:
        """A llama_batch, valid until the next call; with `last` the logits of its last entry are computed."""
        count = len(entries)
        embeddings = entries.ndim == 2
        self._entries = entries  # kept alive while llama.cpp reads it
        self._sequence[0] = sequence
        self._positions[:count] = np.arange(start, start + count)
        self._logits[:count] = 0
        self._logits[count - 1] = last
        return low.llama_batch(
            n_tokens=count,
            token=None if embeddings else pointer_to(entries, low.llama_token),
            embd=pointer_to(entries, ctypes.c_float) if embeddings else None,
            pos=pointer_to(self._positions, low.llama_pos),
            n_seq_id=pointer_to(self._counts, ctypes.c_int32),
            seq_id=self._sequences,
            logits=pointer_to(self._logits, ctypes.c_int8),
        )


def pointer_to(array: npt.NDArray[Any], kind: Any) -> Any:
    """A C pointer to an array's data, which the caller keeps alive."""
    return array.ctypes.data_as(ctypes.POINTER(kind))
