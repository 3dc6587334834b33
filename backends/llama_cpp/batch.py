"""Builds llama.cpp's batches: token ids or embeddings, with their positions and their sequence."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as low
import numpy as np
import numpy.typing as npt

from edge_interleave.backends.common.inputs import Entries


class BatchRows:
    """The arrays that a llama_batch points to, allocated once."""

    def __init__(self, size: int) -> None:
        """`size`: the greatest number of entries in a batch."""
        self._positions = np.zeros(size, np.int32)
        self._counts = np.ones(size, np.int32)
        self._sequence = (low.llama_seq_id * 1)(0)
        pointer = ctypes.cast(self._sequence, ctypes.POINTER(low.llama_seq_id))
        self._sequences = (ctypes.POINTER(low.llama_seq_id) * size)(*[pointer] * size)
        self._logits = np.zeros(size, np.int8)
        self._entries: Entries | None = None

    def batch(self, entries: Entries, start: int, sequence: int, last: bool) -> Any:
        """A llama_batch, valid until the next call. `last`: compute the logits of its last entry."""
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
    """A C pointer to an array's data. The caller keeps the array alive."""
    return array.ctypes.data_as(ctypes.POINTER(kind))
