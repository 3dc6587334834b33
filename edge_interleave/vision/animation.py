"""Pictures that hold several frames: GIF, PNG, WebP and AVIF animations, and the pages of a TIFF."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from PIL import Image

from . import tiff
from .formats import HEAD_BYTES, picture_format
from .gif import GifFrames
from .image import check_size, identify


@dataclass(frozen=True)
class Still:
    """One frame of an animation, for `to_rgb` before the next is asked for."""

    image: Image.Image
    time_s: float
    """Seconds from the animation's start."""
    index: int


class Animation(Protocol):
    """Frames, one after the other."""

    def __len__(self) -> int: ...

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        """The frames with these indices, in order."""


def open_animation(file: BinaryIO) -> Animation:
    """What `file` holds; a still picture is an animation of one frame. For use inside `image.decoding`.

    Raises Refused, or whatever Pillow raises, where it is no picture that can be read.
    """
    kind = picture_format(file.read(HEAD_BYTES))
    file.seek(0)
    if kind == "GIF":
        return _Gif(file)
    return _Pages(file) if kind == "TIFF" else _Sequence(file)


class _Gif:
    def __init__(self, file: BinaryIO) -> None:
        self._frames = GifFrames(file)
        check_size(self._frames.size)

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        time_s = 0.0
        # One after the other, for each is laid over those before it.
        for index, (canvas, duration_s) in enumerate(self._frames):
            if index in wanted:
                yield Still(canvas, time_s, index)
            if index >= max(wanted):
                return
            time_s += duration_s


class _Pages:
    """Pages have no clock: each counts as a second."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._numbers = tiff.page_numbers(file)

    def __len__(self) -> int:
        return len(self._numbers)

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        for index in sorted(wanted):
            image = tiff.open_page(self._file, self._numbers[index])
            check_size(image.size)
            yield Still(image, float(index), index)


class _Sequence:
    """Frames that Pillow composes."""

    def __init__(self, file: BinaryIO) -> None:
        self._image = identify(file)
        check_size(self._image.size)
        # A JPEG of several pictures holds previews of itself.
        moves = self._image.format in ("PNG", "WEBP", "AVIF")
        # A PNG may have a picture for programs that do not know animations, in front of the animation.
        self._first = int(moves and bool(getattr(self._image, "default_image", False)))
        self._count = getattr(self._image, "n_frames", 1) - self._first if moves else 1
        if self._count < 1:
            self._first, self._count = 0, 1

    def __len__(self) -> int:
        return self._count

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        time_s = 0.0
        for index in range(max(wanted) + 1):
            self._image.seek(self._first + index)
            self._image.load()
            if index in wanted:
                yield Still(self._image, time_s, index)
            time_s += float(self._image.info.get("duration", 0)) / 1000
