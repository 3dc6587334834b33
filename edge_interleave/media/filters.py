"""Which frames are worth a look: a rate, and a change test. Knows nothing about where frames come from or go."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_interleave.errors import UsageError

SIDE = 32
"""Pixels of the thumbnail's sides that frames are compared by."""


class Rate:
    """At most so many frames a second of the source's own time, evenly."""

    def __init__(self, fps: float) -> None:
        """Raises UsageError where `fps` is not above 0."""
        if not (math.isfinite(fps) and fps > 0):
            raise UsageError(f"{fps} frames a second make no sense; give a number above 0")
        self._step = 1 / fps
        self._due = -math.inf
        self._last = -math.inf

    def take(self, time_s: float) -> bool:
        """Whether the frame of that time is one of them."""
        # Time that falls begins anew. Time stamps are rounded: a frame of 33 ms may come at 32.
        back = time_s < self._last
        self._last = time_s
        if not back and time_s < self._due - 1e-3:
            return False
        # From when it was due, so that rounding does not add up; unless the source paused.
        behind = back or time_s - self._due >= self._step
        self._due = (time_s if behind else self._due) + self._step
        return True


class Change:
    """Leaves out frames that look as the last one taken did.

    Frames are compared as grey thumbnails of SIDE x SIDE pixels: the mean absolute difference, in grey levels from 0 to
    255. Noise of a sensor goes away in the thumbnail. As a guide: 0.5 leaves out a still scene, 2 little things that
    move, 8 all but a change of most of the picture. Because the comparison is with the last frame *taken*, slow changes
    add up and are seen.
    """

    def __init__(self, threshold: float) -> None:
        """Raises UsageError where `threshold` is not from 0 to 255."""
        if not 0 <= threshold <= 255:
            raise UsageError(f"a change of {threshold} makes no sense; give grey levels from 0 to 255, such as 2")
        self._threshold = threshold
        self._taken: npt.NDArray[np.int16] | None = None

    def take(self, image: Image.Image) -> bool:
        """Whether an RGB picture differs by at least the threshold from the last one for which this was so."""
        small = thumbnail(image)
        if self._taken is not None and float(np.abs(small - self._taken).mean()) < self._threshold:
            return False
        self._taken = small
        return True


def thumbnail(image: Image.Image) -> npt.NDArray[np.int16]:
    """Grey levels 0..255, (SIDE, SIDE), averaged over the picture's areas."""
    # The gap has Pillow shrink by whole numbers first: many times faster on large frames, and nearly the same.
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    return np.asarray(small, np.int16)
