"""Distinguishes a video of concatenated JPEGs (`.mjpeg`, as cameras write it) from one JPEG with previews of itself."""

from __future__ import annotations

import re
import struct
from typing import IO

_READ_BYTES = 64 << 20
"""At most this much of a file is read, to find its first two pictures."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker that ends coded data: 0xFF that is neither stuffing (00 follows), nor a restart marker, nor a fill byte."""
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segments that hold a picture's size (ITU-T T.81, table B.1)."""
_END, _SCAN, _APP2 = 0xD9, 0xDA, 0xE2
_PADDING = b"\0\r\n"


def is_motion_jpeg(file: IO[bytes]) -> bool:
    """Whether a second JPEG of the same size follows the first one and is not a preview of it."""
    file.seek(0)
    data = file.read(_READ_BYTES)
    size, end = _picture(data, 0)
    while end < len(data) and data[end] in _PADDING:
        end += 1
    return size is not None and data[end : end + 3] == b"\xff\xd8\xff" and _picture(data, end)[0] == size


def _picture(data: bytes, start: int) -> tuple[tuple[int, int] | None, int]:
    """Height and width of the JPEG at `start`, and the position of its end.

    The size is None if the JPEG has none, or if its header announces further views of the same picture (CIPA DC-007).
    """
    size: tuple[int, int] | None = None
    at = start + 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _END:
            return size, at + 2
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker in _SIZES and at + 9 <= len(data):
            size = struct.unpack_from(">HH", data, at + 5)
        if marker == _APP2 and data[at + 4 : at + 8] == b"MPF\0":
            return None, len(data)
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if marker == _SCAN:
            found = _MARKER.search(data, at)
            at = len(data) if found is None else found.start()
    if data[at : at + 2] == b"\xff\xd9":
        return size, at + 2
    return size, len(data)
