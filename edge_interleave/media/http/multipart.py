"""The parts of a multipart body (RFC 2046, 5.1) as they come in: what MJPEG over HTTP is. Knows nothing about sockets.

Cameras take liberties: boundaries with dashes too many or too few, lengths that are wrong or absent, line ends of one
character. So the boundary decides where a part ends; a length that is given only says so earlier. Whatever is sent,
no more than the caps below is kept.
"""

from __future__ import annotations

import re

from edge_interleave.errors import MediaError

MAX_PART_BYTES = 32 << 20
MAX_HEAD_BYTES = 8 << 10

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_TAIL = re.compile(rb"\r?\n-*\Z")
"""The line end before a boundary, and dashes that it has too many: dashes alone may be the picture's own last bytes."""
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r?$")


class PartError(MediaError):
    """A part is not what it should be; `next` goes on behind it."""


class MultipartParser:
    """Fed with bytes as they come, gives parts without their heads."""

    def __init__(self, boundary: bytes) -> None:
        """`boundary` as the Content-Type names it. Raises PartError where nothing but dashes is left of it."""
        core = boundary.strip(b" \t\"'").lstrip(b"-")
        if not 0 < len(core) <= 200:
            raise PartError("names no boundary between its pictures")
        self._delimiter = b"--" + core
        self._buffer = bytearray()
        self._searched = 0
        self._skipped = 0
        self._inside = False
        self._length: int | None = None
        self.ended = False
        """Whether the last boundary was the closing one."""

    def feed(self, data: bytes) -> None:
        """More of the body."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole part; None: there is none yet. Raises PartError for one that is not as it should be."""
        while not self.ended:
            if not self._inside and not self._enter():
                return None
            if self._inside:
                return self._part()
        return None

    def _enter(self) -> bool:
        """Go behind the next boundary and the head behind it. False where more is needed."""
        start = self._find(len(self._buffer))
        if start < 0:
            # Rubbish between parts is dropped as it comes.
            keep = len(self._delimiter) - 1
            drop = max(len(self._buffer) - keep, 0)
            del self._buffer[:drop]
            self._searched = 0
            self._skipped += drop
            if self._skipped > MAX_PART_BYTES:
                self._skipped = 0
                raise PartError(f"no picture in {MAX_PART_BYTES} bytes")
            return False
        del self._buffer[:start]
        self._searched = 0
        behind = len(self._delimiter)
        if self._buffer[behind : behind + 2] == b"--":
            self.ended = True
            return False
        end = _HEAD_END.search(self._buffer, behind, MAX_HEAD_BYTES)
        if end is None:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                del self._buffer[:behind]
                raise PartError(f"a head of more than {MAX_HEAD_BYTES} bytes")
            return False
        length = _LENGTH.search(self._buffer, behind, end.end())
        self._length = None if length is None else int(length[1])
        del self._buffer[: end.end()]
        self._inside = True
        self._skipped = 0
        return True

    def _part(self) -> bytes | None:
        length = self._length
        if length is not None and length > MAX_PART_BYTES:
            length = None
        # A boundary before the length is reached: the length was wrong.
        end = self._find(len(self._buffer) if length is None else length)
        if end < 0 and length is not None and len(self._buffer) >= length:
            return self._leave(length)
        if end >= 0:
            return _TAIL.sub(b"", self._leave(end))
        if len(self._buffer) > MAX_PART_BYTES:
            self._leave(len(self._buffer))
            raise PartError(f"a picture of more than {MAX_PART_BYTES} bytes")
        return None

    def _leave(self, end: int) -> bytes:
        with memoryview(self._buffer) as view:
            part = bytes(view[:end])
        del self._buffer[:end]
        self._searched = 0
        self._inside = False
        return part

    def _find(self, end: int) -> int:
        """Where the delimiter begins, wholly before `end`; what was searched once is not searched again."""
        found = self._buffer.find(self._delimiter, self._searched, end)
        if found < 0:
            self._searched = max(min(end, len(self._buffer)) - len(self._delimiter) + 1, 0)
        return found
