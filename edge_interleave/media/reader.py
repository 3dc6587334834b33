"""Reads a source in a thread, drops frames by the filters, and reconnects a lost source with exponential backoff.

A live source's newest frame overwrites an older one that was not taken yet, which is counted as late. Other sources
wait until their frame is taken. `on_status` reports a source that is lost, frozen or damaged.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from edge_interleave.errors import MediaError
from edge_interleave.media.filters import ChangeFilter, RateLimiter, WarmUpFilter
from edge_interleave.media.frame import Frame
from edge_interleave.media.freeze import FreezeDetector
from edge_interleave.media.sources.base import FrameDamaged, Source, SourceLost

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
"""The first and the longest pause before a lost source is reopened; pauses double in between."""
_JOIN_S = 1.0
_HELD_S = 2.0
"""A dropped dark frame is returned after all if no other frame follows within this time, in seconds."""
_RECENT = 50
"""The number of latest frames that `capture_fps` is computed from."""
FROZEN_S = 60.0
"""A picture that repeats bit for bit for this long is reported. An encoder may repeat a still scene until its next key
frame: at most 10 s with common cameras."""
BROKEN_S = 5.0
"""A live source whose frames are all damaged for this long is reported."""


@dataclass(frozen=True)
class ReaderStats:
    """Counts of a source's frames since the reader was opened.

    captured = handed_out + late + rate_skipped + same_skipped + dark_skipped + (1 if a frame waits).
    """

    captured: int
    """Frames that were decoded."""
    handed_out: int
    """Frames that `next` returned."""
    late: int
    """Frames overwritten by a newer one, or not taken before the reader was closed."""
    rate_skipped: int
    """Frames dropped by the rate limiter."""
    same_skipped: int
    """Frames dropped by the change filter."""
    dark_skipped: int
    """Frames dropped by the warm-up filter."""
    damaged: int
    """Frames that could not be decoded; they do not count as captured."""
    reconnects: int
    """How often a lost source came back with a frame."""
    capture_fps: float
    """Frames per second, over the latest 50; 0 before the second frame."""
    frozen_s: float
    """Total seconds in which a live source repeated one picture, bit for bit, for FROZEN_S or longer."""


State = Literal["lost", "back", "broken", "whole", "frozen", "moving", "damaged"]


@dataclass(frozen=True)
class SourceStatus:
    """A change of a source's state."""

    state: State
    """`lost` or `back`; `broken` (all frames are damaged) or `whole`; `frozen` or `moving`; `damaged` (one frame)."""
    source: str
    """The source's name, without passwords."""
    seconds: float
    """How long the source was lost, or has been (or was) broken or frozen."""
    line: str
    """A one-line message for people."""
    file: str | None = None
    """The damaged file's name, if the source is a folder."""


class FrameReader:
    """Reads a source in its own thread. One thread calls `next`; any thread may call `close`."""

    def __init__(
        self,
        source: Source,
        *,
        fps: float | None = None,
        change: float | None = None,
        with_unchanged: bool = False,
        on_status: Callable[[SourceStatus], None] | None = None,
    ) -> None:
        """Open the source and start to read.

        `fps`: the limit of a `RateLimiter`. `change`: the threshold of a `ChangeFilter`. `with_unchanged`: hand out the
        frames that the change filter drops too, marked `unchanged`, if no other frame waits. `on_status`: called from
        the reader's thread when a source is lost, frozen or broken and when that ends, for each damaged picture of a
        folder, and for the first damaged frame of another source that is not live.
        Raises MediaError if the source cannot be opened, UsageError for a wrong `fps` or `change`.
        """
        self._source = source
        self._rate = None if fps is None else RateLimiter(fps)
        self._change = None if change is None else ChangeFilter(change)
        self._with_unchanged = with_unchanged
        self._on_status = on_status
        self._warm_up, self._freeze = WarmUpFilter(), FreezeDetector()
        self._frozen_at: float | None = None
        self._frozen_s = self._reported_frozen_s = 0.0
        self._damaged_since: float | None = None
        self._broken = False
        self._dark_skipped = 0
        self._held: Frame | None = None
        self._held_until = 0.0
        self._condition = threading.Condition()
        self._slot: Frame | None = None
        self._stop = threading.Event()
        self._finished = False
        self._error: Exception | None = None
        self._captured = self._handed_out = self._late = 0
        self._rate_skipped = self._same_skipped = self._damaged = self._reconnects = 0
        self._arrivals: deque[float] = deque(maxlen=_RECENT)
        self._lost_at: float | None = None
        self._retry_s = FIRST_RETRY_S
        try:
            source.open()
        except BaseException:
            source.close()
            raise
        self._thread = threading.Thread(target=self._run, name="edge-interleave capture", daemon=True)
        self._thread.start()

    def next(self, timeout: float) -> Frame | None:
        """Wait up to `timeout` seconds for the next frame that passes the filters. None: no frame yet, or `ended`."""
        until = time.monotonic() + timeout
        with self._condition:
            while not (self._slot is not None or self._finished or self._stop.is_set()):
                now = time.monotonic()
                if self._held is not None and now >= self._held_until:
                    self._release_held()
                elif now >= until:
                    break
                else:
                    self._condition.wait((until if self._held is None else min(until, self._held_until)) - now)
            frame, self._slot = self._slot, None
            self._handed_out += frame is not None and not frame.unchanged
            self._condition.notify_all()
            return frame

    @property
    def live(self) -> bool:
        """Whether the newest frame replaces an older one that was not taken yet."""
        return self._source.live

    @property
    def ended(self) -> bool:
        """Whether no more frames will come: the source has ended and its last frame is taken, or `close` was called."""
        with self._condition:
            return self._stop.is_set() or (self._finished and self._slot is None)

    @property
    def error(self) -> Exception | None:
        """The error that ended the source; None if it ended normally."""
        return self._error

    def stats(self) -> ReaderStats:
        """Counts since the reader was opened."""
        with self._condition:
            span = self._arrivals[-1] - self._arrivals[0] if self._arrivals else 0.0
            return ReaderStats(
                captured=self._captured,
                handed_out=self._handed_out,
                late=self._late,
                rate_skipped=self._rate_skipped,
                same_skipped=self._same_skipped,
                dark_skipped=self._dark_skipped,
                damaged=self._damaged,
                reconnects=self._reconnects,
                capture_fps=(len(self._arrivals) - 1) / span if span > 0 else 0.0,
                frozen_s=self._frozen_s,
            )

    def close(self) -> None:
        """End the thread and free the source, within a second. A second call does nothing.

        A caller's iterable cannot be interrupted: if it blocks, the thread outlives this call.
        """
        self._stop.set()
        with self._condition:
            self._late += self._has_waiting_frame()
            self._slot = None
            self._condition.notify_all()
        self._source.close()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    frame = self._source.read()
                except FrameDamaged as error:
                    self._count_damaged(error)
                    continue
                except SourceLost as lost:
                    self._reconnect(lost)
                    continue
                if frame is None:
                    break
                self._offer(frame)
        # Any exception of a source, such as one of a caller's iterable, ends the reading and is kept in `error`.
        except Exception as error:
            if not self._stop.is_set():
                self._error = error
        finally:
            self._source.close()
            with self._condition:
                self._release_held()
                self._finished = True
                self._condition.notify_all()

    def _reconnect(self, lost: SourceLost) -> None:
        """Reopen the source until that succeeds. Only a frame resets the pause, not a successful opening."""
        if self._stop.is_set():
            return
        if self._lost_at is None:
            with self._condition:
                self._release_held()
            self._lost_at = time.monotonic()
            self._warm_up, self._freeze, self._frozen_at = WarmUpFilter(), FreezeDetector(), None
            self._report("lost", 0.0, f"{lost}; trying again until it is back")
        while not self._stop.wait(self._retry_s):
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            try:
                self._source.open()
                return
            except MediaError:
                continue

    def _offer(self, frame: Frame) -> None:
        if self._lost_at is not None:
            lost_s, self._lost_at, self._retry_s = time.monotonic() - self._lost_at, None, FIRST_RETRY_S
            with self._condition:
                self._reconnects += 1
            self._report("back", lost_s, f"{self._source.name}: back after {lost_s:.0f} s")
        if self._damaged_since is not None:
            broken_s, self._damaged_since = time.monotonic() - self._damaged_since, None
            if self._broken:
                self._broken = False
                self._report("whole", broken_s, f"{self._source.name}: frames are whole again after {broken_s:.0f} s")
        with self._condition:
            if self._stop.is_set():
                return
            self._captured += 1
            self._arrivals.append(time.monotonic())
        if self._source.live and not getattr(self._source, "recorded", False):
            self._watch_freeze(frame)
        if getattr(self._source, "warms_up", False) and not self._warm_up.take(frame):
            with self._condition:
                self._dark_skipped += 1
                self._held, self._held_until = frame, time.monotonic() + _HELD_S
                self._condition.notify_all()
            return
        with self._condition:
            self._held = None
        self._pass_on(frame)

    def _pass_on(self, frame: Frame) -> None:
        wanted = self._rate is None or self._rate.take(frame.time_s)
        changed = wanted and (self._change is None or self._change.take(frame.image))
        with self._condition:
            self._rate_skipped += not wanted
            self._same_skipped += wanted and not changed
            if not (changed or (wanted and self._with_unchanged)):
                return
            if not changed:
                frame = replace(frame, unchanged=True)
            if not self._source.live:
                self._condition.wait_for(lambda: self._slot is None or self._stop.is_set())
            if self._stop.is_set():
                self._late += changed
                return
            # An unchanged frame does not overwrite a changed one.
            if not changed and self._has_waiting_frame():
                return
            self._late += self._has_waiting_frame()
            self._slot = frame
            self._condition.notify_all()

    def _release_held(self) -> None:
        """Hand out the last dark frame that was dropped, because no other frame followed."""
        if self._held is not None and self._slot is None and not self._stop.is_set():
            self._dark_skipped -= 1
            self._slot = self._held
            self._condition.notify_all()
        self._held = None

    def _has_waiting_frame(self) -> bool:
        """Whether a frame waits that is not marked as unchanged."""
        return self._slot is not None and not self._slot.unchanged

    def _watch_freeze(self, frame: Frame) -> None:
        still_s = self._freeze.repeated_s(frame)
        name, already_s = self._source.name, self._reported_frozen_s
        if self._frozen_at is None:
            if still_s < FROZEN_S:
                return
            self._frozen_at, already_s = frame.time_s - still_s, 0.0
            line = f"{name}: frozen, the same picture bit for bit for {still_s:.0f} s; check the camera"
            self._report("frozen", still_s, line)
        elif still_s == 0.0:
            frozen_s, self._frozen_at = frame.time_s - self._frozen_at, None
            self._report("moving", frozen_s, f"{name}: moving again after {frozen_s:.0f} s")
            return
        self._reported_frozen_s = still_s
        with self._condition:
            self._frozen_s += still_s - already_s

    def _count_damaged(self, error: FrameDamaged) -> None:
        now = time.monotonic()
        with self._condition:
            self._damaged += 1
            first = self._damaged == 1
        if self._damaged_since is None:
            self._damaged_since = now
        if not self._source.live:
            if first or error.file is not None:
                self._report("damaged", 0.0, str(error), error.file)
        elif not self._broken and now - self._damaged_since >= BROKEN_S:
            self._broken = True
            since_s = now - self._damaged_since
            self._report(
                "broken", since_s, f"{error}; every frame for {since_s:.0f} s is damaged, check camera and network"
            )

    def _report(self, state: State, seconds: float, line: str, file: str | None = None) -> None:
        if self._on_status is not None:
            self._on_status(SourceStatus(state, self._source.name, round(seconds, 1), line, file))
