"""The supported picture formats, and how to recognise a file's format by its first bytes."""

from __future__ import annotations

import re
import struct

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Supported formats, by Pillow's names."""
MAX_PIXELS = 178_000_000
"""The largest picture: just below the size at which Pillow refuses an image as a decompression bomb."""
HEAD_BYTES = 512
"""Enough first bytes for `picture_format` and `unreadable_format`."""

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_PPM = re.compile(rb"P[1-6]\s+(#|[0-9])")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""The header sizes that exist, including OS/2's. They distinguish a bitmap from a text that begins with BM."""
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


class PictureError(Exception):
    """What is wrong with a picture and what to do, on one line, without the file's name.

    `image.decoding` turns it into a MediaError with the name.
    """


def picture_format(head: bytes) -> str | None:
    """Pillow's name of the format of a file that starts with `head` (HEAD_BYTES bytes); None if not in FORMATS."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return "BMP"
    if _PPM.match(head):
        return "PPM"
    return "AVIF" if any(brand in _AVIF_BRANDS for brand in _brands(head)) else None


def unreadable_format(head: bytes) -> str | None:
    """The name of a picture format that is known but not supported; None for all others."""
    brands = _brands(head)
    if any(brand in _HEIC_BRANDS for brand in brands) and not any(brand in _AVIF_BRANDS for brand in brands):
        return "HEIC"
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JPEG XL"
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "JPEG 2000"
    if head.startswith(b"8BPS"):
        return "Photoshop"
    # Canon's raw photographs are TIFF files in which the first picture is a preview.
    return "raw" if head[:4] == b"II*\0" and head[8:10] == b"CR" else None


def _brands(head: bytes) -> list[bytes]:
    """The brands of an ISO media file (ISO 14496-12, 4.3): the major one, then the compatible ones."""
    if len(head) < 16 or head[4:8] != b"ftyp":
        return []
    size = struct.unpack_from(">I", head)[0]
    # The version number lies between the major brand and the others.
    return [head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)) - 3, 4))]
