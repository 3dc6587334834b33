"""Frames of an animated PNG, each laid over those before it on a clear canvas.

A PNG may hold, in front of its animation, one picture for programs that do not know animations. Pillow counts that
picture as a frame and lays the animation over it. So frames are decoded one by one, by Pillow, each as a PNG of its
own, and composed here. The format: https://www.w3.org/TR/png-3/#apng-frame-based-animation
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
from edge_interleave.media.pictures.formats import Refused
from edge_interleave.media.pictures.image import to_rgba
from edge_interleave.media.pictures.png_chunks import SIGNATURE, chunks

MAX_FRAMES = 1 << 17
_DISPOSALS = {1: Disposal.CLEAR, 2: Disposal.RESTORE}
_OVER = 1
"""Of the two ways to blend: what is clear in the frame shows the canvas."""
_SHARED = (b"PLTE", b"tRNS")


@dataclass(frozen=True)
class _Frame:
    """A frame's control chunk, and where its data lie in the file."""

    width: int
    height: int
    left: int
    top: int
    duration_s: float
    disposal: Disposal
    over: bool
    data: list[tuple[int, int]] = field(default_factory=list)
    """Start and size of each piece."""


class PngFrames:
    """Frames of an animated PNG; none where it is a still picture. `file` stays open while they are read."""

    def __init__(self, file: BinaryIO, profile: bytes | None) -> None:
        """`profile`: the ICC profile of all frames. Raises Refused, or what struct raises, where it is damaged."""
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
                # A number comes before the data.
                self._frames[-1].data.append((start + 12, size - 16))

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[tuple[Image.Image, float]]:
        """Each frame's canvas (RGBA, to be left unchanged and used before the next) and its duration in seconds."""
        return composed(self.size, self._frames, self._decoded)

    def _frame(self, control: bytes) -> _Frame:
        width, height, left, top, number, of, disposal, blend = struct.unpack_from(">4xIIIIHHBB", control)
        if left + width > self.size[0] or top + height > self.size[1] or width < 1 or height < 1:
            raise Refused("a frame of the animation lies outside of the picture; the file is damaged")
        if len(self._frames) >= MAX_FRAMES:
            raise Refused(f"an animation of more than {MAX_FRAMES} frames; the file is damaged")
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
