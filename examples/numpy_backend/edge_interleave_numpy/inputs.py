"""Checks what a decoder is given: token ids, embeddings, room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.decoding.decoder import DecoderFacts
from edge_interleave.errors import ContextFullError
from edge_interleave.util.arrays import FloatArray


def token_ids(ids: Sequence[int], facts: DecoderFacts) -> npt.NDArray[Any]:
    """Token ids as an array (n,). Raises ValueError for no ids, or an id outside the vocabulary."""
    array = np.asarray(ids)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise ValueError("token ids must be a non-empty flat sequence of whole numbers")
    if array.min() < 0 or array.max() >= facts.vocab_size:
        raise ValueError(f"token id out of range: the vocabulary has {facts.vocab_size}")
    return array


def embeddings(rows: FloatArray, facts: DecoderFacts) -> FloatArray:
    """Embeddings, unchanged. Raises ValueError unless they are finite, float32 and (n, hidden_size), n >= 1."""
    array = np.asarray(rows)
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != facts.hidden_size:
        raise ValueError(f"embeddings must be a float32 array of shape (n, {facts.hidden_size})")
    if not len(array) or not np.isfinite(array).all():
        raise ValueError("embeddings must have at least one row and finite values")
    return array


def check_room(length: int, position: int, count: int, facts: DecoderFacts) -> None:
    """Raise ContextFullError unless `count` more entries fit behind `length` entries, the first at `position`."""
    if length + count > facts.capacity:
        raise ContextFullError(f"the context is full: it holds {facts.capacity} entries; use a larger one")
    if position + count > facts.trained_context:
        raise ContextFullError(
            f"past the {facts.trained_context} positions of the model; rebase, or start a new conversation"
        )
