"""The protocol of a source of frames, and the errors that a source raises."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame


class SourceLost(MediaError):
    """The source is gone, and its handles are freed. Calling `open` again may bring it back."""


class FrameDamaged(MediaError):
    """One frame cannot be decoded. The next `read` continues after it."""

    def __init__(self, message: str, file: str | None = None) -> None:
        """`file`: the damaged file's name, if the source is a folder."""
        super().__init__(message)
        self.file = file


@runtime_checkable
class Source(Protocol):
    """A source of frames. One thread at a time calls `open` and `read`; any thread may call `close`.

    Two more attributes are optional: `recorded` (True: a recording, in which a still scene is normal) and `warms_up`
    (True: a camera, whose first frames may be dark).
    """

    name: str
    """A name for messages: one line, without passwords."""
    live: bool
    """Whether the source cannot wait for its reader, so that only the newest frame is kept. Valid after `open`."""

    def open(self) -> None:
        """Open the source, or reopen it after `SourceLost`. Raises MediaError if that fails."""

    def read(self) -> Frame | None:
        """Wait for the next frame and return it; None at the end.

        Raises SourceLost if the source is gone, FrameDamaged if this one frame cannot be decoded, MediaError if no
        frame will ever come.
        """

    def close(self) -> None:
        """Close the source for good: end a waiting `read` or `open` within a second, and free all handles."""
