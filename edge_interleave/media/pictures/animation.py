"""Reads picture files with several frames: GIF, PNG, WebP and AVIF animations, and the pages of a TIFF."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from PIL import Image

from edge_interleave.media.pictures import tiff
from edge_interleave.media.pictures.apng import PngFrames
from edge_interleave.media.pictures.formats import HEAD_BYTES, picture_format
from edge_interleave.media.pictures.gif import GifFrames
from edge_interleave.media.pictures.image import check_size, open_lazily
from edge_interleave.media.pictures.png_chunks import lean_png


@dataclass(frozen=True)
class Still:
    """One frame of an animation."""

    image: Image.Image
    """Valid until the next frame is read: pass it to `to_rgb` before that."""
    time_s: float
    """Seconds from the animation's start."""
    index: int


class Animation(Protocol):
    """An open picture file of one or more frames; `len` is their number."""

    def __len__(self) -> int: ...

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        """The frames with these indices, in ascending order."""


def open_animation(file: BinaryIO) -> Animation:
    """Open a picture file, which must be seekable; a still picture becomes an animation of one frame.

    Call it inside `image.decoding`: it raises PictureError, or anything that Pillow raises, for an unusable file.
    """
    kind = picture_format(file.read(HEAD_BYTES))
    file.seek(0)
    if kind == "GIF":
        return _Composed(GifFrames(file))
    if kind == "PNG":
        composed = PngFrames(*lean_png(file))
        if len(composed):
            return _Composed(composed)
        file.seek(0)
    return _Pages(file) if kind == "TIFF" else _Sequence(file)


class _Composed:
    """A GIF or PNG animation, composed by this package."""

    def __init__(self, frames: GifFrames | PngFrames) -> None:
        self._frames = frames
        check_size(self._frames.size)

    def __len__(self) -> int:
        return len(self._frames)

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        time_s = 0.0
        # Each frame is drawn over those before it, so none can be left out.
        for index, (canvas, duration_s) in enumerate(self._frames):
            if index in wanted:
                yield Still(canvas, time_s, index)
            if index >= max(wanted):
                return
            time_s += duration_s


class _Pages:
    """The pages of a TIFF. They have no times: each counts as a second."""

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
    """A still picture, or an animation that Pillow composes."""

    def __init__(self, file: BinaryIO) -> None:
        self._image = open_lazily(file)
        check_size(self._image.size)
        # In a JPEG of several pictures, the others are previews of the first.
        self._count: int = getattr(self._image, "n_frames", 1) if self._image.format in ("WEBP", "AVIF") else 1

    def __len__(self) -> int:
        return self._count

    def frames(self, wanted: Collection[int]) -> Iterator[Still]:
        time_s = 0.0
        for index in range(max(wanted) + 1):
            self._image.seek(index)
            self._image.load()
            if index in wanted:
                yield Still(self._image, time_s, index)
            time_s += float(self._image.info.get("duration", 0)) / 1000
