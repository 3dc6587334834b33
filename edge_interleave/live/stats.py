"""Figures of a live window. Knows nothing about how it works."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_interleave.media.reader import ReaderStats

RECENT = 100
"""Frames whose times a pace is taken over."""


@dataclass(frozen=True)
class LiveStats:
    """Counts since the beginning; times over the latest RECENT frames; bytes now."""

    frames: int
    """Frames that went into the window."""
    window: int
    """Frames that are in it now."""
    questions: int
    damaged: int
    """Frames that were read and whose picture could not be used."""
    entries: int
    """KV cache entries in use."""
    capacity: int
    encode_s: float
    """Median time to encode a frame."""
    append_s: float
    """Median time to put a frame into the window, the oldest one's leaving included."""
    frames_per_s: float
    """Frames that went into the window, over the time between the first and the last of the latest."""
    source: ReaderStats | None
    """What became of the source's frames; None where there is no source."""
    memory_bytes: int
    """Resident now; 0 where the system does not say."""
    peak_memory_bytes: int
    vision_provider: str
    """ONNX Runtime's name of what runs the vision tower."""


class RollingTiming:
    """How long something takes, of late. Safe between threads."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    def add(self, seconds: float, end: float) -> None:
        """It took so long, and was through at that time (`time.perf_counter`)."""
        with self._lock:
            self._seconds.append(seconds)
            self._ends.append(end)

    @property
    def seconds(self) -> float:
        """Median; 0 where it never happened."""
        with self._lock:
            return median(self._seconds) if self._seconds else 0.0

    @property
    def rate(self) -> float:
        """How often a second; 0 before the second time."""
        with self._lock:
            span = self._ends[-1] - self._ends[0] if self._ends else 0.0
            return (len(self._ends) - 1) / span if span > 0 else 0.0
