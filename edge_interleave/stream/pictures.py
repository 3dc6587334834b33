"""Which files are pictures, in a folder and by their first bytes. Knows nothing about clips or sources."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import MediaError
from ..vision.image import describe, open_regular

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""What counts as a picture in a folder."""


def picture_names(folder: Path | str) -> list[str]:
    """A folder's pictures, by how their names end, sorted; hidden files are none.

    Raises MediaError where the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(PICTURES) and not entry.name.startswith(".") and entry.is_file()
            )
    except OSError as error:
        raise MediaError(f"{describe(folder)}: cannot be listed ({error.strerror}); check that it is there") from error


def is_picture(path: Path | str) -> bool:
    """Whether a file begins as Pillow's do: GIF, PNG, JPEG, BMP, TIFF, WebP, AVIF. Raises MediaError."""
    with open_regular(path) as file:
        head = file.read(16)
    starts = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
    return head.startswith(starts) or head[8:12] in (b"WEBP", b"avif", b"avis")
