"""Plans several live windows that share one model: how many frames each holds within one memory limit, and the costs.

The weights, the tower and the working memory are there once, because the windows compute one after the other. Each
window has a KV cache, compute buffers, and its source's frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import Backend, DecoderOptions
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import ResourceError, UsageError
from edge_interleave.live.layout import WindowLayout, visual_tokens
from edge_interleave.planning.costs import (
    BATCHES,
    SLOW_BATCH,
    frame_tokens,
    model_costs,
    reserve,
    source_costs,
    window_costs,
)
from edge_interleave.planning.footprint import Footprint, measure
from edge_interleave.planning.plan import Cost
from edge_interleave.planning.planner import FRAME_SIZE
from edge_interleave.planning.system_memory import format_memory
from edge_interleave.vision.pooling import frame_stride

DEFAULT_FRAMES = 8
"""Frames of a window that names no number, if the memory holds them. More are not better: a rule is asked about the
whole window, and an alert ends only when its cause has left it."""


@dataclass(frozen=True)
class WindowRequest:
    """A window to plan."""

    name: str
    source: str
    """What is watched: a camera or a stream may need a process of its own."""
    frames: int | None
    """Exactly this many; None: DEFAULT_FRAMES, or as many as fit, the same number for all such windows."""
    pool: tuple[int, ...]
    """Pooling strides of the frames, a pattern that repeats."""
    layout: WindowLayout
    """The lengths of its text."""
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

    model: str
    """The bundle's name."""
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
    more: Sequence[Cost] = (),
    footprint: Footprint | None = None,
) -> SharedPlan:
    """Plan the windows.

    `memory`: bytes; None: no limit. `more`: further costs that the windows share. `footprint`: None measures it, which
    takes seconds.

    Raises ResourceError for too little memory, naming the least that is enough; UsageError for a window that exceeds
    the trained context; BundleError, BackendError.
    """
    check_windows(bundle, requests)
    chosen = backend_for(bundle, backend)
    measured = footprint or measure(bundle, chosen.name, threads)
    planner = _Planner(bundle, chosen, requests, memory, threads, kv_precision, frame_size, more, measured)
    return planner.best()


def check_windows(bundle: Bundle, requests: Sequence[WindowRequest]) -> None:
    """Check that each window has a possible pooling stride and fits into the trained context. Opens no engine.

    Raises UsageError, which names the window.
    """
    trained = bundle.manifest.decoder.context_length
    for request in requests:
        frames = request.frames or 1
        try:
            needed = request.layout.entries(frames, frame_tokens(bundle, request.pool), request.keep_answers)
        except UsageError as error:
            raise UsageError(f"{request.name}: {error}") from error
        if needed > trained:
            raise UsageError(
                f"{request.name}: a window of {frames} frame{'s' * (frames > 1)} needs {needed} entries, and "
                f"{bundle.manifest.name} was trained on {trained}; take fewer, or a larger pooling stride"
            )


@dataclass(frozen=True)
class _Planner:
    bundle: Bundle
    backend: Backend
    requests: Sequence[WindowRequest]
    memory: int | None
    threads: int | None
    kv_precision: str
    frame_size: tuple[int, int]
    more: Sequence[Cost]
    measured: Footprint

    def best(self) -> SharedPlan:
        """The plan with the most frames; of equal ones, that with the largest batch. Raises ResourceError."""
        best: tuple[int, SharedPlan] | None = None
        for batch in self._batches():
            for frames, plan in self._plans(batch):
                if self.memory is None or plan.estimate <= self.memory:
                    if best is None or frames > best[0]:
                        best = (frames, plan)
                    break
            if best is not None and best[0] >= DEFAULT_FRAMES:
                break
        if best is None:
            least = self._plan(1, BATCHES[-1])
            raise ResourceError(
                f"{format_memory(self.memory or 0)} is too little for these {len(self.requests)} sources with "
                f"{self.bundle.manifest.name}; the least that is enough is {format_memory(least.estimate)}"
            )
        return best[1]

    def _plans(self, batch: int) -> Iterator[tuple[int, SharedPlan]]:
        """Plans with fewer and fewer frames in the windows that name no number."""
        free = [request for request in self.requests if request.frames is None]
        for frames in range(DEFAULT_FRAMES, 0, -1):
            if all(self._entries(request, frames) <= self._trained_context for request in free):
                yield frames, self._plan(frames, batch)
                if not free:
                    return

    def _batches(self) -> list[int]:
        largest = max(max(frame_tokens(self.bundle, request.pool)) for request in self.requests)
        first = min(max(largest, SLOW_BATCH), BATCHES[0])
        return sorted({first, *(batch for batch in BATCHES if batch < first)}, reverse=True)

    @property
    def _trained_context(self) -> int:
        return self.bundle.manifest.decoder.context_length

    def _entries(self, request: WindowRequest, frames: int) -> int:
        tokens = frame_tokens(self.bundle, request.pool)
        return request.layout.entries(frames, tokens, request.keep_answers)

    def _plan(self, frames: int, batch: int) -> SharedPlan:
        """The plan with this many frames in the windows that name no number."""
        windows = tuple(self._window(request, request.frames or frames, batch) for request in self.requests)
        shared = (*model_costs(self.measured), *self.more)
        each = [cost for window in windows for cost in window.costs]
        return SharedPlan(
            self.bundle.manifest.name,
            self.backend.name,
            self.memory,
            self.kv_precision,
            batch,
            windows,
            (*shared, reserve([*shared, *each])),
        )

    def _window(self, request: WindowRequest, frames: int, batch: int) -> PlannedWindow:
        tokens = frame_tokens(self.bundle, request.pool)
        context = request.layout.context(
            frames, tokens, request.keep_answers, sliding=request.sliding, limit=self._trained_context
        )
        options = DecoderOptions(context, self.threads, self.kv_precision, batch)
        visual = visual_tokens(frames, tokens) + request.layout.after_frames
        vision = self.bundle.manifest.vision
        pool = tuple(frame_stride(vision, stride) for stride in request.pool)
        kept = (Cost("pictures of alerts", request.kept_bytes),) if request.kept_bytes else ()
        costs = (
            *window_costs(self.bundle, self.backend, options, visual, self.frame_size),
            *kept,
            *source_costs(request.source, self.frame_size),
        )
        return PlannedWindow(request.name, frames, pool, visual, context, costs)
