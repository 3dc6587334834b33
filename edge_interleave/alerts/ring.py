"""Keeps the last seconds of a source as small pictures, and writes them as a video when an alert is raised."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_S = 60.0
"""The most seconds that a ring keeps."""
BYTES_PER_S = 500_000
"""More than the kept pictures of a second take, for detailed scenes."""
VIDEO_BYTES = 20_000_000
"""More than writing a video takes; one is written at a time."""
_writing = threading.Lock()
_FPS = 5.0
"""The most pictures kept for a second."""
_SIDE = 640
"""The longer side of a kept picture, in pixels, at most."""
_JPEG_QUALITY = 85
_MOST = int(LONGEST_S * _FPS) + 1


@dataclass(frozen=True)
class RingPicture:
    """A kept picture."""

    time_s: float
    jpeg: bytes


class FrameRing:
    """The pictures of the last seconds, as JPEG files in memory. Any thread may call it."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: above 0 and at most LONGEST_S; a second takes at most about BYTES_PER_S."""
        self.seconds = min(seconds, LONGEST_S)
        self._pictures: deque[RingPicture] = deque(maxlen=_MOST)
        self._lock = threading.Lock()

    def add(self, image: Image, time_s: float) -> None:
        """Keep a frame, at most five a second. `image`: RGB. `time_s`: its time; one that goes back empties the ring.

        Call it from one thread at a time.
        """
        with self._lock:
            newest = self._pictures[-1].time_s if self._pictures else None
        if newest is not None and 0 <= time_s - newest < 1 / _FPS - 1e-3:
            return
        picture = RingPicture(time_s, _small_jpeg(image))
        with self._lock:
            if newest is not None and time_s < newest:
                self._pictures.clear()
            self._pictures.append(picture)
            while self._pictures[0].time_s < time_s - self.seconds:
                self._pictures.popleft()

    def pictures(self) -> list[RingPicture]:
        """The pictures kept now, oldest first."""
        with self._lock:
            return list(self._pictures)


def mp4(pictures: Sequence[RingPicture]) -> bytes:
    """A video (MP4; H.264, or MPEG-4 where FFmpeg has no such encoder) of the pictures, each shown at its time.

    All take the first picture's size. Raises ValueError without pictures.
    """
    if not pictures:
        raise ValueError("a video needs a picture")
    with _writing:
        return _mp4(pictures)


def _mp4(pictures: Sequence[RingPicture]) -> bytes:
    import av
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        with_h264 = "libx264" in av.codecs_available
        options = {"preset": "veryfast", "tune": "zerolatency"} if with_h264 else {}
        stream = out.add_stream("libx264" if with_h264 else "mpeg4", rate=int(_FPS), options=options)
        with Image.open(io.BytesIO(pictures[0].jpeg)) as first:
            # H.264 stores colours for pairs of pixels.
            stream.width, stream.height = (max(2, side - side % 2) for side in first.size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1
        last_ms = -1
        for picture in pictures:
            with Image.open(io.BytesIO(picture.jpeg)) as image:
                pixels = np.asarray(image.convert("RGB").resize((stream.width, stream.height)))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            last_ms = max(last_ms + 1, round((picture.time_s - pictures[0].time_s) * 1000))
            frame.pts, frame.time_base = last_ms, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def _small_jpeg(image: Image) -> bytes:
    small = image.copy() if max(image.size) > _SIDE else image
    small.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    file = io.BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
