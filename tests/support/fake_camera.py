"""The video that Chromium's fake camera plays: a red circle crosses a drawn scene, then is gone for a while."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image

from edge_interleave.world.drawing import draw
from edge_interleave.world.scene import Item, Look, Scene

FPS = 10
SHOWN_S, GONE_S = 8, 6
_LOOK = Look(
    side=480, kind="plain", colour=(250, 243, 232), other=(250, 243, 232), blur=0.0, grain_seed=0, aspect=4 / 3
)
_THINGS = (
    Item("dog", "", 1 / 6, 5 / 6, 0.3, (0, 0, 0), style="noto"),
    Item("umbrella", "blue", 5 / 6, 5 / 6, 0.3, (30, 90, 220), style="noto"),
)


def scene(circle_at: float | None) -> Image.Image:
    """A dog and an umbrella, and above them a red circle, whose place is from 0 (left) to 1; None: no circle."""
    items = _THINGS
    if circle_at is not None:
        x = 1 / 6 + circle_at * 2 / 3
        items = (Item("circle", "red", x, 0.25, 0.28, (255, 0, 0)), *items)
    return draw(Scene(items, _LOOK))


def write_y4m(path: Path, pictures: list[Image.Image]) -> None:
    """An uncompressed video (YUV4MPEG2, 4:2:0), as Chromium's fake camera takes it, of pictures of one size."""
    width, height = pictures[0].size
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{FPS}:1 Ip A1:1 C420jpeg\n".encode())
        for picture in pictures:
            planes = av.VideoFrame.from_image(picture).reformat(format="yuv420p").to_ndarray()
            file.write(b"FRAME\n" + planes.tobytes())


def write_camera(path: Path) -> None:
    """The circle crosses for SHOWN_S seconds, then is gone for GONE_S; Chromium begins again at the end."""
    shown = SHOWN_S * FPS
    crossing = [scene(number / (shown - 1)) for number in range(shown)]
    write_y4m(path, [*crossing, *[scene(None)] * (GONE_S * FPS)])
