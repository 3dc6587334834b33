"""A lock on a folder that is being built, by the folder itself: a killed process frees it, and no lock file is left.

Knows nothing about what is built.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Make a folder where it is missing, and hold a lock on it; on Windows there is none.

    Gives whether the folder that is locked is still the one that lies there: between opening and locking, the process
    that had it may have finished and renamed it. Where it is left empty it is removed. Raises BlockingIOError where
    another process has it and `wait` is not set.
    """
    folder.mkdir(exist_ok=True)
    if sys.platform == "win32":
        yield True
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        ours = folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())
        try:
            yield ours
        finally:
            if ours:
                with suppress(OSError):
                    folder.rmdir()  # only where nothing is in it
    finally:
        os.close(descriptor)
