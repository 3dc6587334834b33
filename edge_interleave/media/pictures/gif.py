"""Composes the frames of a GIF as browsers do: on a transparent canvas, to which the disposal "background" clears.

Pillow fills the area around the first frame with the palette's first colour, which the file does not ask for. So this
module wraps each frame's data into a GIF, has Pillow decode it, and composes the result.
Format: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from edge_interleave.media.pictures.canvas import Disposal, composed
from edge_interleave.media.pictures.formats import PictureError

MAX_FRAMES = 1 << 17
_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE}
_HAS_PALETTE, _INTERLACED, _PALETTE_BITS, _HAS_CLEAR = 0x80, 0x40, 0x07, 0x01


@dataclass(frozen=True)
class _Frame:
    """A frame's position in the file and on the canvas."""

    left: int
    top: int
    width: int
    height: int
    palette: bytes
    """Three bytes for each colour; empty: grey levels."""
    interlaced: bool
    clear: int | None
    """The transparent palette entry."""
    disposal: Disposal
    duration_s: float
    start: int
    """Where the LZW code size starts; the data blocks follow it."""
    end: int
    over: bool = True


class GifFrames:
    """The frames of a GIF. `file` must stay open while they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises PictureError or struct.error for a damaged file."""
        self._file = file
        file.seek(0)
        width, height, flags = struct.unpack("<6xHHBxx", file.read(13))
        self._frames = list(_frames(file, _palette(file, flags)))
        if not self._frames:
            raise PictureError("a GIF without a frame; the file is damaged or cut off")
        first = self._frames[0]
        # Some programs write a canvas size of 0.
        self.size = max(width, first.left + first.width), max(height, first.top + first.height)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[tuple[Image.Image, float]]:
        """Each frame's canvas, RGBA, and its duration in seconds. Use a canvas before the next; do not change it."""
        return composed(self.size, self._frames, self._decoded)

    def _decoded(self, frame: _Frame) -> Image.Image:
        flags = _HAS_PALETTE | (len(frame.palette) // 3).bit_length() - 2 if frame.palette else 0
        whole = b"GIF89a" + struct.pack("<HHBBB", frame.width, frame.height, flags, 0, 0) + frame.palette
        if frame.clear is not None:
            whole += b"\x21\xf9\x04" + struct.pack("<BHBB", _HAS_CLEAR, 0, frame.clear, 0)
        whole += b"\x2c" + struct.pack("<4HB", 0, 0, frame.width, frame.height, _INTERLACED * frame.interlaced)
        self._file.seek(frame.start)
        whole += self._file.read(frame.end - frame.start) + b"\x3b"
        with Image.open(io.BytesIO(whole), formats=["GIF"]) as image:
            return image.convert("RGBA")


def _frames(file: IO[bytes], palette: bytes) -> Iterator[_Frame]:
    """All frames up to the trailer, or up to the end of a file that is cut off."""
    clear, disposal, duration_s, found = None, 0, 0.0, 0
    while (kind := file.read(1)) not in (b"", b"\x3b"):
        if kind == b"\x21":
            label = file.read(1)
            block = _sub_block(file)
            if label == b"\xf9" and block is not None and len(block) >= 4:
                flags, hundredths, index = struct.unpack_from("<BHB", block)
                clear = index if flags & _HAS_CLEAR else None
                disposal, duration_s = flags >> 2 & 7, hundredths / 100
            while block:
                block = _sub_block(file)
        elif kind == b"\x2c":
            place = file.read(9)
            if len(place) < 9:
                return
            left, top, width, height, flags = struct.unpack("<4HB", place)
            own = _palette(file, flags)
            start = file.tell()
            file.read(1)
            while _skip_sub_block(file):
                pass
            found += 1
            if found > MAX_FRAMES:
                raise PictureError(f"a GIF of more than {MAX_FRAMES} frames; the file is damaged")
            yield _Frame(
                *(left, top, width, height, own or palette),
                interlaced=bool(flags & _INTERLACED),
                clear=clear,
                disposal=_DISPOSALS.get(disposal, Disposal.KEEP),
                duration_s=duration_s,
                start=start,
                end=file.tell(),
            )
            # A control block applies to the next frame only.
            clear, disposal, duration_s = None, 0, 0.0


def _palette(file: IO[bytes], flags: int) -> bytes:
    return file.read(3 << (flags & _PALETTE_BITS) + 1) if flags & _HAS_PALETTE else b""


def _sub_block(file: IO[bytes]) -> bytes | None:
    """A block of up to 255 bytes; None after the last one."""
    size = file.read(1)
    return file.read(size[0]) if size and size[0] else None


def _skip_sub_block(file: IO[bytes]) -> bool:
    size = file.read(1)
    if not size or not size[0]:
        return False
    file.seek(size[0], io.SEEK_CUR)
    return True
