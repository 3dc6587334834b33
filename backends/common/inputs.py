"""Checks the arguments of every backend's decoder: token ids, embeddings, ranges of positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.backends.common.ranges import Ranges, positions_in
from edge_interleave.decoding.decoder import DecoderFacts
from edge_interleave.errors import ContextFullError, InputError
from edge_interleave.util.arrays import FloatArray

Entries = npt.NDArray[Any]
"""Token ids, int32 (n,), or embeddings, float32 (n, hidden), contiguous."""


def token_entries(ids: Sequence[int], facts: DecoderFacts) -> Entries:
    """Token ids as an array, int32 (n,). Raises ValueError for no ids, or an id outside the vocabulary."""
    tokens = np.asarray(ids)
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise ValueError("token ids must be a non-empty flat sequence of whole numbers")
    if tokens.min() < 0 or tokens.max() >= facts.vocab_size:
        raise ValueError(f"token id out of range: the vocabulary has {facts.vocab_size}")
    return np.ascontiguousarray(tokens, np.int32)


def embedding_entries(rows: FloatArray, facts: DecoderFacts) -> Entries:
    """Embeddings, contiguous. Raises ValueError unless they are finite, float32 and (n, hidden_size), n >= 1."""
    width = facts.hidden_size
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"embeddings must be a float32 array of shape (n, {width})")
    if not len(rows) or not np.isfinite(rows).all():
        raise ValueError("embeddings must have at least one row and finite values")
    return np.ascontiguousarray(rows)


def parts_of_range(
    start: int, end: int, parts: Sequence[Sequence[int] | FloatArray], ranges: Ranges, facts: DecoderFacts
) -> list[Entries]:
    """The parts as arrays, checked to fill the positions start <= p < end of one of the stored `ranges`.

    Raises ValueError if they do not.
    """
    entries = [
        embedding_entries(part, facts) if isinstance(part, np.ndarray) else token_entries(part, facts) for part in parts
    ]
    if start >= end or not any(first <= start and end <= last for first, last in ranges):
        raise ValueError(f"not a range of stored positions: {start} to {end}")
    if sum(map(len, entries)) != end - start:
        raise ValueError(f"{sum(map(len, entries))} entries do not fill the positions {start} to {end}")
    return entries


def check_prefetch(start: int, leaving: tuple[int, int], rows: int) -> None:
    """Raise ValueError unless `leaving` lies before `start` and `rows` is at least 1."""
    if not 0 <= leaving[0] <= leaving[1] <= start:
        raise ValueError(f"positions that leave must lie before {start}: {leaving[0]} to {leaving[1]}")
    if rows < 1:
        raise ValueError(f"rows to prefetch must be at least 1, not {rows}")


def check_room(length: int, position: int, count: int, facts: DecoderFacts) -> None:
    """Raise ContextFullError unless `count` more entries fit after `length` entries, the first at `position`."""
    if length + count > facts.capacity:
        raise ContextFullError(
            f"the context is full: {length} of {facts.capacity} entries are used and {count} more are needed; use a "
            "larger context, fewer images or a larger pooling stride"
        )
    if position + count > facts.trained_context:
        raise ContextFullError(
            f"position {position + count} is past the {facts.trained_context} that the model was trained on; rebase, "
            "or start a new conversation"
        )


def checked_ranges(path: Path, raw: Any, facts: DecoderFacts) -> Ranges:
    """The ranges of positions in a saved timeline's header. Raises InputError if they are damaged or do not fit."""
    pairs = [pair for pair in raw if isinstance(pair, list)] if isinstance(raw, list) else None
    if pairs is None or len(pairs) < len(raw) or not all(list(map(type, pair)) == [int, int] for pair in pairs):
        raise InputError(f"{path}: damaged header; prefill again")
    ranges = [(start, end) for start, end in pairs]
    edges = [edge for pair in ranges for edge in pair]
    if edges != sorted(set(edges)) or (edges and (edges[0] < 0 or edges[-1] > facts.trained_context)):
        raise InputError(f"{path}: damaged header; prefill again")
    length = positions_in(ranges)
    if length > facts.capacity:
        raise InputError(f"{path}: {length} entries do not fit the context of {facts.capacity}; use a larger context")
    return ranges
