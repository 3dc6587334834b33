"""Lists the pictures of a folder in natural order, and the files that are left out."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.errors import MediaError
from edge_interleave.media.files import open_media_file
from edge_interleave.media.pictures.formats import HEAD_BYTES, picture_format, unreadable_format
from edge_interleave.media.pictures.jpeg import is_motion_jpeg
from edge_interleave.util.natural_order import natural_order
from edge_interleave.util.regular_file import display_name

LOG = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""A file with such an ending counts as a picture even if it is damaged; others are recognised by their first bytes."""
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
"""Raw photographs: they start like a TIFF or JPEG, but only their preview could be read."""
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download")
"""Files that are still being written or downloaded; they are renamed when complete."""
_NAMED = 5
"""The most files that the log line about left-out files names."""

_Stamp = tuple[int, int]
"""A file's size and its modification time in nanoseconds: if both are equal, the file has not changed."""


@dataclass(frozen=True)
class Listing:
    """A folder's files, without hidden and unfinished ones."""

    pictures: tuple[str, ...]
    """Names of the pictures, in natural order."""
    left_out: tuple[str, ...]
    """Names of the other files, in natural order."""


class PictureFolder:
    """Lists a folder's pictures repeatedly at low cost: it reads the first bytes only of new and changed files."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = folder
        self._known: dict[str, tuple[_Stamp, bool]] = {}
        self._logged: set[str] = set()

    def names(self) -> list[str]:
        """The names of the folder's pictures now, in natural order.

        Logs a warning about files that are left out, once for each file. Raises MediaError if the folder cannot be
        listed.
        """
        found = self.listing()
        new = [name for name in found.left_out if name not in self._logged]
        if new:
            self._logged.update(new)
            LOG.warning(
                "%s: %d of %d files left out because they are not readable pictures: %s%s",
                display_name(self._folder),
                len(new),
                len(found.left_out) + len(found.pictures),
                ", ".join(display_name(name) for name in new[:_NAMED]),
                f" and {len(new) - _NAMED} more" if len(new) > _NAMED else "",
            )
        return list(found.pictures)

    def listing(self) -> Listing:
        """The folder's files now. Raises MediaError if it cannot be listed."""
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
                        stamp, is_picture = known[entry.name]
                        # An empty file may be about to be written.
                        if stamp[0] == 0:
                            continue
                    (pictures if is_picture else left_out).append(entry.name)
        except OSError as error:
            raise MediaError(
                f"{display_name(self._folder)}: cannot be listed ({error.strerror}); check the path"
            ) from error
        self._known = known
        return Listing(tuple(sorted(pictures, key=natural_order)), tuple(sorted(left_out, key=natural_order)))

    def _sniffed(self, entry: os.DirEntry[str]) -> tuple[_Stamp, bool]:
        """A file's stamp, and whether its first bytes are those of a picture."""
        try:
            status = entry.stat()
            stamp = (status.st_size, status.st_mtime_ns)
            before = self._known.get(entry.name)
            if before is not None and before[0] == stamp:
                return before
            with open(entry.path, "rb") as file:
                return stamp, picture_format(file.read(HEAD_BYTES)) is not None
        # The file was deleted, or this user may not read it.
        except OSError:
            return (-1, 0), False


def picture_names(folder: Path | str) -> list[str]:
    """The names of a folder's pictures, in natural order; see `PictureFolder.names`."""
    return PictureFolder(folder).names()


def is_picture(path: Path | str) -> bool:
    """Whether a file is for Pillow (still pictures, animations) rather than for FFmpeg (videos, concatenated JPEGs).

    Raises MediaError if the file cannot be opened.
    """
    with open_media_file(path) as file:
        head = file.read(HEAD_BYTES)
        if picture_format(head) == "JPEG":
            return not is_motion_jpeg(file)
    return picture_format(head) not in (None, "PPM") or unreadable_format(head) is not None
