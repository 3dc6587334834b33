"""Memory to a plan: how many frames a live window can hold, at which pooling, and what everything costs in bytes.

    made = plan(open_bundle(folder), "1.5GB", "coverage")
    with made.open() as model, model.live(made.frames, made.pool) as live:
        ...

What a model takes before its window is measured (`footprint`), what grows with the window is computed. At an equal
number of visual tokens the LLaVA-NeXT-Interleave paper finds fewer frames without pooling better than more frames
pooled to a quarter (10 x 729 against 40 x 729/4), and more frames at inference than in training better still: `detail`
takes that side, `coverage` the other, for what happens between two frames is seen by neither. Knows no engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import Backend, DecoderOptions
from edge_interleave.decoding.registry import backend_for
from edge_interleave.errors import BackendError, ResourceError, UsageError
from edge_interleave.live.window import KEPT_ANSWERS, KEPT_ROOM
from edge_interleave.media.capture.memory import capture_bytes
from edge_interleave.media.sources.open import has_own_process
from edge_interleave.planning.footprint import Footprint, measure, picture_bytes
from edge_interleave.planning.plan import PRESETS, Cost, Plan, Preset
from edge_interleave.planning.system_memory import in_words, parse_memory
from edge_interleave.vision.pooling import image_tokens

__all__ = ["FRAME_SIZE", "GOALS", "PRESETS", "Cost", "Plan", "Preset", "plan"]

COVERAGE, DETAIL, LATENCY = "coverage", "detail", "latency"
GOALS = (COVERAGE, DETAIL, LATENCY)
MOST_FRAMES = {COVERAGE: 64, DETAIL: 16, LATENCY: 64}
"""The largest windows that the paper tried."""
FRAME_SIZE = (1280, 720)
_WHY = {
    COVERAGE: "more frames, pooled: longer in time, coarser in each picture",
    DETAIL: "fewer frames, unpooled: better than more frames pooled at as many visual tokens, the paper found",
    LATENCY: "the least pooling that keeps the time for each new frame",
}
_STRIDES = (1, 2, 3, 4, 6, 9)
_ENOUGH_FRAMES = 8
_PRECISIONS = ("f16", "q8_0")
"""Of the KV cache, that a plan chooses by itself; 4 bits cost answers, and are for who asks for them."""
_WORTH_IT = 1.25
"""So many times more frames are worth a KV cache in q8_0, or very small batches: both take time."""
_BATCHES = (512, 256, 128, 64, 32)
_SLOW_BATCH = 64
_FLOAT = 4
# Visual tokens wait in the queue, come from the tower, and are pooled: beside the window three full grids.
_GRIDS = 3
_RESERVE, _RESERVE_BYTES = 0.01, 1_000_000


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

    `memory`: bytes, a text as `parse_memory` takes it (`2GB`, `50%` of what is free), or None for no limit.
    `goal`: `coverage` (frames pooled to 1/4, as many as fit, 64 at most), `detail` (unpooled, 16 at most) or `latency`
    (the least pooling with which a new frame takes at most `seconds`). `preset`: one of PRESETS instead.
    `frames`: exactly so many. `pool`: a stride, or a pattern of strides that repeats: (1, 4, 4, 4) for key frames in
    full and those between at a sixteenth. `kv_precision`: None: f16, and q8_0 where that holds a quarter more frames.
    `frame_size`: width and height of the source's frames in pixels. `source`: what will be watched, as `Live.watch`
    takes it: a camera or a network stream may have a process of its own, which counts as well. `footprint`: None:
    measured, which takes seconds.

    Raises ResourceError for too little memory or time, naming the least that would do; UsageError for what no memory
    could hold, or makes no sense; BundleError, BackendError.
    """
    if isinstance(memory, str):
        memory = parse_memory(memory)
    wish = _wish(goal, preset, frames, pool, seconds)
    runner = backend_for(bundle, backend)
    timed = wish.seconds is not None
    if footprint is None or (timed and footprint.rates is None):
        footprint = measure(bundle, runner.name, threads, rates=timed)
    precisions = (kv_precision,) if kv_precision else _precisions(bundle, runner, timed)
    capture = 0
    if source is not None and has_own_process(source):
        capture = capture_bytes(*frame_size, camera=str(source).startswith("camera:"))
    planner = _Planner(bundle, runner, footprint, wish, memory, precisions, keep_answers, frame_size, capture, threads)
    return planner.best()


@dataclass(frozen=True)
class _Wish:
    """What was asked for."""

    goal: str
    why: str
    frames: int | None
    most: int
    pools: tuple[tuple[int, ...], ...]
    """Patterns of strides, the one to be had first first."""
    seconds: float | None = None


def _wish(
    goal: str, preset: str | None, frames: int | None, pool: int | Sequence[int] | None, seconds: float | None
) -> _Wish:
    if goal not in GOALS:
        raise UsageError(f"no goal {goal!r}; choose one of {', '.join(GOALS)}")
    if frames is not None and frames < 1:
        raise UsageError(f"a window of {frames} frames makes no sense; give 1 or more")
    pattern = None if pool is None else (pool,) if isinstance(pool, int) else tuple(pool)
    if pattern is not None and (not pattern or min(pattern) < 1):
        raise UsageError("pooling strides must be whole numbers from 1, at least one")
    if (goal == LATENCY) != (seconds is not None) or (seconds is not None and not 0 < seconds < math.inf):
        raise UsageError("the goal 'latency' needs the seconds that a new frame may take, and only that goal does")
    if preset is None:
        pools = {COVERAGE: ((2,),), DETAIL: ((1,),), LATENCY: tuple((stride,) for stride in _STRIDES)}[goal]
        return _Wish(goal, _WHY[goal], frames, frames or MOST_FRAMES[goal], (pattern,) if pattern else pools, seconds)
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if frames is not None or pattern is not None or goal != COVERAGE:
        raise UsageError("a preset says goal, frames and pooling itself; give it alone")
    row = PRESETS[preset]
    return _Wish(preset, "a row of the paper's pooling ablation", row.frames, row.frames, ((row.stride,),))


def _precisions(bundle: Bundle, runner: Backend, timed: bool) -> tuple[str, ...]:
    """Those that the decoder can have. Where time counts, f16: the times are those of f16."""
    possible = []
    for precision in _PRECISIONS[: 1 if timed else None]:
        try:
            runner.memory(bundle, DecoderOptions(1, kv_precision=precision))
        except BackendError:
            continue
        possible.append(precision)
    return tuple(possible)


@dataclass(frozen=True)
class _Planner:
    """Goes through what can be chosen."""

    bundle: Bundle
    runner: Backend
    footprint: Footprint
    wish: _Wish
    memory: int | None
    precisions: tuple[str, ...]
    keep_answers: bool
    frame_size: tuple[int, int]
    capture: int
    """Bytes of the process that reads the source, where it has one."""
    threads: int | None

    def best(self) -> Plan:
        """The plan. Raises ResourceError, UsageError."""
        found = None
        for pool in self.wish.pools:
            here = self._most(pool, self._fits)
            if here is not None and (found is None or here.frames > found.frames):
                found = here
            if found is not None and found.frames >= min(_ENOUGH_FRAMES, self.wish.most):
                break
        if found is None:
            raise self._refusal()
        return found

    def _most(self, pool: tuple[int, ...], fits: Callable[[Plan], bool]) -> Plan | None:
        """The plan with the most frames, or exactly those that were asked for; None where there is none."""
        found: Plan | None = None
        for precision, batch in self._choices(pool):
            least = self.wish.frames or 1
            low, high = least - 1, min(self.wish.most, self._frames_of_context(pool))
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits(self._made(pool, middle, precision, batch)) else (low, middle - 1)
            if low < least or (found is not None and low < _enough(found, precision, batch)):
                continue
            found = self._made(pool, low, precision, batch)
            if low == self.wish.most:
                break
        return found

    def _choices(self, pool: tuple[int, ...]) -> Iterator[tuple[str, int]]:
        """KV precision and batch, the fastest first. A batch larger than a frame is never filled."""
        largest = max(self._tokens(pool))
        batches = [batch for batch in _BATCHES if batch <= max(largest, _SLOW_BATCH)]
        first = min(max(largest, _SLOW_BATCH), _BATCHES[0])
        batches = sorted({first, *batches}, reverse=True)
        for slow in (False, True):
            for precision in self.precisions:
                yield from ((precision, batch) for batch in batches if (batch < _SLOW_BATCH) == slow)

    def _fits(self, made: Plan) -> bool:
        if self.memory is not None and made.estimate > self.memory:
            return False
        return self.wish.seconds is None or (made.seconds_per_frame or 0.0) <= self.wish.seconds

    def _refusal(self) -> Exception:
        """Why there is no plan, with the least that would do."""
        frames = self.wish.frames or 1
        pools = [pool for pool in self.wish.pools if self._frames_of_context(pool) >= frames]
        trained = self.bundle.manifest.decoder.context_length
        if not pools:
            most = max(self._frames_of_context(pool) for pool in self.wish.pools)
            return UsageError(
                f"{_count(frames)} do not fit into the {trained} entries that {self._name} was trained on; "
                f"{most} would: take fewer, or a larger pooling stride"
            )
        made = [self._made(pool, frames, precision, min(_BATCHES)) for pool in pools for precision in self.precisions]
        least = min(plan.estimate for plan in made)
        if self.memory is not None and least > self.memory:
            return ResourceError(
                f"{in_words(self.memory)} are too little for {_count(frames)} with {self._name}: the least that would "
                f"do is {in_words(least)}"
            )
        quickest = min(plan.seconds_per_frame or 0.0 for plan in made)
        return ResourceError(
            f"{self.wish.seconds:g} s are too short for a new frame with {self._name} here, in this memory: the least "
            f"that would do is {math.ceil(quickest * 100) / 100:g} s"
        )

    @property
    def _name(self) -> str:
        return self.bundle.manifest.name

    def _tokens(self, pool: tuple[int, ...]) -> tuple[int, ...]:
        manifest = self.bundle.manifest
        return tuple(image_tokens(manifest.vision, stride, manifest.pooling_mode) for stride in pool)

    def _entries(self, pool: tuple[int, ...], frames: int) -> int:
        """As `window.entries_needed`."""
        kept = KEPT_ANSWERS * KEPT_ROOM if self.keep_answers else 0
        each = self.footprint.frame_entries
        return self.footprint.fixed_entries + kept + frames * each + _window_tokens(self._tokens(pool), frames)

    def _context(self, pool: tuple[int, ...], frames: int) -> int:
        """The KV cache's entries: with `window.entries_to_prepare`, where the trained context has so many."""
        ahead = self.footprint.frame_entries + max(self._tokens(pool)) if frames > 1 else 0
        return min(self._entries(pool, frames) + ahead, self.bundle.manifest.decoder.context_length)

    def _frames_of_context(self, pool: tuple[int, ...]) -> int:
        """The most frames that the trained context holds."""
        trained = self.bundle.manifest.decoder.context_length
        low, high = 0, trained
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._entries(pool, middle) <= trained else (low, middle - 1)
        return low

    def _made(self, pool: tuple[int, ...], frames: int, precision: str, batch: int) -> Plan:
        context = self._context(pool, frames)
        tokens = self._tokens(pool)
        rates = self.footprint.rates
        visual = _window_tokens(tokens, frames)
        seconds = None
        if rates is not None:
            # The oldest is computed anew as well, beside little else; before the frame comes where there is a pause.
            oldest = rates.append(max(tokens), self.footprint.fixed_entries) if frames > 1 else 0.0
            seconds = rates.encode + rates.append(max(tokens), context) + oldest
        return Plan(
            folder=self.bundle.folder,
            backend=self.runner.name,
            threads=self.threads,
            goal=self.wish.goal,
            why=self.wish.why,
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
        found = self.footprint
        decoder = self.runner.memory(self.bundle, DecoderOptions(context, self.threads, precision, batch))
        vision, hidden = self.bundle.manifest.vision, self.bundle.manifest.decoder.hidden_size
        embeddings = (visual_tokens + _GRIDS * vision.tokens) * hidden * _FLOAT
        square = 3 * max(self.frame_size) ** 2 if vision.resize == "pad" else 0
        costs: tuple[Cost, ...] = (
            Cost("interpreter and libraries", found.libraries),
            Cost("tokenizer", found.tokenizer),
            Cost("decoder weights", found.decoder),
            Cost("KV cache", decoder.cache),
            Cost("compute buffers", decoder.compute),
            Cost("vision tower weights", found.tower),
            Cost("vision activations", found.working),
            Cost("frames and their embeddings", picture_bytes(*self.frame_size) + square + embeddings),
        )
        if self.capture:
            costs += (Cost("the source's process", self.capture),)
        total = sum(cost.bytes for cost in costs)
        return (*costs, Cost("reserve", int(total * _RESERVE) + _RESERVE_BYTES))


def _enough(found: Plan, precision: str, batch: int) -> float:
    """How many frames make up for another precision or a batch so small."""
    if precision == found.kv_precision and batch >= _SLOW_BATCH:
        return found.frames + 1
    return found.frames * _WORTH_IT


def _window_tokens(tokens: Sequence[int], frames: int) -> int:
    """Visual tokens of a window, where the pattern costs most."""
    pattern = [tokens[index % len(tokens)] for index in range(frames + len(tokens))]
    return max(sum(pattern[first : first + frames]) for first in range(len(tokens)))


def _count(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"
