"""`/v1/live`: windows over streams of frames, for apps that send pictures all the time and ask now and then.

A window belongs to who knows its id, which cannot be guessed. It is closed by `DELETE`, when its WebSocket ends, or
after a time without use.
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
        """What is told about it."""
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
    """The live windows of a server. Safe between threads."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._windows: dict[str, Window] = {}
        self._opening = 0

    def __len__(self) -> int:
        """Open windows."""
        return len(self._windows)

    def reserve(self) -> None:
        """Take the place of a window that is about to be opened. Raises ApiError (429) where there are enough."""
        with self._lock:
            if len(self._windows) + self._opening >= self._limits.windows:
                raise busy(f"{self._limits.windows} live windows are open; close one", self._limits.window_idle_s)
            self._opening += 1

    def settle(self, window: Window | None) -> None:
        """The place is filled, or given back."""
        with self._lock:
            self._opening -= 1
            if window is not None:
                self._windows[window.id] = window

    def find(self, number: str) -> Window:
        """The window of that id, which counts as used. Raises ApiError (404)."""
        with self._lock:
            window = self._windows.get(number)
            if window is None:
                raise ApiError(404, "no such live window; it was closed, or idle for too long", "id", "not_found")
            window.used = time.monotonic()
            return window

    def remove(self, window: Window) -> bool:
        """Close a window; whether it was open. Waits for what it computes to break off."""
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
        """Windows that nobody has used for too long."""
        before = time.monotonic() - self._limits.window_idle_s
        with self._lock:
            return [window for window in self._windows.values() if window.used < before]
