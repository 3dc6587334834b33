"""A source of pictures from Python: any iterable of arrays, Pillow images or frames.

It can wait for who reads. It has no clock, so one picture counts as a second; a `Frame` brings its own time. The
iterable is the caller's: it is not closed, and a `next` of its own that waits cannot be interrupted.
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
    """Items as `open_image` takes them, or `Frame`s whose times do not fall."""

    def __init__(self, pictures: Iterable[Any]) -> None:
        self.name = "pictures from Python"
        self.live = False
        self._pictures = pictures
        self._iterator: Iterator[Any] | None = None
        self._closed = threading.Event()
        self._index = 0

    def open(self) -> None:
        """Ask the iterable for its iterator."""
        self._iterator = iter(self._pictures)

    def read(self) -> Frame | None:
        """The next picture. Raises FrameDamaged for a file or bytes, MediaError for an array, of no use."""
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
            # An array of the wrong kind is the caller's mistake, and the next one will be of that kind, too.
            if isinstance(picture, np.ndarray):
                raise MediaError(message) from error
            raise FrameDamaged(message) from error

    def close(self) -> None:
        """Give no more pictures."""
        self._closed.set()
