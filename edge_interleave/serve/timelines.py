"""KV caches that requests share: each prompt goes to the timeline that has the least left to compute.

A timeline is reused in two ways. *Common prefix*: entries up to the first difference stay. *Sliding history*: a client
that keeps only the last turns of a conversation sends

    system | turn 2 | turn 3 | turn 4 | question      after      system | turn 1 | turn 2 | turn 3 | turn 4

Then turn 1 is evicted in place, turn 2 is recomputed as the first turn, and only the question is prefilled. The entries
in between still carry traces of turn 1. The live window makes the same approximation (`edge_interleave.live`). Images
are compared by the digest of their visual tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from edge_interleave.decoding.generation import Prefill
from edge_interleave.decoding.inputs import Input, PromptSpan, inputs_of_spans, spans_of
from edge_interleave.decoding.session import ANSWER_ROOM, Session
from edge_interleave.decoding.timeline import Key
from edge_interleave.errors import EdgeInterleaveError
from edge_interleave.util.arrays import FloatArray


@dataclass(frozen=True)
class Reuse:
    """The part of a timeline that a prompt reuses. Counts are spans unless stated otherwise."""

    kept: int
    """Length of the common prefix."""
    gap: int = 0
    """Spans after the prefix that are evicted."""
    tail: int = 0
    """Spans after the gap that stay."""
    anew: int = 0
    """Spans at the start of the tail that are recomputed."""
    computed: int = 0
    """KV entries left to compute, including recomputed ones."""
    reused: int = 0
    """KV entries that stay as they are."""


@dataclass(frozen=True)
class Slid:
    """The cost of a sliding history, in KV entries."""

    evicted: int = 0
    recomputed: int = 0
    approximate: int = 0
    """Entries of the prompt that still carry traces of evicted ones."""


class SharedTimeline:
    """A session that several requests use in turn. Implements `generation.LogitsSource`."""

    def __init__(self, session: Session, exact: bool) -> None:
        """`exact`: reuse common prefixes only, never slide."""
        self.session = session
        self.used = time.monotonic()
        self.slid = Slid()
        """The sliding of the last prompt."""
        self._exact = exact
        self._approximate_from: int | None = None
        """Index of the first span that carries traces of evicted ones; None: none does."""

    @property
    def turn(self) -> int:
        """See `LogitsSource`."""
        return self.session.turn

    @property
    def length(self) -> int:
        """KV entries in the timeline."""
        return self.session.timeline.length

    def reuse(self, prompt_spans: Sequence[PromptSpan]) -> Reuse:
        """The reuse that leaves the least to compute for the prompt."""
        timeline = self.session.timeline
        keys = [span.key for span in prompt_spans]
        # The last span is always computed, since its logits are needed.
        kept = min(timeline.common_prefix(keys), len(prompt_spans) - 1)
        before = [0, *accumulate(span.size for span in prompt_spans)]
        plain = Reuse(kept, computed=before[-1] - before[kept], reused=before[kept])
        if self._exact or sum(span.image is not None for span in prompt_spans) < 2:
            return plain
        slide = self._slide(prompt_spans, before, kept)
        return plain if slide is None or slide.computed >= plain.computed else slide

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Prefill the parts of the prompt that the timeline lacks; None if cancelled.

        Raises ContextFullError, BackendError.
        """
        self.used = time.monotonic()
        prompt_spans = spans_of(prompt)
        reuse = self.reuse(prompt_spans)
        self.slid = Slid()
        if reuse.gap and self._fits(prompt_spans):
            try:
                return self._prefill_sliding(prompt_spans, reuse, cancel)
            except EdgeInterleaveError:
                self.session.reset()
                self._approximate_from = None
                raise
        if self._approximate_from is not None and reuse.kept <= self._approximate_from:
            self._approximate_from = None
        prefilled = self.session.prefill(prompt, cancel)
        if not self.session.timeline.spans:
            self._approximate_from = None
        self.slid = Slid(approximate=self._traces(prompt_spans, reuse.kept))
        return prefilled

    def append_token(self, token: int) -> FloatArray:
        """Append one token of an answer. Returns the next logits, float32 (vocab_size,)."""
        return self.session.append_token(token)

    def close(self, reason: str) -> None:
        """Free the decoder."""
        self.session.close(reason)

    def _prefill_sliding(
        self, prompt_spans: Sequence[PromptSpan], reuse: Reuse, cancel: threading.Event | None
    ) -> Prefill | None:
        started = time.perf_counter()
        session, spans = self.session, self.session.timeline.spans
        gone = spans[reuse.kept : reuse.kept + reuse.gap]
        session.truncate(reuse.kept + reuse.gap + reuse.tail)
        session.evict(reuse.kept, reuse.kept + reuse.gap)
        anew = prompt_spans[reuse.kept : reuse.kept + reuse.anew]
        ranges = session.timeline.spans[reuse.kept : reuse.kept + reuse.anew]
        if any(span.end != after.start for span, after in pairwise(ranges)):
            session.close_gaps()
        done = session.recompute(reuse.kept, inputs_of_spans(anew), cancel)
        first = reuse.kept + (reuse.anew if done else 0)
        self._approximate_from = first if self._approximate_from is None else min(first, self._approximate_from)
        if not done:
            return None
        new = prompt_spans[reuse.kept + reuse.tail :]
        prefilled = session.extend(inputs_of_spans(new), cancel)
        recomputed = sum(span.size for span in anew)
        self.slid = Slid(
            evicted=sum(span.end - span.start for span in gone),
            recomputed=recomputed,
            approximate=self._traces(prompt_spans, reuse.kept + reuse.tail),
        )
        if prefilled is None:
            return None
        return replace(
            prefilled,
            visual_tokens=sum(span.size for span in prompt_spans if span.image is not None),
            cached_tokens=prefilled.cached_tokens - recomputed,
            seconds=time.perf_counter() - started,
        )

    def _slide(self, prompt_spans: Sequence[PromptSpan], before: Sequence[int], kept: int) -> Reuse | None:
        """Reuse by sliding: the longest later run of spans that continues the prompt's prefix; None without images."""
        spans = self.session.timeline.spans[kept:]
        wanted = [span.key for span in prompt_spans[kept:-1]]
        runs = _runs_of(wanted, [span.key for span in spans])
        gap = max(range(1, len(spans)), key=lambda at: before[kept + runs[at]], default=0)
        tail = runs[gap] if gap else 0
        images = [number for number in range(kept, kept + tail) if prompt_spans[number].image is not None]
        if not images:
            return None
        anew = (images[1] if len(images) > 1 else kept + tail) - kept
        recomputed = before[kept + anew] - before[kept]
        computed = recomputed + before[-1] - before[kept + tail]
        return Reuse(kept, gap, tail, anew, computed, before[-1] - computed)

    def _fits(self, prompt_spans: Sequence[PromptSpan]) -> bool:
        """Whether the prompt and an answer fit in the KV cache without growing it."""
        return sum(span.size for span in prompt_spans) + ANSWER_ROOM <= self.session.decoder.facts.capacity

    def _traces(self, prompt_spans: Sequence[PromptSpan], kept: int) -> int:
        """KV entries that carry traces of evicted ones, of the first `kept` spans of the prompt."""
        if self._approximate_from is None:
            return 0
        return sum(span.size for span in prompt_spans[self._approximate_from : kept])


class TimelinePool:
    """The timelines of one model. For one thread at a time."""

    def __init__(self, open_session: Callable[[], Session], most: int, exact: bool = False) -> None:
        """`most`: greatest number of timelines."""
        self._open_session = open_session
        self._most = most
        self._exact = exact
        self._timelines: list[SharedTimeline] = []

    def __len__(self) -> int:
        """Number of open timelines."""
        return len(self._timelines)

    @property
    def entries(self) -> int:
        """KV entries in use."""
        return sum(timeline.length for timeline in self._timelines)

    def take(self, prompt: Sequence[Input]) -> SharedTimeline:
        """The timeline for a prompt: the one with the least left to compute, unless it would lose more than it reuses.

        Otherwise a new timeline or, if none can be opened, the least recently used one. Raises BackendError if the
        first one cannot be opened.
        """
        prompt_spans = spans_of(prompt)
        found = [(timeline.reuse(prompt_spans), timeline) for timeline in self._timelines]
        if found:
            reuse, best = min(found, key=lambda pair: pair[0].computed)
            if reuse.reused and best.length - reuse.reused <= reuse.reused:
                return best
        if len(self._timelines) < self._most:
            try:
                self._timelines.append(SharedTimeline(self._open_session(), self._exact))
                return self._timelines[-1]
            except EdgeInterleaveError:
                if not self._timelines:
                    raise
        return min(self._timelines, key=lambda timeline: timeline.used)

    def close(self, reason: str) -> None:
        """Close all timelines."""
        for timeline in self._timelines:
            timeline.close(reason)
        self._timelines.clear()


def _runs_of(wanted: Sequence[Key], stored: Sequence[Key]) -> list[int]:
    """For each index of `stored`, how many keys from it match the start of `wanted`. Linear (Z-function)."""
    joined: list[Key | None] = [*wanted, None, *stored]
    runs = [0] * len(joined)
    left = right = 0
    for at in range(1, len(joined)):
        if at < right:
            runs[at] = min(right - at, runs[at - left])
        while at + runs[at] < len(joined) and joined[runs[at]] == joined[at + runs[at]]:
            runs[at] += 1
        if at + runs[at] > right:
            left, right = at, at + runs[at]
    return runs[len(wanted) + 1 :]
