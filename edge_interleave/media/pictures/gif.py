"""Frames of a GIF as browsers compose them: on a clear canvas, to which the disposal "background" clears again.

Pillow fills what the first frame leaves free with the palette's first colour, which the file does not ask for. So
frames are decoded one by one, by Pillow, each as a GIF of its own, and laid over each other here.
The format: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from edge_interleave.media.pictures.canvas import Disposal, composed
from edge_interleave.media.pictures.formats import Refused

MAX_FRAMES = 1 << 17
_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE}
_HAS_PALETTE, _INTERLACED, _PALETTE_BITS, _HAS_CLEAR = 0x80, 0x40, 0x07, 0x01


@dataclass(frozen=True)
class _Frame:
    """Where a frame lies in the file and on the canvas."""

    left: int
    top: int
    width: int
    height: int
    palette: bytes
    """Three bytes a colour; empty: grey levels."""
    interlaced: bool
    clear: int | None
    """The palette entry that is transparent."""
    disposal: Disposal
    duration_s: float
    start: int
    """Of the LZW code size and the data blocks behind it."""
    end: int
    over: bool = True


class GifFrames:
    """Frames of a GIF. `file` stays open while they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        """Raises Refused, or what struct raises, where the file is damaged."""
        self._file = file
        file.seek(0)
        width, height, flags = struct.unpack("<6xHHBxx", file.read(13))
        self._frames = list(_frames(file, _palette(file, flags)))
        if not self._frames:
            raise Refused("a GIF without a frame; the file is damaged or cut off")
        first = self._frames[0]
        # Some programs leave the screen's size out.
        self.size = max(width, first.left + first.width), max(height, first.top + first.height)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[tuple[Image.Image, float]]:
        """Each frame's canvas (RGBA, to be left unchanged and used before the next) and its duration in seconds."""
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
    """All frames up to the trailer, or to where the file is cut off."""
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
                raise Refused(f"a GIF of more than {MAX_FRAMES} frames; the file is damaged")
            yield _Frame(
                *(left, top, width, height, own or palette),
                interlaced=bool(flags & _INTERLACED),
                clear=clear,
                disposal=_DISPOSALS.get(disposal, Disposal.KEEP),
                duration_s=duration_s,
                start=start,
                end=file.tell(),
            )
            # What a control block says holds for the next frame alone.
            clear, disposal, duration_s = None, 0, 0.0


def _palette(file: IO[bytes], flags: int) -> bytes:
    return file.read(3 << (flags & _PALETTE_BITS) + 1) if flags & _HAS_PALETTE else b""


def _sub_block(file: IO[bytes]) -> bytes | None:
    """A block of up to 255 bytes; None: the last was read."""
    size = file.read(1)
    return file.read(size[0]) if size and size[0] else None


def _skip_sub_block(file: IO[bytes]) -> bool:
    size = file.read(1)
    if not size or not size[0]:
        return False
    file.seek(size[0], io.SEEK_CUR)
    return True
