"""Strips texts and colour profile from a PNG, because Pillow refuses files in which these are large.

Pillow's limit is one megabyte when inflated, and programs that generate pictures store whole workflows as text. This
module drops all texts except the two that may hold the orientation, and returns the profile separately, within a limit
of its own. A file whose texts inflate to more than MAX_TEXT_BYTES is refused: it is a decompression bomb.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from edge_interleave.media.pictures.colour import MAX_PROFILE_BYTES
from edge_interleave.media.pictures.formats import PictureError

MAX_TEXT_BYTES = 32 << 20
"""The limit for all compressed texts of one picture together, inflated."""
MAX_CHUNKS = 1 << 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STEP_BYTES = 1 << 16
_KEPT_BYTES = 1 << 19
"""Larger texts are dropped even if they may hold the orientation; half of Pillow's limit."""
_ORIENTATION_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_LEFT_OUT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def lean_png(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """Return the PNG without texts and profile, and its ICC profile or None; `file` itself if it has neither.

    `file` must be seekable. The returned file is at its start. Raises PictureError if texts or profile inflate beyond
    their limits.
    """
    if not any(kind in _LEFT_OUT for kind, _, _ in chunks(file)):
        file.seek(0)
        return file, None
    lean, profile, inflated, keys = io.BytesIO(), None, 0, set()
    file.seek(0)
    lean.write(file.read(len(SIGNATURE)))
    for kind, start, size in chunks(file):
        file.seek(start)
        chunk = file.read(size)
        if kind not in _LEFT_OUT:
            lean.write(chunk)
        elif kind == b"iCCP":
            profile = _profile(chunk[8:-4])
        else:
            key, _, rest = chunk[8:-4].partition(b"\0")
            packed = _packed(kind, rest)
            text_bytes = len(rest) if packed is None else _inflated_bytes(packed, MAX_TEXT_BYTES - inflated)
            # An uncompressed text does not grow, so it cannot be a bomb.
            inflated += 0 if packed is None else text_bytes
            if inflated > MAX_TEXT_BYTES:
                raise PictureError(
                    f"cannot be decoded: texts inflate to more than {MAX_TEXT_BYTES >> 20} MiB; save it without them"
                )
            if key in _ORIENTATION_KEYS and key not in keys and text_bytes <= _KEPT_BYTES:
                keys.add(key)
                lean.write(chunk)
    lean.seek(0)
    return lean, profile


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Type, position and total size in bytes of each chunk (ISO 15948, 5.3); the last one may be cut off."""
    end = file.seek(0, io.SEEK_END)
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at >= end:
            return
        file.seek(at)
        head = file.read(8)
        data_bytes, kind = struct.unpack(">I4s", head.ljust(8, b"\0"))
        yield kind, at, min(data_bytes + 12, end - at)
        at += data_bytes + 12
    raise PictureError(f"more than {MAX_CHUNKS} chunks; the file is damaged")


def _profile(data: bytes) -> bytes | None:
    """The profile of an iCCP chunk (ISO 15948, 11.3.3.3); None if it is damaged."""
    unpacker = zlib.decompressobj()
    try:
        # The profile's name is followed by a zero byte and the compression method, of which only one exists.
        profile = unpacker.decompress(data.partition(b"\0")[2][1:], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    if len(profile) > MAX_PROFILE_BYTES:
        raise PictureError(
            f"cannot be decoded: its colour profile inflates to more than {MAX_PROFILE_BYTES >> 20} MiB; "
            "save it without one"
        )
    return profile


def _packed(kind: bytes, rest: bytes) -> bytes | None:
    """The compressed data of a text chunk, given what follows its key (ISO 15948, 11.3.4); None if uncompressed."""
    if kind == b"zTXt":
        return rest[1:]
    if kind == b"iTXt" and rest[:1] == b"\x01":
        # Flag and method are followed by a language and a translated key, each ended by a zero byte.
        return rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return None


def _inflated_bytes(packed: bytes, most: int) -> int:
    """The inflated size, counted to just past `most`; for damaged data, the size up to the damage."""
    unpacker, size = zlib.decompressobj(), 0
    try:
        while packed and size <= most and not unpacker.eof:
            size += len(unpacker.decompress(packed, _STEP_BYTES))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return size
