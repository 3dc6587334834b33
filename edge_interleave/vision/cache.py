"""Embeddings by content: the same pixels need not go through the tower twice.

A least-recently-used store, bounded in bytes. Knows nothing about towers or pooling: its keys say what made an entry.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from edge_interleave.util.arrays import FloatArray

CAPACITY_BYTES = 256 << 20


@dataclass(frozen=True)
class CacheKey:
    """What determines an image's embeddings."""

    content: bytes
    """Digest of the pixels that the tower gets."""
    tower: str
    """Which tower and projector."""
    stride: int
    mode: str
    """Pooling mode; irrelevant, and so empty, at stride 1."""


def cache_key(pixels: FloatArray, tower: str, stride: int, mode: str) -> CacheKey:
    """The key of preprocessed pixels, float32 (3, H, W), encoded by `tower` and pooled."""
    content = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=32).digest()
    return CacheKey(content, tower, stride, mode if stride > 1 else "")


class EmbeddingCache:
    """Embeddings, float32 (tokens, hidden), by key; the least recently used go first. Safe between threads."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        """Held now: never more than the capacity."""
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[CacheKey, FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> FloatArray | None:
        """The embeddings, read-only, or None; counted as a hit or a miss."""
        with self._lock:
            rows = self._rows.get(key)
            if rows is None:
                self.misses += 1
                return None
            self.hits += 1
            self._rows.move_to_end(key)
            return rows

    def put(self, key: CacheKey, rows: FloatArray) -> FloatArray:
        """Keep a copy of the embeddings (not at all where they exceed the capacity), and give it back, read-only."""
        # A copy, for a row of a batch would keep the whole batch alive.
        rows = np.array(rows, np.float32)
        rows.flags.writeable = False
        with self._lock:
            old = self._rows.pop(key, None)
            self.bytes -= 0 if old is None else old.nbytes
            if rows.nbytes <= self.capacity_bytes:
                self._rows[key] = rows
                self.bytes += rows.nbytes
            while self.bytes > self.capacity_bytes:
                self.bytes -= self._rows.popitem(last=False)[1].nbytes
        return rows

    def __contains__(self, key: CacheKey) -> bool:
        with self._lock:
            return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)
