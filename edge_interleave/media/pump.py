"""Frames from a reader through two steps, a thread each: while one frame is appended, the next is encoded.

Takes a frame from the reader only when there is room for it, so that of a live source the newest frame is next.
Knows nothing about what the steps do.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from edge_interleave.media.frame import Frame
from edge_interleave.media.reader import FrameReader

T = TypeVar("T")
_TICK_S = 0.2
"""How long a thread waits before it looks whether it shall end."""


class Pump(Generic[T]):
    """Two threads between a reader and a window."""

    def __init__(
        self,
        reader: FrameReader,
        encode: Callable[[Frame], T | None],
        append: Callable[[Frame, T], object],
        ended: Callable[[], None],
        unchanged: Callable[[Frame], object] = lambda frame: None,
    ) -> None:
        """Begins at once. `encode` may give None: the frame is left out. `ended` is called once nothing more comes.

        `unchanged` takes the place of both steps for frames that are so, in their order among the others.
        """
        self.reader = reader
        self.error: BaseException | None = None
        """What ended it, where the source did not end by itself."""
        self._encode = encode
        self._append = append
        self._unchanged = unchanged
        self._told = ended
        self._stop = threading.Event()
        self._through = threading.Event()
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
        """Whether all frames are through, or something failed."""
        return self._through.is_set()

    def stop(self) -> None:
        """Have the threads end after the step that is being done."""
        self._stop.set()

    def close(self) -> None:
        """End the threads and the reader. Waits for the step that is being done. A second call does nothing."""
        self.stop()
        self.reader.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._through.set()

    def _encode_all(self) -> None:
        while not self._stop.is_set():
            # Encoding begins when the frame before has been taken: its successor is then as new as can be.
            if not self._room.acquire(timeout=_TICK_S):
                continue
            frame, made = None, None
            while made is None and not self._stop.is_set():
                frame = self.reader.next(_TICK_S)
                if frame is not None and frame.unchanged:
                    break
                if frame is not None:
                    made = self._encode(frame)
                elif self.reader.ended:
                    self.error = self.error or self.reader.error
                    self._ready.put(None)
                    return
            if frame is not None and (made is not None or frame.unchanged):
                self._ready.put((frame, made))

    def _append_all(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._ready.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if item is None:
                return
            self._room.release()
            frame, made = item
            if made is None:
                self._unchanged(frame)
            else:
                self._append(frame, made)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Whatever fails ends both threads, and is kept for who asks."""
        try:
            step()
        except BaseException as error:  # an exit in a caller's callback as well
            if not self._stop.is_set():
                self.error = self.error or error
            self._stop.set()
        if self._stop.is_set() or step == self._append_all:
            self._through.set()
            self._told()
