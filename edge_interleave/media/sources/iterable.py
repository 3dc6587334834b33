"""The source for pictures from Python: any iterable of arrays, Pillow images, files or `Frame`s.

It is not live, so every picture is used. Each picture counts as a second; a `Frame` has its own time. The iterable is
not closed, and a call of its `next` that blocks cannot be interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame
from edge_interleave.media.pictures.image import open_image
from edge_interleave.media.sources.base import FrameDamaged


class IterableSource:
    """Items that `open_image` accepts, or `Frame`s whose times do not fall."""

    def __init__(self, pictures: Iterable[Any]) -> None:
        self.name = "pictures from Python"
        self.live = False
        self._pictures = pictures
        self._iterator: Iterator[Any] | None = None
        self._closed = threading.Event()
        self._index = 0

    def open(self) -> None:
        """Create the iterator."""
        self._iterator = iter(self._pictures)

    def read(self) -> Frame | None:
        """The next picture. Raises FrameDamaged for an unusable file or bytes, MediaError for an unusable array."""
        if self._closed.is_set() or self._iterator is None:
            return None
        try:
            item = next(self._iterator)
        except StopIteration:
            return None
        index, self._index = self._index, self._index + 1
        picture, time_s = (item.image, item.time_s) if isinstance(item, Frame) else (item, float(index))
        try:
            return Frame(open_image(picture), time_s, index)
        except MediaError as error:
            message = f"{self.name}, number {index}: {error}"
            # An array of a wrong shape or type is a mistake in the caller's code, so all others will be wrong as well.
            if isinstance(picture, np.ndarray):
                raise MediaError(message) from error
            raise FrameDamaged(message) from error

    def close(self) -> None:
        """Return no more pictures."""
        self._closed.set()
