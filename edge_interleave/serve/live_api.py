"""`/v1/live`: windows over streams of frames, for apps that send pictures steadily and ask from time to time.

A window's id cannot be guessed; knowing it gives access. The window is closed by `DELETE`, with its WebSocket, or after
an idle time.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from edge_interleave.live.live import Live
from edge_interleave.serve.errors import ApiError, busy
from edge_interleave.serve.hub import Card
from edge_interleave.serve.settings import Limits


@dataclass(eq=False)
class Window:
    """A live window of a client."""

    card: Card
    live: Live
    id: str = field(default_factory=lambda: f"live_{secrets.token_urlsafe(24)}")
    used: float = field(default_factory=time.monotonic)

    def state(self) -> dict[str, Any]:
        """The JSON object that describes the window."""
        stats = self.live.stats()
        frames = [{"number": f.number, "time_s": f.time_s, "tokens": f.tokens} for f in self.live.frames]
        return {
            "id": self.id,
            "object": "live",
            "model": self.card.id,
            "frames": frames,
            "questions": stats.questions,
            "entries": stats.entries,
            "capacity": stats.capacity,
        }


class Windows:
    """The live windows of a server. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._windows: dict[str, Window] = {}
        self._opening = 0

    def __len__(self) -> int:
        """Number of open windows."""
        return len(self._windows)

    def reserve(self) -> None:
        """Reserve a place for a window that is being opened. Raises ApiError (429) if all places are taken."""
        with self._lock:
            if len(self._windows) + self._opening >= self._limits.windows:
                raise busy(f"{self._limits.windows} live windows are open; close one", self._limits.window_idle_s)
            self._opening += 1

    def settle(self, window: Window | None) -> None:
        """Fill the reserved place with a window, or give it back if the window is None."""
        with self._lock:
            self._opening -= 1
            if window is not None:
                self._windows[window.id] = window

    def find(self, window_id: str) -> Window:
        """The window with that id; resets its idle time. Raises ApiError (404)."""
        with self._lock:
            window = self._windows.get(window_id)
            if window is None:
                raise ApiError(404, "no such live window; it was closed, or idle for too long", "id", "not_found")
            window.used = time.monotonic()
            return window

    def remove(self, window: Window) -> bool:
        """Close a window, after its running computation stops. Returns whether it was open."""
        with self._lock:
            known = self._windows.pop(window.id, None) is not None
        if known:
            model = window.card.engine.model
            if model is not None:
                model.close_window(window.live)
            else:
                window.live.close()
        return known

    def idle(self) -> list[Window]:
        """Windows whose idle time is over."""
        before = time.monotonic() - self._limits.window_idle_s
        with self._lock:
            return [window for window in self._windows.values() if window.used < before]
