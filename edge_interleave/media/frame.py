"""A frame, as every source gives it. Knows nothing about where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Frame:
    """One picture of a clip or a stream."""

    image: Image.Image
    """RGB, upright."""
    time_s: float
    """Seconds from the clip's start, or since a live source was first opened; it never falls.

    Where there is no clock (a folder's first pictures, an iterator), one picture counts as a second.
    """
    index: int
    """Which of the source's frames, from 0."""
    name: str | None = None
    """Of the file, in a folder."""
    timed: bool = True
    """Whether `time_s` is by a clock; False: one picture counts as a second."""
    unchanged: bool = False
    """It looks as the last frame that was taken (`--change`): what was found about that still stands. Not encoded."""
