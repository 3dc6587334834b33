"""The type of the frames that sources and clips return."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Frame:
    """One picture of a clip or a stream."""

    image: Image.Image
    """RGB, upright."""
    time_s: float
    """Seconds from the clip's start, or since a live source was first opened; never falls.

    Without a clock (a folder's first pictures, an iterable), each picture counts as a second.
    """
    index: int
    """The frame's number in the source, from 0."""
    name: str | None = None
    """The file's name, if the source is a folder."""
    timed: bool = True
    """Whether `time_s` comes from a clock; False: each picture counts as a second."""
    unchanged: bool = False
    """The change filter (`--change`) found no difference to the last frame that passed; such frames are not encoded."""
