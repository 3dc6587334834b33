"""Checks disk space before long work, and explains errors of a full disk with the file's name.

A disk may fill up in spite of the check: other programs write to it, and its free space does not include quotas.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_interleave.errors import ResourceError

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
"""Error numbers of a full disk, a full quota, and a file larger than the system allows."""
MARGIN_BYTES = 64 << 20
_PROBE_BYTES = 1 << 20
_REMEDY = "free some space, or write to another disk"


def require_room(folder: Path, needed: int) -> int:
    """Raise ResourceError unless a folder's disk has `needed` bytes and MARGIN_BYTES free; return their sum."""
    wanted = needed + MARGIN_BYTES
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ResourceError(f"{folder}: {_amount(free)} free where about {_amount(wanted)} are needed; {_REMEDY}")
    return wanted


@contextmanager
def writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full-disk error inside the block into a ResourceError with the file's name and the space free and needed.

    `path`: the file being written. Temporary files in the same folder are reported as `path`. `needed`: the bytes of
    the whole work, if known. Other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        named = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
        raise _full(path if named.is_relative_to(path.parent) else named, error, needed) from error


def check_still_room(path: Path) -> None:
    """Raise the system's OSError if nothing more can be written to a file.

    For libraries that report only that writing failed. Restores the file's size.
    """
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        size = os.fstat(descriptor).st_size
        try:
            os.lseek(descriptor, 0, os.SEEK_END)
            left = _PROBE_BYTES
            while left:
                left -= os.write(descriptor, bytes(left))
            os.fsync(descriptor)
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _full(path: Path, error: OSError, needed: int | None) -> ResourceError:
    where = path
    while not where.exists() and where != where.parent:
        where = where.parent
    try:
        free = shutil.disk_usage(where).free
    except OSError:
        return ResourceError(f"{path}: {error.strerror}; {_REMEDY}")
    space = f"{_amount(free)} free"
    if needed is not None:
        space += f" where about {_amount(needed)} are needed"
    if free > (needed or MARGIN_BYTES):
        space += ": is there a quota?"
    return ResourceError(f"{path}: {error.strerror} ({space}); {_REMEDY}")


def _amount(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1000:.3g} kB"
