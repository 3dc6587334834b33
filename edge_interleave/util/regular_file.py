"""Opens files that users name: only regular files, within a size limit. Failures become one-line errors."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from edge_interleave.errors import InputError, one_line

_NAME_LENGTH = 300


def open_regular_file(path: Path | str, max_bytes: int | None = None) -> BinaryIO:
    """Open a file for reading.

    Raises InputError if it is missing, a folder, a device, empty, unreadable or larger than `max_bytes`.
    """
    name = display_name(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{name}: is a folder; give a file")
        # Opening a device or a pipe could block for ever.
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name}: not a regular file; give a file on disk")
        if status.st_size == 0:
            raise InputError(f"{name}: the file is empty; save or download it again")
        if max_bytes is not None and status.st_size > max_bytes:
            raise InputError(f"{name}: {status.st_size} bytes, more than {max_bytes}; give a smaller file")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be opened ({one_line(error)}); check the path") from error


def display_name(path: Path | str) -> str:
    """A path, an address or a file's name for a message: one printable line of at most about 300 characters."""
    name = str(path)
    name = name if name.isprintable() and name else repr(name)
    half = _NAME_LENGTH // 2 - 10
    return name if len(name) <= _NAME_LENGTH else f"{name[:half]} ... {name[-half:]}"
