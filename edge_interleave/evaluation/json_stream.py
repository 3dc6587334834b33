"""Reads the values of a JSON array or of JSON lines one at a time, so a file of any size fits in memory.

The files are untrusted: size, number of parts and depth of each value are limited.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from edge_interleave.errors import InputError
from edge_interleave.util.regular_file import display_name, open_regular_file

VALUE_BYTES_MAX = 8 << 20
"""Greatest size of one value's text, including read-ahead, so the effective limit is a little lower."""
PARTS_MAX = 400_000
"""Most numbers, strings, lists and objects in one value, together."""
DEPTH_MAX = 32
_READ_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"


class JsonStream:
    """An iterator over a file's values."""

    def __init__(self, path: Path) -> None:
        """`path`: opened when iteration starts."""
        self.path = path
        self.read = 0
        """Number of values read so far."""
        self.bytes = 0
        """Bytes read so far, including read-ahead."""
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256 in hex of the bytes read so far; of the whole file after the last value."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Any]:
        """The values. Raises InputError, naming file and value, if the file is missing, not JSON or too large."""
        with open_regular_file(self.path) as file:
            stream = _Bounded(self, file)
            for value in self._values(stream):
                self.read += 1
                stream.begin_value()
                yield value

    def digest(self, content: bytes) -> None:
        """Count bytes as read, and add them to the digest."""
        self.bytes += len(content)
        self._digest.update(content)

    def error(self, problem: str) -> InputError:
        """An error about the next value."""
        return InputError(f"{display_name(self.path)}: sample {self.read + 1}: {problem}")

    def _values(self, stream: _Bounded) -> Iterator[Any]:
        first = stream.first()
        if first == b"[":
            return self._of_array(stream)
        if first == b"{":
            return self._of_lines(stream)
        what = "is empty" if not first else "is not JSON"
        raise InputError(f"{display_name(self.path)}: {what}; give a JSON array of samples, or one sample a line")

    def _of_array(self, stream: _Bounded) -> Iterator[Any]:
        # Numbers as floats: with exact numbers, an integer with too many digits for Python crashes the C code.
        events = ijson.basic_parse(stream, buf_size=_READ_BYTES, use_float=True)
        try:
            next(events)
            yield from self._build_values(events)
            # The parser reads on and raises for anything but white space.
            for _ in events:
                raise self.error("there is text after the array's end")
        except (ijson.JSONError, ValueError) as error:  # ValueError: not UTF-8
            raise self.error(f"not JSON, or cut off ({_one_line(error)}); {_remedy(error)}") from error

    def _build_values(self, events: Iterator[tuple[str, Any]]) -> Iterator[Any]:
        """The array's values, built from the parser's events."""
        values: list[Any] = []
        container: Any = values
        outer: list[Any] = []
        key, parts = "", 0
        for event, value in events:
            parts += 1
            if event == "map_key":
                key = value
                continue
            if event in ("end_map", "end_array"):
                if not outer:
                    return
                container = outer.pop()
            else:
                made: Any = {} if event == "start_map" else [] if event == "start_array" else value
                if type(container) is dict:
                    container[key] = made
                else:
                    container.append(made)
                if event in ("start_map", "start_array"):
                    outer.append(container)
                    container = made
                    if len(outer) > DEPTH_MAX:
                        raise self.error(f"nested deeper than {DEPTH_MAX}; this is not a sample")
            if not outer:
                yield values.pop()
                parts = 0
            elif parts > PARTS_MAX:
                raise self.error(f"more than {PARTS_MAX} parts; this is not a sample")

    def _of_lines(self, stream: _Bounded) -> Iterator[Any]:
        while line := stream.line():
            if not line.strip():
                continue
            if not line.endswith(b"\n") and len(line) >= VALUE_BYTES_MAX:
                raise self.error(f"a line of more than {VALUE_BYTES_MAX >> 20} MiB; this is not a sample")
            try:
                value = json.loads(line)
            except RecursionError:
                raise self.error("nested too deep; this is not a sample") from None
            except ValueError as error:  # also: not UTF-8
                raise self.error(f"not JSON, or cut off ({_one_line(error)}); {_remedy(error)}") from error
            yield value


class _Bounded:
    """A file that raises InputError when one value takes more than VALUE_BYTES_MAX."""

    def __init__(self, items: JsonStream, file: BinaryIO) -> None:
        self._items = items
        self._file = file
        self._ahead = b""
        self._since = 0

    def first(self) -> bytes:
        """The first byte that is not white space; it is not consumed."""
        while True:
            content = self._file.read(_READ_BYTES)
            self._items.digest(content)
            self._ahead = content
            if self._items.read == 0 and content.startswith(_BYTE_ORDER_MARK):
                self._ahead = content.removeprefix(_BYTE_ORDER_MARK)
            found = self._ahead.lstrip(_SPACE)
            if found or not content:
                return found[:1]

    def begin_value(self) -> None:
        """Count what is read from here on as the next value's."""
        self._since = 0

    def read(self, size: int) -> bytes:
        """Read for the parser. It first asks for 0 bytes, to learn whether the file gives bytes or text."""
        if not size:
            return b""
        content, self._ahead = self._ahead, b""
        if not content:
            content = self._file.read(size)
            self._items.digest(content)
        self._since += len(content)
        if self._since > VALUE_BYTES_MAX:
            raise self._items.error(f"more than {VALUE_BYTES_MAX >> 20} MiB; this is not a sample")
        return content

    def line(self) -> bytes:
        """The next line with its newline, or the beginning of a line that is too long; b"" at the file's end."""
        ahead, self._ahead = self._ahead, b""
        end = ahead.find(b"\n") + 1
        if end:
            line, self._ahead = ahead[:end], ahead[end:]
            return line
        more = self._file.readline(VALUE_BYTES_MAX - len(ahead))
        self._items.digest(more)
        return ahead + more


def _remedy(error: Exception) -> str:
    return "save the file as UTF-8" if re.search("utf-?8", str(error), re.IGNORECASE) else "download the file again"


def _one_line(error: BaseException) -> str:
    # After its first line, the parser's message shows the text and an arrow.
    text = str(error).removeprefix("b'").split("\\n")[0].split("\n")[0].strip()[:120]
    return text if text.isprintable() and text else type(error).__name__
