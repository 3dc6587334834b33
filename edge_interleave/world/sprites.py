"""Pictures of everyday things, in three styles, at any size and angle; tinted things in any colour.

`sprites/LICENSES.md` names sources and licences; `examples/embedded_model/make_sprites.py` makes the sheets.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_interleave.world.vocabulary import STYLES, THINGS

CELL = 72
"""Side of a thing's cell in a sheet, in pixels."""
COLUMNS = 6
"""Cells in a row of a sheet."""

_REC_601 = np.array([0.299, 0.587, 0.114])
_DEPTH = 0.75
"""Most that a shadow darkens towards black and a shine lightens towards white; below 1 to keep the hue."""
_SHINE_RANGE = 0.6
"""Luminance above the body's at which shine reaches its full strength."""
_BODY_LUMA = {("bus", "noto"): 0.5}
"""The body's luminance, if it is not the commonest one: most of this bus is windows."""


def sprite(
    thing: str,
    style: str,
    side: int,
    *,
    tone: tuple[int, int, int] | None = None,
    mirrored: bool = False,
    angle: float = 0.0,
) -> Image.Image:
    """A thing as an RGBA picture of (side, side) pixels with a transparent background.

    `tone` (RGB, 0 to 255) repaints the thing in shades of that colour: its commonest luminance becomes the tone, darker
    and lighter parts darker and lighter shades. `angle`: degrees, clockwise, after mirroring; a turned thing is shrunk
    to fit. Raises ValueError for an unknown thing or style, and for a side below 1.
    """
    if side < 1:
        raise ValueError(f"a picture needs a side of at least 1 pixel, not {side}")
    picture = _cell(thing, style) if tone is None else _repainted(thing, style, tone)
    if mirrored:
        picture = ImageOps.mirror(picture)
    if angle:
        picture = _turned(picture, angle)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


@cache
def _cell(thing: str, style: str) -> Image.Image:
    if thing not in THINGS:
        raise ValueError(f"no picture of '{thing}'; choose one of {', '.join(THINGS)}")
    row, column = divmod(THINGS.index(thing), COLUMNS)
    left, top = column * CELL, row * CELL
    return _sheet(style).crop((left, top, left + CELL, top + CELL))


@cache
def _sheet(style: str) -> Image.Image:
    if style not in STYLES:
        raise ValueError(f"no style '{style}'; choose one of {', '.join(STYLES)}")
    with resources.files(__package__).joinpath("sprites", f"{style}.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


def _repainted(thing: str, style: str, tone: tuple[int, int, int]) -> Image.Image:
    shadow, shine, alpha = _shades(thing, style)
    colour = np.array(tone, np.float32)
    painted = colour * (1 - _DEPTH * shadow) + (255 - colour) * _DEPTH * shine
    return Image.fromarray(np.dstack([painted.round().astype(np.uint8), alpha]))


@cache
def _shades(thing: str, style: str) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """How much darker and lighter than the body each pixel is, (CELL, CELL, 1) from 0 to 1, and its alpha."""
    pixels = np.asarray(_cell(thing, style))
    luma = pixels[..., :3] @ _REC_601 / 255
    body = _BODY_LUMA.get((thing, style)) or _commonest(luma[pixels[..., 3] > 127])
    shadow = np.clip(1 - luma / body, 0, 1).astype(np.float32)
    shine = np.clip((luma - body) / _SHINE_RANGE, 0, 1).astype(np.float32)
    return shadow[..., None], shine[..., None], pixels[..., 3]


def _commonest(luma: NDArray[np.float64]) -> float:
    """The commonest luminance, 0 to 1: the peak of a smoothed histogram."""
    counts, edges = np.histogram(luma, bins=100, range=(0.0, 1.0))
    near = np.exp(-0.5 * (np.arange(-20, 21) / 5) ** 2)
    return float(edges[np.argmax(np.convolve(counts, near, "same"))] + 0.005)


def _turned(picture: Image.Image, angle: float) -> Image.Image:
    turned = picture.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    box = turned.getchannel("A").getbbox() or (0, 0, *turned.size)
    turned = turned.crop(box)
    side = max(CELL, *turned.size)
    square = Image.new("RGBA", (side, side))
    square.paste(turned, ((side - turned.width) // 2, (side - turned.height) // 2))
    return square
