"""The Source protocol: what gives frames, and the errors it may raise."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame


class SourceLost(MediaError):
    """A source that was there has gone away. It holds no handle any more; `open` may bring it back."""


class FrameDamaged(MediaError):
    """One frame cannot be decoded. The next `read` goes on behind it."""

    def __init__(self, message: str, file: str | None = None) -> None:
        """`file`: its name, in a folder."""
        super().__init__(message)
        self.file = file


@runtime_checkable
class Source(Protocol):
    """Frames, one after the other. `open` and `read` are called by one thread at a time, `close` by any.

    Two more attributes may be there: `recorded` (a recording that plays live: still scenes are no fault), `warms_up`
    (a camera: its first frames may be black).
    """

    name: str
    """For messages: one line, without passwords."""
    live: bool
    """It cannot wait for who reads: the newest frame wins. Settled once it is open."""

    def open(self) -> None:
        """Begin, or begin again after `SourceLost`. Raises MediaError where it cannot be had."""

    def read(self) -> Frame | None:
        """The next frame; waits for it. None: there are no more.

        Raises SourceLost where it has gone away, FrameDamaged where this one frame is to be skipped, MediaError where
        there is no use in going on.
        """

    def close(self) -> None:
        """End for good. A `read` or `open` that waits ends within a second, and handles are free on return."""
