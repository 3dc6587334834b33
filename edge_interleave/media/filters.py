"""Filters that drop frames: a rate limit, a change test, and a camera's dark first frames."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_interleave.errors import UsageError
from edge_interleave.media.frame import Frame

SIDE = 32
"""Width and height, in pixels, of the thumbnails that are compared."""
WARM_UP_S = 5.0
"""The longest time for which a camera's first frames are dropped."""
_BLACK = 32
"""A thumbnail is black if none of its grey levels (0..255) exceeds this: sensors are noisy, and video's black is 16."""
_SETTLED = 4.0
"""The exposure has settled if the mean grey level changes by less than this from frame to frame."""


class RateLimiter:
    """Passes at most `fps` frames per second of the source's time, evenly spaced."""

    def __init__(self, fps: float) -> None:
        """Raises UsageError unless `fps` is above 0."""
        if not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"fps must be a number above 0, not {fps}")
        self._step = 1 / fps
        self._due = -math.inf
        self._last = -math.inf

    def take(self, time_s: float) -> bool:
        """Whether the frame at `time_s` seconds passes."""
        # A time that goes back restarts the schedule. Time stamps are rounded: a frame due at 33 ms may have 32.
        back = time_s < self._last
        self._last = time_s
        if not back and time_s < self._due - 1e-3:
            return False
        # The next frame is due one step after this one was due, so that rounding errors do not add up. After a pause of
        # the source, it is due one step after this frame's time.
        behind = back or time_s - self._due >= self._step
        self._due = (time_s if behind else self._due) + self._step
        return True


class ChangeFilter:
    """Drops frames that look like the last one that passed.

    Frames are compared as grey thumbnails of SIDE x SIDE pixels, which hide sensor noise: the mean absolute difference
    in grey levels from 0 to 255. As a guide: 0.5 drops a still scene, 2 drops small movements, 8 drops all but a change
    of most of the picture. Slow changes add up and pass, because the comparison is with the last frame that *passed*.
    """

    def __init__(self, threshold: float) -> None:
        """`threshold`: grey levels. Raises UsageError unless it is from 0 to 255."""
        if not 0 <= threshold <= 255:
            raise UsageError(f"change must be from 0 to 255 grey levels, such as 2, not {threshold}")
        self._threshold = threshold
        self._taken: npt.NDArray[np.int16] | None = None

    def take(self, image: Image.Image) -> bool:
        """Whether an RGB picture differs by at least the threshold from the last one that passed."""
        small = thumbnail(image)
        if self._taken is not None and float(np.abs(small - self._taken).mean()) < self._threshold:
            return False
        self._taken = small
        return True


class WarmUpFilter:
    """Drops a camera's black first frames, and those in which its exposure still rises, for at most WARM_UP_S.

    A source whose first frame is not black loses no frame.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._mean: float | None = None
        self._done = False

    def take(self, frame: Frame) -> bool:
        """Whether the frame passes; after the first one that does, all pass."""
        if self._done:
            return True
        if self._since is None:
            self._since = frame.time_s
        small = thumbnail(frame.image)
        mean, before = float(small.mean()), self._mean
        self._mean = mean
        black = int(small.max()) < _BLACK
        settled = not black and (before is None or abs(mean - before) < _SETTLED)
        self._done = settled or not 0 <= frame.time_s - self._since < WARM_UP_S
        return self._done


def is_black(image: Image.Image) -> bool:
    """Whether no part of an RGB picture is brighter than a sensor's noise."""
    return int(thumbnail(image).max()) < _BLACK


def thumbnail(image: Image.Image) -> npt.NDArray[np.int16]:
    """Grey levels 0..255 of shape (SIDE, SIDE), each the mean of its area of the picture."""
    # reducing_gap lets Pillow shrink by whole numbers first: much faster on large frames, and nearly the same result.
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    return np.asarray(small, np.int16)
