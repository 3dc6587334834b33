"""Composes the frames of an animated PNG on a transparent canvas.

A PNG may hold a default picture in front of its animation, for programs without support for animations. Pillow counts
it as a frame and draws the animation over it. So this module wraps each frame's data into a PNG, has Pillow decode it,
and composes the result. Format: https://www.w3.org/TR/png-3/#apng-frame-based-animation
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import Image

from edge_interleave.media.pictures.canvas import Disposal, composed
from edge_interleave.media.pictures.formats import PictureError
from edge_interleave.media.pictures.image import to_rgba
from edge_interleave.media.pictures.png_chunks import SIGNATURE, chunks

MAX_FRAMES = 1 << 17
_DISPOSALS = {1: Disposal.CLEAR, 2: Disposal.RESTORE}
_OVER = 1
"""The blend operation APNG_BLEND_OP_OVER: the canvas shows through the frame's transparent pixels."""
_SHARED = (b"PLTE", b"tRNS")


@dataclass(frozen=True)
class _Frame:
    """A frame's control chunk (fcTL), and where the file holds its data."""

    width: int
    height: int
    left: int
    top: int
    duration_s: float
    disposal: Disposal
    over: bool
    data: list[tuple[int, int]] = field(default_factory=list)
    """Start and size in bytes of each data chunk."""


class PngFrames:
    """The frames of an animated PNG; none for a still picture. `file` must stay open while they are read."""

    def __init__(self, file: BinaryIO, profile: bytes | None) -> None:
        """`profile`: the ICC profile of all frames. Raises PictureError or struct.error for a damaged file."""
        self._file = file
        self._profile = profile
        self._header = b""
        self._shared = b""
        self._frames: list[_Frame] = []
        for kind, start, size in chunks(file):
            if kind == b"IHDR":
                self._header = self._read(start + 8, size - 12)
                self.size: tuple[int, int] = struct.unpack_from(">II", self._header)
            elif kind in _SHARED:
                self._shared += self._read(start, size)
            elif kind == b"fcTL":
                self._frames.append(self._frame(self._read(start + 8, size - 12)))
            elif self._frames and kind == b"IDAT":
                self._frames[-1].data.append((start + 8, size - 12))
            elif self._frames and kind == b"fdAT":
                # An fdAT chunk's data start with a sequence number of four bytes.
                self._frames[-1].data.append((start + 12, size - 16))

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[tuple[Image.Image, float]]:
        """Each frame's canvas, RGBA, and its duration in seconds. Use a canvas before the next; do not change it."""
        return composed(self.size, self._frames, self._decoded)

    def _frame(self, control: bytes) -> _Frame:
        width, height, left, top, number, of, disposal, blend = struct.unpack_from(">4xIIIIHHBB", control)
        if left + width > self.size[0] or top + height > self.size[1] or width < 1 or height < 1:
            raise PictureError("a frame of the animation extends beyond the picture; the file is damaged")
        if len(self._frames) >= MAX_FRAMES:
            raise PictureError(f"an animation of more than {MAX_FRAMES} frames; the file is damaged")
        kept = _DISPOSALS.get(disposal, Disposal.KEEP)
        return _Frame(width, height, left, top, number / (of or 100), kept, blend == _OVER)

    def _decoded(self, frame: _Frame) -> Image.Image:
        header = struct.pack(">II", frame.width, frame.height) + self._header[8:]
        data = b"".join(self._read(start, size) for start, size in frame.data)
        whole = SIGNATURE + _chunk(b"IHDR", header) + self._shared + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
        with Image.open(io.BytesIO(whole), formats=["PNG"]) as image:
            if self._profile is not None:
                image.info["icc_profile"] = self._profile
            return to_rgba(image).convert("RGBA")

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(max(size, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
