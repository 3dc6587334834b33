"""`/v1/live`: windows over streams of frames, for apps that send pictures steadily and ask from time to time.

A window's id cannot be guessed; knowing it gives access. The window is closed by `DELETE`, with its WebSocket, or after
an idle time.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from PIL.Image import Image
from starlette.types import Receive

from edge_interleave.live.live import Live
from edge_interleave.serve.content import Picture
from edge_interleave.serve.errors import ApiError, busy, wrong
from edge_interleave.serve.handle import Done, Handle
from edge_interleave.serve.hub import Card, Hub
from edge_interleave.serve.jobs import Jobs
from edge_interleave.serve.loaded import LoadedModel, PoolingChoice
from edge_interleave.serve.schema import LiveRequest
from edge_interleave.serve.settings import Limits


@dataclass(eq=False)
class Window:
    """A live window of a client."""

    card: Card
    live: Live
    asked: LiveRequest
    choices: tuple[PoolingChoice, ...]
    """What the context allows, for each pooling stride."""
    id: str = field(default_factory=lambda: f"live_{secrets.token_urlsafe(24)}")
    used: float = field(default_factory=time.monotonic)

    def state(self) -> dict[str, Any]:
        """The JSON object that describes the window."""
        vision = self.card.bundle.manifest.vision
        return {
            "id": self.id,
            "object": "live",
            "model": self.card.id,
            "window": self.asked.window,
            "pool": self.asked.pool,
            "mode": self.asked.mode,
            "image_size": vision.image_size,
            "allowed": [asdict(choice) for choice in self.choices],
            **self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        """The frames in the window, and counts, milliseconds (medians) and bytes so far."""
        stats = self.live.stats()
        return {
            "frames": [{"number": f.number, "time_s": f.time_s, "tokens": f.tokens} for f in self.live.frames],
            "questions": stats.questions,
            "entries": stats.entries,
            "capacity": stats.capacity,
            "encode_ms": stats.encode_s * 1000,
            "prefill_ms": stats.append_s * 1000,
            "frames_per_s": stats.frames_per_s,
            "memory_bytes": stats.memory_bytes,
            "peak_memory_bytes": stats.peak_memory_bytes,
        }


class Windows:
    """The live windows of a server. Thread-safe."""

    def __init__(self, limits: Limits, hub: Hub, jobs: Jobs) -> None:
        self._limits = limits
        self._hub = hub
        self._jobs = jobs
        self._lock = threading.Lock()
        self._windows: dict[str, Window] = {}
        self._opening = 0

    def __len__(self) -> int:
        """Number of open windows."""
        return len(self._windows)

    async def open(self, asked: LiveRequest, client: str, receive: Receive | None = None) -> Window:
        """Open a window. Raises ApiError: 429 if all places are taken."""
        if asked.window > self._limits.window_frames:
            raise wrong("window", f"more than {self._limits.window_frames} frames")
        card = self._hub.card(asked.model)

        def open_window(model: LoadedModel, handle: Handle) -> None:
            choices = model.pooling_choices(self._limits.window_frames, asked.system, keep_answers=asked.keep_answers)
            window = Window(card, model.open_window(asked), asked, choices)
            with self._lock:
                # A client that goes now, too late for this check, leaves a window that its idle time closes.
                gone = handle.cancel.is_set()
                if not gone:
                    self._windows[window.id] = window
            if gone:
                model.close_window(window.live)
            else:
                handle.emit(Done(window))

        self._reserve()
        try:
            window = await self._jobs.run(card, client, open_window, receive)
        finally:
            with self._lock:
                self._opening -= 1
        assert isinstance(window, Window)
        return window

    async def add_frames(
        self,
        window: Window,
        pictures: Sequence[Picture | Image],
        time_s: float | None,
        client: str,
        receive: Receive | None = None,
    ) -> Any:
        """Add pictures to a window; returns their numbers. Raises ApiError."""
        return await self._jobs.run(
            window.card, client, lambda m, h: m.add_frames(window.live, pictures, time_s, h), receive
        )

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

    def _reserve(self) -> None:
        """Reserve a place for a window that is being opened. Raises ApiError (429) if all places are taken."""
        with self._lock:
            if len(self._windows) + self._opening >= self._limits.windows:
                raise busy(f"{self._limits.windows} live windows are open; close one", self._limits.window_idle_s)
            self._opening += 1
