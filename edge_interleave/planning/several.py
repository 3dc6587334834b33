"""Plans several live windows that share one model: how many frames each holds within one memory limit, and the costs.

The weights, the tower and the working memory are there once, because the windows compute one after the other. Each
window has a KV cache, compute buffers, and its source's frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import DecoderOptions
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import ResourceError, UsageError
from edge_interleave.live.layout import visual_tokens
from edge_interleave.media.capture.memory import capture_process_bytes
from edge_interleave.media.sources.open import may_need_capture_process
from edge_interleave.planning.footprint import Footprint, frame_buffer_bytes, measure
from edge_interleave.planning.plan import Cost
from edge_interleave.planning.planner import FRAME_SIZE, MAX_FRAMES
from edge_interleave.planning.system_memory import format_memory
from edge_interleave.vision.pooling import frame_stride, image_tokens

DEFAULT_FRAMES = 8
"""Frames of a window that names no number, where there is no limit."""
_MOST_FRAMES = MAX_FRAMES["coverage"]
_BATCHES = (512, 256, 128, 64, 32)
_FLOAT32_BYTES = 4
_RESERVE, _RESERVE_BYTES = 0.01, 1_000_000


@dataclass(frozen=True)
class WindowRequest:
    """A window to plan."""

    name: str
    source: str
    """What is watched: a camera or a stream may need a process of its own."""
    frames: int | None
    """Exactly this many; None: as many as fit, the same number for all such windows."""
    pool: tuple[int, ...]
    """Pooling strides of the frames, a pattern that repeats."""
    keep_answers: bool = False
    sliding: bool = True
    kept_bytes: int = 0
    """Bytes of the pictures that are kept beside the window."""


@dataclass(frozen=True)
class PlannedWindow:
    """A window, and what it costs."""

    name: str
    frames: int
    pool: tuple[int, ...]
    visual_tokens: int
    """Visual tokens of the full window, at most."""
    context: int
    """KV entries."""
    costs: tuple[Cost, ...]

    @property
    def bytes(self) -> int:
        """The sum of the costs."""
        return sum(cost.bytes for cost in self.costs)


@dataclass(frozen=True)
class SharedPlan:
    """Windows that fit the memory limit together."""

    backend: str
    memory: int | None
    """The limit in bytes; None: no limit."""
    kv_precision: str
    batch: int
    """KV entries that a decoder computes at a time."""
    windows: tuple[PlannedWindow, ...]
    shared: tuple[Cost, ...]
    """What all windows share."""

    @property
    def estimate(self) -> int:
        """Resident bytes at the peak."""
        return sum(cost.bytes for cost in self.shared) + sum(window.bytes for window in self.windows)

    @property
    def context(self) -> int:
        """KV entries of the largest window."""
        return max(window.context for window in self.windows)


def plan_windows(
    bundle: Bundle,
    requests: Sequence[WindowRequest],
    memory: int | None = None,
    *,
    backend: str | None = None,
    threads: int | None = None,
    kv_precision: str = "f16",
    frame_size: tuple[int, int] = FRAME_SIZE,
    footprint: Footprint | None = None,
) -> SharedPlan:
    """Plan the windows. `memory`: bytes; None: no limit. `footprint`: None measures it, which takes seconds.

    Raises ResourceError for too little memory, naming the least that is enough; UsageError for a window that exceeds
    the trained context; BundleError, BackendError.
    """
    chosen = backend_for(bundle, backend)
    measured = footprint or measure(bundle, chosen.name, threads)
    planner = _Planner(bundle, chosen.name, requests, memory, threads, kv_precision, frame_size, measured)
    return planner.best()


@dataclass(frozen=True)
class _Planner:
    bundle: Bundle
    backend: str
    requests: Sequence[WindowRequest]
    memory: int | None
    threads: int | None
    kv_precision: str
    frame_size: tuple[int, int]
    measured: Footprint

    def best(self) -> SharedPlan:
        """The plan with the largest batch that leaves enough frames."""
        if self.memory is None or all(request.frames is not None for request in self.requests):
            wanted = DEFAULT_FRAMES
        else:
            wanted = _MOST_FRAMES
        best: tuple[int, SharedPlan] | None = None
        for batch in self._batches():
            for frames in range(wanted, 0, -1):
                plan = self._plan(frames, batch)
                if plan is not None and (self.memory is None or plan.estimate <= self.memory):
                    if best is None or frames > best[0]:
                        best = (frames, plan)
                    break
            if best is not None and best[0] >= min(DEFAULT_FRAMES, wanted):
                return best[1]
        if best is not None:
            return best[1]
        least = self._plan(1, _BATCHES[-1])
        if least is None:
            raise UsageError(self._too_long())
        raise ResourceError(
            f"{format_memory(self.memory or 0)} is too little for {len(self.requests)} sources with "
            f"{self.bundle.manifest.name}; the least that is enough is {format_memory(least.estimate)}"
        )

    def _batches(self) -> list[int]:
        largest = max(max(self._frame_tokens(request.pool)) for request in self.requests)
        first = min(max(largest, 64), _BATCHES[0])
        return sorted({first, *(batch for batch in _BATCHES if batch < first)}, reverse=True)

    def _frame_tokens(self, pool: tuple[int, ...]) -> tuple[int, ...]:
        manifest = self.bundle.manifest
        strides = (frame_stride(manifest.vision, stride) for stride in pool)
        return tuple(image_tokens(manifest.vision, stride, manifest.pooling_mode) for stride in strides)

    def _too_long(self) -> str:
        trained = self.bundle.manifest.decoder.context_length
        for request in self.requests:
            needed = self._entries(request, request.frames or 1)
            if needed > trained:
                return (
                    f"{request.name}: a window of {request.frames or 1} frames needs {needed} entries, and "
                    f"{self.bundle.manifest.name} was trained on {trained}; take fewer, or a larger pooling stride"
                )
        raise AssertionError("every window fits")

    def _entries(self, request: WindowRequest, frames: int) -> int:
        return self.measured.layout.entries(frames, self._frame_tokens(request.pool), request.keep_answers)

    def _plan(self, frames: int, batch: int) -> SharedPlan | None:
        """The plan with this many frames in windows that name no number; None if one exceeds the trained context."""
        trained = self.bundle.manifest.decoder.context_length
        windows = []
        for request in self.requests:
            count = request.frames or frames
            if self._entries(request, count) > trained:
                return None
            windows.append(self._window(request, count, batch))
        measured = self.measured
        shared: tuple[Cost, ...] = (
            Cost("interpreter and libraries", measured.libraries),
            Cost("tokenizer", measured.tokenizer),
            Cost("decoder weights", measured.decoder),
            Cost("vision tower weights", measured.tower),
            Cost("vision activations", measured.working),
        )
        total = sum(cost.bytes for cost in shared) + sum(window.bytes for window in windows)
        reserve = Cost("reserve", int(total * _RESERVE) + _RESERVE_BYTES)
        return SharedPlan(self.backend, self.memory, self.kv_precision, batch, tuple(windows), (*shared, reserve))

    def _window(self, request: WindowRequest, frames: int, batch: int) -> PlannedWindow:
        tokens = self._frame_tokens(request.pool)
        manifest = self.bundle.manifest
        trained = manifest.decoder.context_length
        context = self.measured.layout.context(
            frames, tokens, request.keep_answers, sliding=request.sliding, limit=trained
        )
        options = DecoderOptions(context, self.threads, self.kv_precision, batch)
        decoder = backend_for(self.bundle, self.backend).memory(self.bundle, options)
        visual = visual_tokens(frames, tokens)
        square = 3 * max(self.frame_size) ** 2 if manifest.vision.resize == "pad" else 0
        embeddings = (visual + manifest.vision.tokens) * manifest.decoder.hidden_size * _FLOAT32_BYTES
        costs: tuple[Cost, ...] = (
            Cost("KV cache", decoder.cache),
            Cost("compute buffers", decoder.compute),
            Cost("frames and their embeddings", frame_buffer_bytes(*self.frame_size) + square + embeddings),
        )
        if request.kept_bytes:
            costs += (Cost("pictures before an alert", request.kept_bytes),)
        if may_need_capture_process(request.source):
            is_camera = request.source.startswith("camera:")
            costs += (Cost("the source's process", capture_process_bytes(*self.frame_size, camera=is_camera)),)
        return PlannedWindow(request.name, frames, request.pool, visual, context, costs)
