"""What is odd about a live source: a black start, a picture that never changes, nothing but damage. Reads no source."""

from __future__ import annotations

import hashlib

from PIL import Image

from edge_interleave.media.filters import thumbnail
from edge_interleave.media.frame import Frame

WARM_UP_S = 5.0
"""So long at most a camera's first frames are left out as black, or because they still grow brighter."""
FROZEN_S = 30.0
"""A picture that repeats bit for bit for so long is told. An encoder may repeat a still scene up to its next key frame,
10 s at most with common cameras."""
BROKEN_S = 5.0
"""Damage alone for so long is told."""
_BLACK = 32
"""No area of a black thumbnail is brighter (0..255): sensors are noisy, and video's black is 16."""
_SETTLED = 4.0
"""Grey levels from frame to frame below which the mean brightness has settled."""
_SAMPLED = 8
"""Every so many pixels are compared first, in both directions."""


class WarmUp:
    """Leaves out the black frames with which a camera begins, and those in which its exposure still rises.

    A source whose first frame is not black is never held up.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._mean: float | None = None
        self._done = False

    def ready(self, frame: Frame) -> bool:
        """Whether to use the frame; from the first time on, always."""
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


class Stillness:
    """For how long a source has repeated one picture, bit for bit."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._sample = b""
        self._digest: bytes | None = None
        self._since = 0.0

    def take(self, frame: Frame) -> float:
        """Take the next frame; gives the seconds since the first one that it repeats."""
        image = frame.image
        size = (max(image.width // _SAMPLED, 1), max(image.height // _SAMPLED, 1))
        sample = image.resize(size, Image.Resampling.NEAREST).tobytes()
        if image.size != self._size or sample != self._sample or frame.time_s < self._since:
            self._size, self._sample, self._digest, self._since = image.size, sample, None, frame.time_s
            return 0.0
        # Only a picture whose sample repeats is worth hashing whole.
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        if self._digest not in (None, digest):
            self._since = frame.time_s
        self._digest = digest
        return frame.time_s - self._since
