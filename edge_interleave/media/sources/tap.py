"""A source that shows each of its frames to a function before the frame is read."""

from __future__ import annotations

from collections.abc import Callable

from edge_interleave.media.frame import Frame
from edge_interleave.media.sources.base import Source


class TappedSource:
    """Wraps a source. The frames are those before all filters, from the thread that reads them."""

    def __init__(self, source: Source, on_frame: Callable[[Frame], object]) -> None:
        """`on_frame`: gets each frame; the source waits for it."""
        self.name = source.name
        self.live = source.live
        self._source = source
        self._on_frame = on_frame

    @property
    def recorded(self) -> bool:
        """Whether the source is a recording."""
        return bool(getattr(self._source, "recorded", False))

    @property
    def warms_up(self) -> bool:
        """Whether the source's first frames may be dark."""
        return bool(getattr(self._source, "warms_up", False))

    def open(self) -> None:
        """Open the source. Raises MediaError."""
        self._source.open()
        self.live = self._source.live

    def read(self) -> Frame | None:
        """The next frame; errors as the source's."""
        frame = self._source.read()
        if frame is not None:
            self._on_frame(frame)
        return frame

    def close(self) -> None:
        """Close the source."""
        self._source.close()
