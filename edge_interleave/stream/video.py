"""A source that plays a video file: at its own pace, or as fast as its frames are taken.

Knows nothing about how the file is opened safely (see `capture`).
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from PIL import Image

from ..errors import MediaError
from ..vision.image import MAX_PIXELS, describe
from .capture import Capture, open_video
from .frame import Frame
from .pictures import is_picture
from .source import FrameDamaged

_MORE_TRIES = 2
"""Behind a frame that does not come there may be others; behind the end there are none."""


class VideoSource:
    """A video's frames, all of them, in order; ends with the video."""

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        self.name = describe(path)
        self.live = realtime
        self._path = path
        self._capture: Capture | None = None
        self._closed = threading.Event()
        self._pace = Pace(self._closed) if realtime else None
        self._index = 0

    def open(self) -> None:
        """Open the file. Raises MediaError where it is no video."""
        if is_picture(self._path):
            raise MediaError(f"{self.name}: a picture, not a video; give a video, or a folder of pictures")
        self._use(open_video(self._path, max_pixels=MAX_PIXELS, hardware=True))

    def read(self) -> Frame | None:
        """The next frame. Raises FrameDamaged, MediaError where there is not a single one."""
        capture = self._capture
        if capture is None or not self._grab(capture):
            return None
        capture = self._capture or capture
        index, self._index = self._index, self._index + 1
        pixels = capture.pixels()
        if self._closed.is_set():
            return None
        if pixels is None:
            raise FrameDamaged(f"{self.name}: frame {index} cannot be decoded; the file is damaged there")
        frame = Frame(Image.fromarray(pixels), capture.time_s(index), index)
        if self._pace is not None:
            self._pace.wait(frame.time_s)
        return frame

    def close(self) -> None:
        """Free the file."""
        self._closed.set()
        if self._capture is not None:
            self._capture.release()

    def _grab(self, capture: Capture) -> bool:
        if capture.grab():
            return True
        if self._closed.is_set():
            return False
        if self._index:
            return any(capture.grab() for _ in range(_MORE_TRIES))
        # A hardware decoder may take the file and then not know its profile.
        if capture.hardware:
            capture.release()
            software = open_video(self._path, max_pixels=MAX_PIXELS)
            self._use(software)
            if software.grab():
                return True
        if self._closed.is_set():
            return False
        raise MediaError(f"{self.name}: holds no frame that can be decoded; the file is damaged or cut off")

    def _use(self, capture: Capture) -> None:
        self._capture = capture
        if self._closed.is_set():
            capture.release()


class Pace:
    """Lets recorded frames through when they are due."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._start: float | None = None

    def wait(self, time_s: float) -> None:
        """Return once the frame of that time is due, counted from the first; at once where it is late or at `stop`."""
        now = time.monotonic()
        if self._start is None:
            self._start = now - time_s
        # In steps, for a damaged time stamp may lie years ahead, further than a lock can wait.
        while (left := self._start + time_s - time.monotonic()) > 0 and not self._stop.wait(min(left, 3600)):
            pass
