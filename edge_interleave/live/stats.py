"""Figures of a live window."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_interleave.media.reader import ReaderStats

RECENT = 100
"""The number of latest frames that times and rates are computed from."""


@dataclass(frozen=True)
class LiveStats:
    """Counts since the beginning, times over the latest RECENT frames, bytes now."""

    frames: int
    """Frames added to the window."""
    window: int
    """Frames in the window now."""
    questions: int
    damaged: int
    """Frames that were read but could not be decoded."""
    entries: int
    """KV entries in use."""
    capacity: int
    """KV entries that the cache holds."""
    encode_s: float
    """Median time to encode a frame."""
    append_s: float
    """Median time to add an encoded frame to the window, including the eviction of the oldest."""
    frames_per_s: float
    """Rate at which the latest frames were added."""
    source: ReaderStats | None
    """Counts of the source's frames; None if there is no source."""
    memory_bytes: int
    """Resident bytes now; 0 if the system does not report them."""
    peak_memory_bytes: int
    """The most resident bytes so far."""
    vision_provider: str
    """The ONNX Runtime execution provider of the vision tower."""


class RollingTiming:
    """Duration and rate of the latest repetitions of a step. Thread-safe."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    def add(self, seconds: float, end: float) -> None:
        """Record a repetition: its duration, and its end by `time.perf_counter`."""
        with self._lock:
            self._seconds.append(seconds)
            self._ends.append(end)

    @property
    def seconds(self) -> float:
        """Median duration; 0 before the first."""
        with self._lock:
            return median(self._seconds) if self._seconds else 0.0

    @property
    def rate(self) -> float:
        """Repetitions per second; 0 before the second."""
        with self._lock:
            span = self._ends[-1] - self._ends[0] if self._ends else 0.0
            return (len(self._ends) - 1) / span if span > 0 else 0.0
