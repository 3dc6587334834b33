"""Which files of a folder are pictures, in which order, and which are left out."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures.formats import HEAD_BYTES, picture_format, unreadable_format
from edge_interleave.media.pictures.image import describe, open_regular
from edge_interleave.media.pictures.jpeg import is_film
from edge_interleave.util.natural_order import natural_order

LOG = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""A file that ends so is meant as a picture, even if it is damaged; others are known by their first bytes."""
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
"""Raw photographs begin as a TIFF or JPEG that holds a preview."""
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download")
"""What is still being written or downloaded; it gets its own name when it is whole."""
_NAMED = 5
"""So many of the files left out are named."""

_Print = tuple[int, int]
"""A file's size and time of change: what tells that it is the same still."""


@dataclass(frozen=True)
class Listing:
    """A folder's files, hidden and unfinished ones aside."""

    pictures: tuple[str, ...]
    """Names, in natural order."""
    left_out: tuple[str, ...]
    """Names of what is no picture that is read, in natural order."""


class PictureFolder:
    """Lists a folder's pictures, again and again at little cost: first bytes are read again only of changed files."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = folder
        self._known: dict[str, tuple[_Print, bool]] = {}
        self._told: set[str] = set()

    def names(self) -> list[str]:
        """The names of the folder's pictures now, in natural order.

        A line is logged about files that are left out, once for each. Raises MediaError where the folder cannot be
        listed.
        """
        found = self.look()
        new = [name for name in found.left_out if name not in self._told]
        if new:
            self._told.update(new)
            LOG.warning(
                "%s: %d of %d files left out, for they are no pictures that can be read: %s%s",
                describe(self._folder),
                len(new),
                len(found.left_out) + len(found.pictures),
                ", ".join(describe(name) for name in new[:_NAMED]),
                f" and {len(new) - _NAMED} more" if len(new) > _NAMED else "",
            )
        return list(found.pictures)

    def look(self) -> Listing:
        """What the folder holds now. Raises MediaError where it cannot be listed."""
        pictures: list[str] = []
        left_out: list[str] = []
        known = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    lower = entry.name.lower()
                    if lower.startswith(".") or lower.endswith(_UNFINISHED) or not entry.is_file():
                        continue
                    is_picture = lower.endswith(PICTURES)
                    if not is_picture and not lower.endswith(_RAW):
                        known[entry.name] = self._sniffed(entry)
                        print_, is_picture = known[entry.name]
                        # One that is empty may be written just now.
                        if print_[0] == 0:
                            continue
                    (pictures if is_picture else left_out).append(entry.name)
        except OSError as error:
            raise MediaError(
                f"{describe(self._folder)}: cannot be listed ({error.strerror}); check that it is there"
            ) from error
        self._known = known
        return Listing(tuple(sorted(pictures, key=natural_order)), tuple(sorted(left_out, key=natural_order)))

    def _sniffed(self, entry: os.DirEntry[str]) -> tuple[_Print, bool]:
        try:
            status = entry.stat()
            print_ = (status.st_size, status.st_mtime_ns)
            before = self._known.get(entry.name)
            if before is not None and before[0] == print_:
                return before
            with open(entry.path, "rb") as file:
                return print_, picture_format(file.read(HEAD_BYTES)) is not None
        # It went away, or is not ours to read.
        except OSError:
            return (-1, 0), False


def picture_names(folder: Path | str) -> list[str]:
    """The names of a folder's pictures, in natural order; see `PictureFolder.names`."""
    return PictureFolder(folder).names()


def is_picture(path: Path | str) -> bool:
    """Whether Pillow, and not FFmpeg, shows a file, moving or not; joined JPEGs are a video. Raises MediaError."""
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
        if picture_format(head) == "JPEG":
            return not is_film(file)
    return picture_format(head) not in (None, "PPM") or unreadable_format(head) is not None
