"""Composes the frames of an animation on a transparent canvas, for the formats with disposals: GIF and APNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Protocol, TypeVar

from PIL import Image


class Disposal(Enum):
    """What happens to a frame's rectangle before the next frame is drawn."""

    KEEP = "keep"
    CLEAR = "clear"
    RESTORE = "restore"
    """The canvas returns to its state before the frame."""


class Placed(Protocol):
    """A frame's rectangle on the canvas, in pixels, and its duration in seconds."""

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
        """Whether the canvas shows through the frame's transparent pixels; otherwise the frame replaces them."""
        ...


Frame = TypeVar("Frame", bound=Placed)


def composed(
    size: tuple[int, int], frames: Sequence[Frame], decoded: Callable[[Frame], Image.Image]
) -> Iterator[tuple[Image.Image, float]]:
    """Each frame's canvas, RGBA, and its duration in seconds. Use a canvas before the next; do not change it.

    `size`: the canvas's width and height. `decoded`: returns a frame's own pixels, RGBA, of its width and height.
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
