"""Plays a recording at its own speed."""

from __future__ import annotations

import threading
import time


class PlaybackClock:
    """Delays each frame of a recording until it is due."""

    def __init__(self, stop: threading.Event) -> None:
        """`stop`: when set, `wait` returns at once."""
        self._stop = stop
        self._start: float | None = None

    def wait(self, time_s: float) -> None:
        """Wait until the frame at `time_s` seconds is due, counted from the first call; a late frame does not wait."""
        now = time.monotonic()
        if self._start is None:
            self._start = now - time_s
        # Waits in steps: a damaged time stamp may lie years ahead, beyond the longest wait that a lock supports.
        while (left := self._start + time_s - time.monotonic()) > 0 and not self._stop.wait(min(left, 3600)):
            pass
