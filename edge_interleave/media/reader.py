"""A thread that reads a source and keeps the next frame worth a look; reconnects where the source is lost.

Of a live source there is one frame waiting, the newest: one that nobody took in time is overwritten and counted as
late. Any other source waits. What becomes of a source (lost, frozen, nothing but damage) is told. Knows nothing about
what frames are for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_interleave.errors import MediaError
from edge_interleave.media.filters import Change, Rate
from edge_interleave.media.frame import Frame
from edge_interleave.media.oddities import BROKEN_S, FROZEN_S, Stillness, WarmUp
from edge_interleave.media.sources.base import FrameDamaged, Source, SourceLost

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
"""How long it waits before it tries a lost source again: the first time, and at most, doubling in between."""
_JOIN_S = 1.0
_HELD_S = 2.0
"""A black first frame is handed out where nothing comes behind it for so long."""
_RECENT = 50


@dataclass(frozen=True)
class ReaderStats:
    """What became of a source's frames.

    captured = handed_out + late + rate_skipped + same_skipped + dark_skipped + one that waits.
    """

    captured: int
    """Frames that were read whole."""
    handed_out: int
    late: int
    """Overwritten by a newer frame, or left when the reader was closed."""
    rate_skipped: int
    same_skipped: int
    """Left out by the change test."""
    dark_skipped: int
    """A camera's first frames, left out because they were black or grew brighter."""
    damaged: int
    """Frames that could not be decoded; they are not among the captured."""
    reconnects: int
    """How often a lost source came back with a frame."""
    capture_fps: float
    """Frames a second, over the latest; 0 before the second."""
    frozen_s: float
    """Seconds in which a live source repeated one picture, bit for bit, for FROZEN_S or longer; over all such times."""


@dataclass(frozen=True)
class SourceStatus:
    """Something happened to a source."""

    state: str
    """lost, back; broken (nothing but damage), whole (again); frozen, moving (again); damaged (a file, or a frame)."""
    source: str
    """Its name, without passwords."""
    seconds: float
    """For how long it was away, or has been broken or frozen, or was."""
    line: str
    """The same for people."""
    file: str | None = None
    """The damaged file's name, in a folder."""


class FrameReader:
    """Reads a source from its own thread. One thread takes frames, any may close."""

    def __init__(
        self,
        source: Source,
        *,
        fps: float | None = None,
        change: float | None = None,
        say: Callable[[str], None] | None = None,
        with_unchanged: bool = False,
        on_status: Callable[[SourceStatus], None] | None = None,
    ) -> None:
        """Open the source and begin to read.

        `fps`: at most so many frames a second of the source's time. `change`: see `worth.Change`.
        `with_unchanged`: what that leaves out is handed out too, marked, while nothing else waits. `say` gets one line,
        and `on_status` the same with its parts, when the source is lost, frozen or gives nothing but damage, and when
        that is over; and for each damaged picture of a folder, or the first damaged frame of another source that can
        wait. Both are called from the reader's thread.
        Raises MediaError where the source cannot be opened, UsageError where `fps` or `change` make no sense.
        """
        self._source = source
        self._rate = None if fps is None else Rate(fps)
        self._change = None if change is None else Change(change)
        self._with_unchanged = with_unchanged
        self._say = say
        self._on_status = on_status
        self._warm_up, self._stillness = WarmUp(), Stillness()
        self._frozen_at: float | None = None
        self._frozen_s = self._told_frozen_s = 0.0
        self._damaged_since: float | None = None
        self._broken = False
        self._dark_skipped = 0
        self._held: Frame | None = None
        self._held_until = 0.0
        self._news = threading.Condition()
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
        """The next frame worth a look, at most `timeout` seconds waited for. None: nothing yet, or `ended`."""
        until = time.monotonic() + timeout
        with self._news:
            while not (self._slot is not None or self._finished or self._stop.is_set()):
                now = time.monotonic()
                if self._held is not None and now >= self._held_until:
                    self._release_held()
                elif now >= until:
                    break
                else:
                    self._news.wait((until if self._held is None else min(until, self._held_until)) - now)
            frame, self._slot = self._slot, None
            self._handed_out += frame is not None and not frame.unchanged
            self._news.notify_all()
            return frame

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more: the source is through and its last frame taken, or it is closed."""
        with self._news:
            return self._stop.is_set() or (self._finished and self._slot is None)

    @property
    def error(self) -> Exception | None:
        """What ended it, where the source did not end by itself."""
        return self._error

    def stats(self) -> ReaderStats:
        """Counts since the beginning."""
        with self._news:
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
        """End the thread and free the source. A second call does nothing.

        Takes a second at most; only a caller's own iterable, which nobody can interrupt, may keep the thread longer.
        """
        self._stop.set()
        with self._news:
            self._late += self._waits()
            self._slot = None
            self._news.notify_all()
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
        # Whatever fails in a source, a caller's iterable among them, ends the reading and is kept for who asks.
        except Exception as error:
            if not self._stop.is_set():
                self._error = error
        finally:
            self._source.close()
            with self._news:
                self._release_held()
                self._finished = True
                self._news.notify_all()

    def _reconnect(self, lost: SourceLost) -> None:
        """Try until it opens. Its first frame brings it back: one that opens and fails is not tried in haste."""
        if self._stop.is_set():
            return
        if self._lost_at is None:
            with self._news:
                self._release_held()
            self._lost_at = time.monotonic()
            self._warm_up, self._stillness, self._frozen_at = WarmUp(), Stillness(), None
            self._tell("lost", 0.0, f"{lost}; trying again until it is back")
        while not self._stop.wait(self._retry_s):
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            try:
                self._source.open()
                return
            except MediaError:
                continue

    def _offer(self, frame: Frame) -> None:
        if self._lost_at is not None:
            away, self._lost_at, self._retry_s = time.monotonic() - self._lost_at, None, FIRST_RETRY_S
            with self._news:
                self._reconnects += 1
            self._tell("back", away, f"{self._source.name}: back after {away:.0f} s")
        if self._damaged_since is not None:
            broken_s, self._damaged_since = time.monotonic() - self._damaged_since, None
            if self._broken:
                self._broken = False
                self._tell("whole", broken_s, f"{self._source.name}: frames are whole again after {broken_s:.0f} s")
        with self._news:
            if self._stop.is_set():
                return
            self._captured += 1
            self._arrivals.append(time.monotonic())
        if self._source.live and not getattr(self._source, "recorded", False):
            self._watch_stillness(frame)
        if getattr(self._source, "warms_up", False) and not self._warm_up.ready(frame):
            with self._news:
                self._dark_skipped += 1
                self._held, self._held_until = frame, time.monotonic() + _HELD_S
                self._news.notify_all()
            return
        with self._news:
            self._held = None
        self._pass_on(frame)

    def _pass_on(self, frame: Frame) -> None:
        wanted = self._rate is None or self._rate.take(frame.time_s)
        changed = wanted and (self._change is None or self._change.take(frame.image))
        with self._news:
            self._rate_skipped += not wanted
            self._same_skipped += wanted and not changed
            if not (changed or (wanted and self._with_unchanged)):
                return
            if not changed:
                frame = replace(frame, unchanged=True)
            if not self._source.live:
                self._news.wait_for(lambda: self._slot is None or self._stop.is_set())
            if self._stop.is_set():
                self._late += changed
                return
            # What changed is not overwritten by what did not.
            if not changed and self._waits():
                return
            self._late += self._waits()
            self._slot = frame
            self._news.notify_all()

    def _release_held(self) -> None:
        """Hand out the black frame that was left out last: nothing came behind it."""
        if self._held is not None and self._slot is None and not self._stop.is_set():
            self._dark_skipped -= 1
            self._slot = self._held
            self._news.notify_all()
        self._held = None

    def _waits(self) -> bool:
        """Whether a frame waits that counts, for it is none that looks as the one before."""
        return self._slot is not None and not self._slot.unchanged

    def _watch_stillness(self, frame: Frame) -> None:
        still_s = self._stillness.take(frame)
        name, already_s = self._source.name, self._told_frozen_s
        if self._frozen_at is None:
            if still_s < FROZEN_S:
                return
            self._frozen_at, already_s = frame.time_s - still_s, 0.0
            line = f"{name}: frozen, the same picture bit for bit for {still_s:.0f} s; check the camera"
            self._tell("frozen", still_s, line)
        elif still_s == 0.0:
            frozen_s, self._frozen_at = frame.time_s - self._frozen_at, None
            self._tell("moving", frozen_s, f"{name}: moving again after {frozen_s:.0f} s")
            return
        self._told_frozen_s = still_s
        with self._news:
            self._frozen_s += still_s - already_s

    def _count_damaged(self, error: FrameDamaged) -> None:
        now = time.monotonic()
        with self._news:
            self._damaged += 1
            first = self._damaged == 1
        if self._damaged_since is None:
            self._damaged_since = now
        if not self._source.live:
            if first or error.file is not None:
                self._tell("damaged", 0.0, str(error), error.file)
        elif not self._broken and now - self._damaged_since >= BROKEN_S:
            self._broken = True
            since_s = now - self._damaged_since
            self._tell(
                "broken", since_s, f"{error}; every frame for {since_s:.0f} s is damaged, check camera and network"
            )

    def _tell(self, state: str, seconds: float, line: str, file: str | None = None) -> None:
        if self._say is not None:
            self._say(line)
        if self._on_status is not None:
            self._on_status(SourceStatus(state, self._source.name, round(seconds, 1), line, file))
