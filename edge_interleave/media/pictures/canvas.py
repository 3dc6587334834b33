"""Lays the frames of an animation over each other on a clear canvas, as the formats with disposals have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Protocol, TypeVar

from PIL import Image


class Disposal(Enum):
    """What happens to a frame's place before the next frame is drawn."""

    KEEP = "keep"
    CLEAR = "clear"
    RESTORE = "restore"
    """The canvas becomes what it was before the frame."""


class Placed(Protocol):
    """Where a frame lies on the canvas, in pixels, and for how long it is shown."""

    @property
    def left(self) -> int: ...  # noqa: D102
    @property
    def top(self) -> int: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def height(self) -> int: ...  # noqa: D102
    @property
    def duration_s(self) -> float: ...  # noqa: D102
    @property
    def disposal(self) -> Disposal: ...  # noqa: D102
    @property
    def over(self) -> bool:
        """What is clear in the frame shows the canvas; else the frame replaces its place."""
        ...


Frame = TypeVar("Frame", bound=Placed)


def composed(
    size: tuple[int, int], frames: Sequence[Frame], decoded: Callable[[Frame], Image.Image]
) -> Iterator[tuple[Image.Image, float]]:
    """Each frame's canvas (RGBA, to be left unchanged and used before the next) and its duration in seconds.

    `decoded` gives a frame's own pixels, RGBA, of the frame's width and height.
    """
    canvas = Image.new("RGBA", size)
    for frame in frames:
        before = canvas.copy() if frame.disposal is Disposal.RESTORE else canvas
        shown = decoded(frame)
        if frame.over:
            canvas.alpha_composite(shown, (frame.left, frame.top))
        else:
            canvas.paste(shown, (frame.left, frame.top))
        yield canvas, frame.duration_s
        if frame.disposal is Disposal.CLEAR:
            canvas.paste((0, 0, 0, 0), (frame.left, frame.top, frame.left + frame.width, frame.top + frame.height))
        canvas = before
