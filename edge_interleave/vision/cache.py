"""An LRU cache of visual tokens by the image's content, bounded in bytes: equal pixels are encoded only once."""

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
    """Everything that determines an image's visual tokens."""

    content: bytes
    """The digest of the preprocessed pixels."""
    tower: str
    """The identity of tower and projector."""
    stride: int
    """The pooling stride."""
    mode: str
    """The pooling mode; empty at stride 1, where it has no effect."""
    frame: bool = False
    """Whether the tower pooled the picture as a frame of a video, before `stride`."""


def cache_key(pixels: FloatArray, tower: str, stride: int, mode: str, *, frame: bool = False) -> CacheKey:
    """The key for preprocessed pixels, float32 (3, H, W), encoded by `tower` and pooled by `stride` and `mode`."""
    content = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=32).digest()
    return CacheKey(content, tower, stride, mode if stride > 1 else "", frame)


class EmbeddingCache:
    """Visual tokens, float32 (tokens, hidden), by key; drops the least recently used first. Thread-safe."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        """Bytes held now, at most the capacity."""
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[CacheKey, FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> FloatArray | None:
        """The visual tokens, read-only, or None. Counts a hit or a miss."""
        with self._lock:
            tokens = self._entries.get(key)
            if tokens is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return tokens

    def put(self, key: CacheKey, tokens: FloatArray) -> FloatArray:
        """Store a copy and return it, read-only. A copy larger than the capacity is returned but not stored."""
        # A copy, because a view into a batch would keep the whole batch alive.
        tokens = np.array(tokens, np.float32)
        tokens.flags.writeable = False
        with self._lock:
            old = self._entries.pop(key, None)
            self.bytes -= 0 if old is None else old.nbytes
            if tokens.nbytes <= self.capacity_bytes:
                self._entries[key] = tokens
                self.bytes += tokens.nbytes
            while self.bytes > self.capacity_bytes:
                self.bytes -= self._entries.popitem(last=False)[1].nbytes
        return tokens

    def __contains__(self, key: CacheKey) -> bool:
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
