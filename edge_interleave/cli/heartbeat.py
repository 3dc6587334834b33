"""Shows other programs, such as a container's health check, that a watch goes on: by the time of a file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

HEARTBEAT_VARIABLE = "EDGE_INTERLEAVE_HEARTBEAT"


class Heartbeat:
    """A file whose time is that of the last step of the slowest source. It is deleted at the end."""

    def __init__(self) -> None:
        """The file is the one that the environment names, if any."""
        name = os.environ.get(HEARTBEAT_VARIABLE)
        self._path = Path(name) if name else None

    def beat(self, stepped_at: Iterable[float]) -> None:
        """Set the file's time. `stepped_at`: when each source made its last step, by `time.monotonic`.

        A file that cannot be written is no reason to end a watch; it is then missing or old.
        """
        if self._path is None:
            return
        at = time.time() - (time.monotonic() - min(stepped_at, default=time.monotonic()))
        with suppress(OSError):
            self._path.touch()
            os.utime(self._path, (at, at))

    def close(self) -> None:
        """Delete the file."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
