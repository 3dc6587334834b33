"""Reads MJPEG over HTTP: the JPEGs in the parts of a multipart body, within size and time limits."""

from __future__ import annotations

import time

import numpy as np
from PIL import Image

from edge_interleave.errors import MediaError
from edge_interleave.media.capture.process import MAX_STREAM_PIXELS
from edge_interleave.media.http.multipart import MultipartParser, PartError
from edge_interleave.media.http.stream import HttpStream
from edge_interleave.media.pictures.image import opened, to_rgb
from edge_interleave.media.sources.base import FrameDamaged

_END = b"\xff\xd9"
_TAIL_BYTES = 1024
"""How far from the end of a picture its end marker may lie: some cameras append bytes of their own."""
_FILLING = bytes((0xB5, 0xA6, 0x5B, 0x6C, 0x93, 0xD4)) * 8


class MjpegReader:
    """The pictures of one MJPEG response."""

    recorded = False

    def __init__(self, name: str, stream: HttpStream, timeout_s: float) -> None:
        """`name`: for messages. `stream`: connected. `timeout_s`: the time limit for each complete picture.

        Raises PartError if the stream's Content-Type has no usable boundary.
        """
        self._name = name
        self._stream = stream
        self._timeout_s = timeout_s
        self._parser = MultipartParser(stream.boundary.encode("latin-1", "replace"))
        self._last = time.monotonic()

    def read(self) -> tuple[Image.Image, float] | None:
        """The next picture, RGB, and its time of arrival by `time.monotonic`.

        Raises FrameDamaged for an unusable picture; EOFError, OSError or HTTPException at the end of the stream.
        """
        try:
            while (part := self._parser.next()) is None:
                if self._parser.ended:
                    raise EOFError("the server ended it")
                data = self._stream.read(self._time_left())
                if not data:
                    raise EOFError("the server closed the connection")
                self._parser.feed(data)
        except PartError as error:
            self._time_left()
            raise FrameDamaged(f"{self._name}: {error}") from error
        self._last = time.monotonic()
        return decode_picture(self._name, part), self._last

    def _time_left(self) -> float:
        """Seconds left for the next picture to complete, however many bytes arrive. Raises TimeoutError at 0."""
        left = self._last + self._timeout_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def decode_picture(name: str, data: bytes) -> Image.Image:
    """Decode a JPEG that a camera sent, RGB. `name`: for messages. Raises FrameDamaged."""
    if not data.startswith(b"\xff\xd8\xff"):
        raise FrameDamaged(f"{name}: sent a part that is not a JPEG")
    try:
        if _END not in data[-_TAIL_BYTES:]:
            return _decode_without_end(name, data)
        image = _decode_jpeg(name, data)
        if _ends_flat(image):
            _decode_without_end(name, data[: data.rindex(_END)])
        return image
    except FrameDamaged:
        raise
    except MediaError as error:
        raise FrameDamaged(f"{name}: {error}") from error


def _decode_without_end(name: str, data: bytes) -> Image.Image:
    """Decode a JPEG without an end marker. Raises FrameDamaged if more than the marker is missing.

    A decoder silently fills missing data with arbitrary pixels. So the picture is decoded a second time with different
    bytes after its data: they change the pixels if data are missing, and are skipped if not. They include restart
    markers, because a decoder that waits for one skips everything else.
    """
    data = data.removesuffix(b"\xff")
    image = _decode_jpeg(name, data + _END)
    filling = b"".join(_FILLING + bytes((0xFF, 0xD0 + number)) for number in range(8))
    if np.array_equal(np.asarray(image), np.asarray(_decode_jpeg(name, data + filling + _FILLING + _END))):
        return image
    raise FrameDamaged(f"{name}: a picture is cut off")


def _ends_flat(image: Image.Image) -> bool:
    """Whether the last corner has one colour, as after lost data: a decoder then shows grey, or repeats a colour.

    Some cameras write the end marker even if data before it got lost. Other pictures that end flat are decoded twice.
    """
    # The last 4 x 4 pixels: a whole block of 8 x 8 may take on colours of its neighbours.
    pixels = np.asarray(image.crop((max(image.width - 4, 0), max(image.height - 4, 0), image.width, image.height)))
    return bool((pixels == pixels[0, 0]).all())


def _decode_jpeg(name: str, data: bytes) -> Image.Image:
    with opened(data) as image:
        if image.width * image.height > MAX_STREAM_PIXELS:
            raise FrameDamaged(f"{name}: a picture of {image.width} x {image.height} is too large")
        return to_rgb(image)
