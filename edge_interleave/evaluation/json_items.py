"""The values of a JSON array, or of JSON lines, one at a time: a file of any size is never held whole.

Files come from strangers: what one value may take of memory and how deep it may be is bounded. Knows nothing about what
the values mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from edge_interleave.errors import InputError
from edge_interleave.util.regular_file import display_name, open_regular_file

VALUE_BYTES_MAX = 8 << 20
"""Of one value's text; read-ahead included, so that the true limit is a little lower."""
PARTS_MAX = 400_000
"""Numbers, texts, lists and objects of one value, together."""
DEPTH_MAX = 32
_READ_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"


class JsonItems:
    """An iterator over a file's values. `sha256` is that of the bytes read: of the whole file once it is through."""

    def __init__(self, path: Path) -> None:
        """`path`: opened when iteration starts."""
        self.path = path
        self.read = 0
        """How many values were read."""
        self.bytes = 0
        """How much of the file was read; ahead of the values."""
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of what was read so far, in hex."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[Any]:
        """Raises InputError, naming the file and the value, where it is missing, not JSON, cut off or out of bounds."""
        with open_regular_file(self.path) as file:
            stream = _Bounded(self, file)
            for value in self._values(stream):
                self.read += 1
                stream.begin_value()
                yield value

    def digest(self, content: bytes) -> None:
        """Count bytes as read."""
        self.bytes += len(content)
        self._digest.update(content)

    def error(self, problem: str) -> InputError:
        """What is wrong with the value that comes next."""
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
        # As floats: where numbers are to be exact, an integer of more digits than Python reads crashes the C code.
        events = ijson.basic_parse(stream, buf_size=_READ_BYTES, use_float=True)
        try:
            next(events)
            yield from self._built(events)
            # The parser reads on, and says what it thinks of anything but space.
            for _ in events:
                raise self.error("there is more after the array's end")
        except (ijson.JSONError, ValueError) as error:  # ValueError: bytes that are no UTF-8
            raise self.error(f"not JSON, or cut off ({_one_line(error)}); download the file again") from error

    def _built(self, events: Iterator[tuple[str, Any]]) -> Iterator[Any]:
        """The array's values, of the parser's events, up to its end."""
        values: list[Any] = []
        inside: Any = values
        around: list[Any] = []
        key, parts = "", 0
        for event, value in events:
            parts += 1
            if event == "map_key":
                key = value
                continue
            if event in ("end_map", "end_array"):
                if not around:
                    return
                inside = around.pop()
            else:
                made: Any = {} if event == "start_map" else [] if event == "start_array" else value
                if type(inside) is dict:
                    inside[key] = made
                else:
                    inside.append(made)
                if event in ("start_map", "start_array"):
                    around.append(inside)
                    inside = made
                    if len(around) > DEPTH_MAX:
                        raise self.error(f"nested deeper than {DEPTH_MAX}; this is no sample")
            if not around:
                yield values.pop()
                parts = 0
            elif parts > PARTS_MAX:
                raise self.error(f"more than {PARTS_MAX} parts; this is no sample")

    def _of_lines(self, stream: _Bounded) -> Iterator[Any]:
        while line := stream.line():
            if not line.strip():
                continue
            if not line.endswith(b"\n") and len(line) >= VALUE_BYTES_MAX:
                raise self.error(f"a line of more than {VALUE_BYTES_MAX >> 20} MiB; this is no sample")
            try:
                value = json.loads(line)
            except RecursionError:
                raise self.error("nested too deep; this is no sample") from None
            except ValueError as error:  # bytes that are no UTF-8, too
                raise self.error(f"not JSON, or cut off ({_one_line(error)}); download the file again") from error
            yield value


class _Bounded:
    """A file that says no when one value takes too much of it."""

    def __init__(self, items: JsonItems, file: BinaryIO) -> None:
        self._items = items
        self._file = file
        self._ahead = b""
        self._since = 0

    def first(self) -> bytes:
        """The first byte that is no space; it is read again."""
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
        """What is read from here on belongs to the next value."""
        self._since = 0

    def read(self, size: int) -> bytes:
        """For the parser, which asks for nothing first, to see whether it gets bytes."""
        if not size:
            return b""
        content, self._ahead = self._ahead, b""
        if not content:
            content = self._file.read(size)
            self._items.digest(content)
        self._since += len(content)
        if self._since > VALUE_BYTES_MAX:
            raise self._items.error(f"more than {VALUE_BYTES_MAX >> 20} MiB; this is no sample")
        return content

    def line(self) -> bytes:
        """The next line with its end, or the beginning of one that is too long; nothing at the file's end."""
        ahead, self._ahead = self._ahead, b""
        end = ahead.find(b"\n") + 1
        if end:
            line, self._ahead = ahead[:end], ahead[end:]
            return line
        more = self._file.readline(VALUE_BYTES_MAX - len(ahead))
        self._items.digest(more)
        return ahead + more


def _one_line(error: BaseException) -> str:
    # The parser goes on to show the text and an arrow.
    text = str(error).removeprefix("b'").split("\\n")[0].split("\n")[0].strip()[:120]
    return text if text.isprintable() and text else type(error).__name__
