"""Opens picture and video files: regular files only, with a MediaError for all others."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from edge_interleave.errors import InputError, MediaError
from edge_interleave.util.regular_file import open_regular_file


def open_media_file(path: Path | str, max_bytes: int | None = None) -> BinaryIO:
    """As `open_regular_file`, but raises MediaError in place of InputError."""
    try:
        return open_regular_file(path, max_bytes)
    except InputError as error:
        raise MediaError(str(error)) from error.__cause__
