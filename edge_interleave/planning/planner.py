"""Plans a live window for a memory limit: how many frames, at which pooling, and what each part costs in bytes.

    made = plan(open_bundle(folder), "1.5GB", "coverage")
    with made.open() as model, model.live(made.frames, made.pool) as live:
        ...

The memory of a model without frames is measured (`footprint`); what grows with the window is computed. At an equal
number of visual tokens, the LLaVA-NeXT-Interleave paper finds fewer unpooled frames better than more frames pooled to a
quarter (10 x 729 against 40 x 729/4), and more frames at inference than in training better still. The goal `detail`
follows the paper. `coverage` takes more, pooled frames, because the model misses an event between two frames.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edge_interleave.bundle.manifest import Bundle, VisionInfo
from edge_interleave.decoding.decoder import Backend, DecoderOptions
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import BackendError, ResourceError, UsageError
from edge_interleave.live.layout import visual_tokens
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
from edge_interleave.planning.goals import COVERAGE, DETAIL, GOALS, LATENCY, PRESETS
from edge_interleave.planning.plan import Cost, Plan
from edge_interleave.planning.system_memory import format_memory, parse_memory
from edge_interleave.vision.pooling import frame_stride

MAX_FRAMES = {COVERAGE: 64, DETAIL: 16, LATENCY: 64}
"""The largest windows that the paper tried."""
FRAME_SIZE = (1280, 720)
_WHY = {
    COVERAGE: "more frames, pooled: a longer time, less detail in each frame",
    DETAIL: "fewer frames, unpooled: in the paper better than more, pooled frames at an equal number of visual tokens",
    LATENCY: "the least pooling that keeps the time for each new frame",
}
_STRIDES = (1, 2, 3, 4, 6, 9)
_ENOUGH_FRAMES = 8
_PRECISIONS = ("f16", "q8_0")
"""KV cache precisions that a plan chooses from. `q4_0` is opt-in: it changes answers."""
_WORTHWHILE_GAIN = 1.25
"""A KV cache in q8_0, or a very small batch, must hold this many times more frames: both take time."""


def plan(
    bundle: Bundle,
    memory: int | str | None = None,
    goal: str = COVERAGE,
    *,
    preset: str | None = None,
    frames: int | None = None,
    pool: int | Sequence[int] | None = None,
    seconds: float | None = None,
    kv_precision: str | None = None,
    keep_answers: bool = False,
    frame_size: tuple[int, int] = FRAME_SIZE,
    source: str | Path | None = None,
    backend: str | None = None,
    threads: int | None = None,
    footprint: Footprint | None = None,
) -> Plan:
    """Plan a live window.

    `memory`: bytes, a text as `parse_memory` reads it (`2GB`, `50%` of the free memory), or None for no limit.
    `goal`: `coverage` (frames pooled to 1/4, as many as fit, at most 64), `detail` (unpooled, at most 16) or `latency`
    (the least pooling with which a new frame takes at most `seconds`). `preset`: one of PRESETS instead.
    `frames`: exactly this many. `pool`: a stride, or a pattern of strides that repeats: (1, 4, 4, 4) keeps every fourth
    frame in full and pools the others to a sixteenth. `kv_precision`: None chooses f16, or q8_0 if that holds a quarter
    more frames. `frame_size`: width and height of the source's frames in pixels. `source`: what `Live.watch` will take;
    a separate process may read a camera or a network stream, and its memory counts too. `footprint`: None measures it,
    which takes seconds.

    Raises ResourceError for too little memory or time, naming the least that is enough; UsageError for invalid
    arguments or a window that exceeds the trained context; BundleError, BackendError.
    """
    if isinstance(memory, str):
        memory = parse_memory(memory)
    request = _as_trained(_request(goal, preset, frames, pool, seconds), bundle.manifest.vision)
    if bundle.manifest.vision.first_patch_dropped and pool is None and preset is None:
        request = replace(request, pools=((1,),), why="unpooled, as this model's frames can only be")
    chosen_backend = backend_for(bundle, backend)
    timed = request.seconds is not None
    if footprint is None or (timed and footprint.rates is None):
        footprint = measure(bundle, chosen_backend.name, threads, rates=timed)
    precisions = (kv_precision,) if kv_precision else _precisions(bundle, chosen_backend, timed)
    capture = source_costs(source, frame_size)
    planner = _Planner(
        bundle, chosen_backend, footprint, request, memory, precisions, keep_answers, frame_size, capture, threads
    )
    return planner.best()


@dataclass(frozen=True)
class _Request:
    """The caller's wishes, checked and completed by the goal's defaults."""

    goal: str
    why: str
    frames: int | None
    """Exactly this many, or None."""
    max_frames: int
    pools: tuple[tuple[int, ...], ...]
    """Patterns of strides to choose from, the preferred one first."""
    seconds: float | None = None


def _request(
    goal: str, preset: str | None, frames: int | None, pool: int | Sequence[int] | None, seconds: float | None
) -> _Request:
    if goal not in GOALS:
        raise UsageError(f"no goal {goal!r}; choose one of {', '.join(GOALS)}")
    if frames is not None and frames < 1:
        raise UsageError(f"a window of {frames} frames is not possible; give 1 or more")
    pattern = None if pool is None else (pool,) if isinstance(pool, int) else tuple(pool)
    if pattern is not None and (not pattern or min(pattern) < 1):
        raise UsageError("pooling strides must be whole numbers from 1; give one or more")
    if (goal == LATENCY) != (seconds is not None) or (seconds is not None and not 0 < seconds < math.inf):
        raise UsageError("the goal 'latency', and only that goal, needs the seconds that a new frame may take")
    if preset is None:
        pools = {COVERAGE: ((2,),), DETAIL: ((1,),), LATENCY: tuple((stride,) for stride in _STRIDES)}[goal]
        max_frames = frames or MAX_FRAMES[goal]
        return _Request(goal, _WHY[goal], frames, max_frames, (pattern,) if pattern else pools, seconds)
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if frames is not None or pattern is not None or goal != COVERAGE:
        raise UsageError("a preset sets goal, frames and pooling; leave those out")
    row = PRESETS[preset]
    return _Request(preset, "a row of the paper's pooling ablation", row.frames, row.frames, ((row.stride,),))


def _as_trained(request: _Request, vision: VisionInfo) -> _Request:
    """The request with the strides that the model's frames get: at least those that it was trained with."""
    pools = (tuple(frame_stride(vision, stride) for stride in pool) for pool in request.pools)
    return replace(request, pools=tuple(dict.fromkeys(pools)))


def _precisions(bundle: Bundle, backend: Backend, timed: bool) -> tuple[str, ...]:
    """KV precisions that the backend supports. For a time limit only f16, in which the rates were measured."""
    supported = []
    for precision in _PRECISIONS[: 1 if timed else None]:
        try:
            backend.memory(bundle, DecoderOptions(1, kv_precision=precision))
        except BackendError:
            continue
        supported.append(precision)
    return tuple(supported)


@dataclass(frozen=True)
class _Planner:
    """Searches pooling, KV precision, batch and number of frames for the best plan."""

    bundle: Bundle
    backend: Backend
    footprint: Footprint
    request: _Request
    memory: int | None
    precisions: tuple[str, ...]
    keep_answers: bool
    frame_size: tuple[int, int]
    capture: tuple[Cost, ...]
    """The process that reads the source, if there is one."""
    threads: int | None

    def best(self) -> Plan:
        """The best plan that fits. Raises ResourceError, UsageError."""
        best = None
        for pool in self.request.pools:
            largest = self._largest(pool)
            if largest is not None and (best is None or largest.frames > best.frames):
                best = largest
            if best is not None and best.frames >= min(_ENOUGH_FRAMES, self.request.max_frames):
                break
        if best is None:
            raise self._refusal()
        return best

    def _largest(self, pool: tuple[int, ...]) -> Plan | None:
        """The plan with the most frames, or with exactly the requested number; None if no plan fits."""
        best: Plan | None = None
        least = self.request.frames or 1
        most = min(self.request.max_frames, self._frames_in_trained_context(pool))
        for precision, batch in self._choices(pool):
            frames = _most_frames(least, most, partial(self._fits, pool, precision, batch))
            if frames is None or (best is not None and frames < _frames_to_beat(best, precision, batch)):
                continue
            best = self._plan(pool, frames, precision, batch)
            if frames == self.request.max_frames:
                break
        return best

    def _choices(self, pool: tuple[int, ...]) -> Iterator[tuple[str, int]]:
        """KV precisions and batches, the fastest first. A batch larger than a frame is never filled."""
        largest = max(frame_tokens(self.bundle, pool))
        batches = [batch for batch in BATCHES if batch <= max(largest, SLOW_BATCH)]
        first = min(max(largest, SLOW_BATCH), BATCHES[0])
        batches = sorted({first, *batches}, reverse=True)
        for slow in (False, True):
            for precision in self.precisions:
                yield from ((precision, batch) for batch in batches if (batch < SLOW_BATCH) == slow)

    def _fits(self, pool: tuple[int, ...], precision: str, batch: int, frames: int) -> bool:
        candidate = self._plan(pool, frames, precision, batch)
        if self.memory is not None and candidate.estimate > self.memory:
            return False
        return self.request.seconds is None or (candidate.seconds_per_frame or 0.0) <= self.request.seconds

    def _refusal(self) -> Exception:
        """Why no plan fits, with the least that is enough."""
        frames = self.request.frames or 1
        pools = [pool for pool in self.request.pools if self._frames_in_trained_context(pool) >= frames]
        if not pools:
            most = max(self._frames_in_trained_context(pool) for pool in self.request.pools)
            return UsageError(
                f"{_count(frames)} do not fit into the {self._trained_context} entries that {self._name} was trained "
                f"on; {most} would: take fewer, or a larger pooling stride"
            )
        candidates = [
            self._plan(pool, frames, precision, min(BATCHES)) for pool in pools for precision in self.precisions
        ]
        least = min(candidate.estimate for candidate in candidates)
        if self.memory is not None and least > self.memory:
            return ResourceError(
                f"{format_memory(self.memory)} is too little for {_count(frames)} with {self._name}; the least that "
                f"is enough is {format_memory(least)}"
            )
        quickest = min(candidate.seconds_per_frame or 0.0 for candidate in candidates)
        return ResourceError(
            f"{self.request.seconds:g} s is too short for a new frame with {self._name} on this machine, in this "
            f"memory; the least that is enough is {math.ceil(quickest * 100) / 100:g} s"
        )

    @property
    def _name(self) -> str:
        return self.bundle.manifest.name

    @property
    def _trained_context(self) -> int:
        return self.bundle.manifest.decoder.context_length

    def _frames_in_trained_context(self, pool: tuple[int, ...]) -> int:
        """The most frames that the trained context holds."""
        tokens, context = frame_tokens(self.bundle, pool), self._trained_context
        layout = self.footprint.layout
        return _most_frames(1, context, lambda count: layout.entries(count, tokens, self.keep_answers) <= context) or 0

    def _plan(self, pool: tuple[int, ...], frames: int, precision: str, batch: int) -> Plan:
        layout, rates = self.footprint.layout, self.footprint.rates
        tokens = frame_tokens(self.bundle, pool)
        context = layout.context(frames, tokens, self.keep_answers, sliding=True, limit=self._trained_context)
        visual = visual_tokens(frames, tokens) + layout.after_frames
        seconds = None
        if rates is not None:
            # The next oldest frame is recomputed too, right after the sink; idle time before the frame may hide this.
            oldest = rates.prefill_s(max(tokens), layout.fixed_entries) if frames > 1 else 0.0
            seconds = rates.encode + rates.prefill_s(max(tokens), context) + oldest
        return Plan(
            folder=self.bundle.folder,
            backend=self.backend.name,
            threads=self.threads,
            goal=self.request.goal,
            why=self.request.why,
            memory=self.memory,
            frames=frames,
            pool=pool,
            frame_tokens=tokens,
            visual_tokens=visual,
            context=context,
            kv_precision=precision,
            batch=batch,
            keep_answers=self.keep_answers,
            costs=self._costs(context, visual, precision, batch),
            seconds_per_frame=seconds,
        )

    def _costs(self, context: int, visual_tokens: int, precision: str, batch: int) -> tuple[Cost, ...]:
        options = DecoderOptions(context, self.threads, precision, batch)
        costs = (
            *model_costs(self.footprint),
            *window_costs(self.bundle, self.backend, options, visual_tokens, self.frame_size),
            *self.capture,
        )
        return (*costs, reserve(costs))


def _most_frames(least: int, most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number of frames from `least` to `most` that fits; None if none does. Fewer frames always fit."""
    found = bisect_left(range(least, most + 1), True, key=lambda count: not fits(count))
    return least + found - 1 if found else None


def _frames_to_beat(best: Plan, precision: str, batch: int) -> float:
    """How many frames another precision or a very small batch must hold to be worth its time."""
    if precision == best.kv_precision and batch >= SLOW_BATCH:
        return best.frames + 1
    return best.frames * _WORTHWHILE_GAIN


def _count(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"
