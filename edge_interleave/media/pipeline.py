"""Runs frames through two steps in two threads: the next frame is encoded while the current one is appended.

A frame is taken from the reader only when the next step has room, so that a live source always provides its newest one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FrameReader, SourceStatus
from edge_interleave.media.sources.base import Source
from edge_interleave.media.sources.open import open_source

T = TypeVar("T")
_TICK_S = 0.2
"""How often a waiting thread checks whether to stop."""


class FramePipeline(Generic[T]):
    """Two threads that take frames from a reader: one calls `encode`, the other `append`."""

    def __init__(
        self,
        reader: FrameReader,
        encode: Callable[[Frame], T | None],
        append: Callable[[Frame, T], object],
        on_end: Callable[[], None],
        on_unchanged: Callable[[Frame], object] = lambda frame: None,
    ) -> None:
        """Start both threads.

        `encode`: returns None to drop the frame. `append`: receives the frame and what `encode` returned.
        `on_unchanged`: called instead of both for frames that are marked unchanged, in their order among the others.
        `on_end`: called at least once, when no more frames will come.
        """
        self.reader = reader
        self.error: BaseException | None = None
        """The error that ended the pipeline; None if the source ended normally."""
        self._encode = encode
        self._append = append
        self._on_unchanged = on_unchanged
        self._on_end = on_end
        self._stop = threading.Event()
        self._done = threading.Event()
        self._ready: queue.Queue[tuple[Frame, T | None] | None] = queue.Queue(1)
        self._room = threading.Semaphore(1)
        self._threads = [
            threading.Thread(target=self._guarded, args=(step,), name=f"edge-interleave {name}", daemon=True)
            for name, step in (("encode", self._encode_all), ("append", self._append_all))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ended(self) -> bool:
        """Whether all frames are appended, or an error ended the pipeline."""
        return self._done.is_set()

    def stop(self) -> None:
        """Make the threads end after their current step. Does not wait."""
        self._stop.set()

    def close(self) -> None:
        """End the threads and close the reader. Waits for the current steps. A second call does nothing."""
        self.stop()
        self.reader.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._done.set()

    def _encode_all(self) -> None:
        while not self._stop.is_set():
            # Take a frame only after the previous one has left the queue, so that the newest frame is encoded.
            if not self._room.acquire(timeout=_TICK_S):
                continue
            frame, encoded = None, None
            while encoded is None and not self._stop.is_set():
                frame = self.reader.next(_TICK_S)
                if frame is not None and frame.unchanged:
                    break
                if frame is not None:
                    encoded = self._encode(frame)
                elif self.reader.ended:
                    self.error = self.error or self.reader.error
                    self._ready.put(None)
                    return
            if frame is not None and (encoded is not None or frame.unchanged):
                self._ready.put((frame, encoded))

    def _append_all(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._ready.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if item is None:
                return
            self._room.release()
            frame, encoded = item
            if encoded is None:
                self._on_unchanged(frame)
            else:
                self._append(frame, encoded)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run one thread's loop; an exception ends both threads and is kept in `error`."""
        try:
            step()
        except BaseException as error:  # including SystemExit from a caller's callback
            if not self._stop.is_set():
                self.error = self.error or error
            self._stop.set()
        if self._stop.is_set() or step == self._append_all:
            self._done.set()
            self._on_end()


def watch_source(
    source: str | Path | Iterable[Any] | Source,
    encode: Callable[[Frame], T | None],
    append: Callable[[Frame, T], int],
    on_end: Callable[[], None],
    *,
    fps: float | None,
    change: float | None,
    realtime: bool,
    on_frame: Callable[[int], None] | None,
    on_unchanged: Callable[[float], None] | None,
    on_status: Callable[[SourceStatus], None] | None,
) -> FramePipeline[T]:
    """Open a source and run its frames through a pipeline; the options are those of `Live.watch`.

    `append` returns the frame's number, which `on_frame` gets. Raises MediaError if the source cannot be opened.
    """

    def append_and_tell(frame: Frame, encoded: T) -> None:
        number = append(frame, encoded)
        if on_frame is not None:
            on_frame(number)

    def unchanged(frame: Frame) -> None:
        if on_unchanged is not None:
            on_unchanged(frame.time_s)

    reader = FrameReader(
        open_source(source, realtime=realtime),
        fps=fps,
        change=change,
        with_unchanged=on_unchanged is not None,
        on_status=on_status,
    )
    return FramePipeline(reader, encode, append_and_tell, on_end, unchanged)
