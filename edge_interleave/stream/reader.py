"""A thread that reads a source and keeps the next frame worth a look; reconnects where the source is lost.

Of a live source there is one frame waiting, the newest: one that nobody took in time is overwritten and counted as
late. Any other source waits. Knows nothing about what frames are for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import MediaError
from .frame import Frame
from .source import FrameDamaged, Source, SourceLost
from .worth import Change, Rate

FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
"""How long it waits before it tries a lost source again: the first time, and at most, doubling in between."""
_JOIN_S = 1.0
_RECENT = 50


@dataclass(frozen=True)
class ReaderStats:
    """What became of a source's frames: captured = handed_out + late + rate_skipped + same_skipped + one that waits."""

    captured: int
    """Frames that were read whole."""
    handed_out: int
    late: int
    """Overwritten by a newer frame, or left when the reader was closed."""
    rate_skipped: int
    same_skipped: int
    """Left out by the change test."""
    damaged: int
    """Frames that could not be decoded; they are not among the captured."""
    reconnects: int
    """How often a lost source came back with a frame."""
    capture_fps: float
    """Frames a second, over the latest; 0 before the second."""


class FrameReader:
    """Reads a source from its own thread. One thread takes frames, any may close."""

    def __init__(
        self,
        source: Source,
        *,
        fps: float | None = None,
        change: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Open the source and begin to read.

        `fps`: at most so many frames a second of the source's time. `change`: see `worth.Change`. `say` gets one line
        when the source is lost and one when it is back, from the reader's thread.
        Raises MediaError where the source cannot be opened, UsageError where `fps` or `change` make no sense.
        """
        self._source = source
        self._rate = None if fps is None else Rate(fps)
        self._change = None if change is None else Change(change)
        self._say = say
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
        with self._news:
            self._news.wait_for(lambda: self._slot is not None or self._finished or self._stop.is_set(), timeout)
            frame, self._slot = self._slot, None
            self._handed_out += frame is not None
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
                damaged=self._damaged,
                reconnects=self._reconnects,
                capture_fps=(len(self._arrivals) - 1) / span if span > 0 else 0.0,
            )

    def close(self) -> None:
        """End the thread and free the source. A second call does nothing.

        Takes a second at most; only a caller's own iterable, which nobody can interrupt, may keep the thread longer.
        """
        self._stop.set()
        with self._news:
            self._late += self._slot is not None
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
                except FrameDamaged:
                    with self._news:
                        self._damaged += 1
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
                self._finished = True
                self._news.notify_all()

    def _reconnect(self, lost: SourceLost) -> None:
        """Try until it opens. Its first frame brings it back: one that opens and fails is not tried in haste."""
        if self._stop.is_set():
            return
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._tell(f"{lost}; trying again until it is back")
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
            self._tell(f"{self._source.name}: back after {away:.0f} s")
        wanted = self._rate is None or self._rate.take(frame.time_s)
        changed = wanted and (self._change is None or self._change.take(frame.image))
        with self._news:
            if self._stop.is_set():
                return
            self._captured += 1
            self._arrivals.append(time.monotonic())
            self._rate_skipped += not wanted
            self._same_skipped += wanted and not changed
            if not changed:
                return
            if not self._source.live:
                self._news.wait_for(lambda: self._slot is None or self._stop.is_set())
            if self._stop.is_set():
                self._late += 1
                return
            self._late += self._slot is not None
            self._slot = frame
            self._news.notify_all()

    def _tell(self, line: str) -> None:
        if self._say is not None:
            self._say(line)
