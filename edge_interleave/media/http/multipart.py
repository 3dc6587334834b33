"""Parses a multipart body (RFC 2046, 5.1) incrementally: the format of MJPEG over HTTP.

Cameras deviate from the standard: too many or too few dashes in boundaries, wrong or missing lengths, bare LF line
ends. So the boundary decides where a part ends; a length only allows the part to end before the next boundary arrives.
The buffer never exceeds the limits below.
"""

from __future__ import annotations

import re

from edge_interleave.errors import MediaError

MAX_PART_BYTES = 32 << 20
MAX_HEAD_BYTES = 8 << 10

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_TAIL = re.compile(rb"\r?\n-*\Z")
"""The line end before a boundary, with any surplus dashes. Dashes without a line end may be the picture's own bytes."""
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r?$")


class PartError(MediaError):
    """A part is malformed; the next call of `next` continues after it."""


class MultipartParser:
    """Takes bytes by `feed` and returns parts, without their headers, by `next`."""

    def __init__(self, boundary: bytes) -> None:
        """`boundary`: from the Content-Type. Raises PartError if it consists of dashes only or is too long."""
        core = boundary.strip(b" \t\"'").lstrip(b"-")
        if not 0 < len(core) <= 200:
            raise PartError("its Content-Type has no usable boundary")
        self._delimiter = b"--" + core
        self._buffer = bytearray()
        self._searched = 0
        self._skipped = 0
        self._inside = False
        self._length: int | None = None
        self.ended = False
        """Whether the closing boundary has been read."""

    def feed(self, data: bytes) -> None:
        """Append bytes of the body."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next complete part; None if more bytes are needed. Raises PartError for a malformed one."""
        while not self.ended:
            if not self._inside and not self._enter():
                return None
            if self._inside:
                return self._part()
        return None

    def _enter(self) -> bool:
        """Skip the next boundary and the headers after it. False if more bytes are needed."""
        start = self._find(len(self._buffer))
        if start < 0:
            # Bytes between parts are dropped at once.
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
        after = len(self._delimiter)
        if self._buffer[after : after + 2] == b"--":
            self.ended = True
            return False
        end = _HEAD_END.search(self._buffer, after, MAX_HEAD_BYTES)
        if end is None:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                del self._buffer[:after]
                raise PartError(f"a head of more than {MAX_HEAD_BYTES} bytes")
            return False
        length = _LENGTH.search(self._buffer, after, end.end())
        self._length = None if length is None else int(length[1])
        del self._buffer[: end.end()]
        self._inside = True
        self._skipped = 0
        return True

    def _part(self) -> bytes | None:
        length = self._length
        if length is not None and length > MAX_PART_BYTES:
            length = None
        # If a boundary comes before the length is reached, the length is wrong.
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
        """The position of the next delimiter that ends before `end`, or -1. Resumes where the last search stopped."""
        found = self._buffer.find(self._delimiter, self._searched, end)
        if found < 0:
            self._searched = max(min(end, len(self._buffer)) - len(self._delimiter) + 1, 0)
        return found
