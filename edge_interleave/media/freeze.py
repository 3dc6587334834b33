"""Detects a frozen live source: one that repeats the same picture, bit for bit."""

from __future__ import annotations

import hashlib

from PIL import Image

from edge_interleave.media.frame import Frame

_SAMPLED = 8
"""The first comparison uses every eighth pixel in both directions."""


class FreezeDetector:
    """Measures for how long a source has repeated one picture, bit for bit."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._sample = b""
        self._digest: bytes | None = None
        self._since = 0.0

    def repeated_s(self, frame: Frame) -> float:
        """Take the next frame; return the seconds since the first frame that it repeats, 0 if it repeats none."""
        image = frame.image
        size = (max(image.width // _SAMPLED, 1), max(image.height // _SAMPLED, 1))
        sample = image.resize(size, Image.Resampling.NEAREST).tobytes()
        if image.size != self._size or sample != self._sample or frame.time_s < self._since:
            self._size, self._sample, self._digest, self._since = image.size, sample, None, frame.time_s
            return 0.0
        # Hashing a whole picture is slow, so it happens only if the sample repeats.
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        if self._digest not in (None, digest):
            self._since = frame.time_s
        self._digest = digest
        return frame.time_s - self._since
