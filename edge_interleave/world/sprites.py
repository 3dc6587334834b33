"""Pictures of everyday things, in three styles and variants, at any size and angle; tinted things in any colour.

`sprites/LICENSES.md` names sources and licences; `examples/embedded_model/make_sprites.py` makes the sheets.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

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
    variant: int = 0,
) -> Image.Image:
    """A thing as an RGBA picture of (side, side) pixels with a transparent background.

    `tone` (RGB, 0 to 255) repaints the thing in shades of that colour: its commonest luminance becomes the tone, darker
    and lighter parts darker and lighter shades. `angle`: degrees, clockwise, after mirroring; a turned thing is shrunk
    to fit. `variant`: a seed of changes in form, light, edges and colours, such as other emoji sets have; 0: none.
    Raises ValueError for an unknown thing or style, and for a side below 1.
    """
    if side < 1:
        raise ValueError(f"a picture needs a side of at least 1 pixel, not {side}")
    picture = _cell(thing, style) if tone is None else _repainted(thing, style, tone)
    if variant:
        picture = _varied(picture, np.random.default_rng(variant), tinted=tone is not None)
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


def _varied(picture: Image.Image, rng: np.random.Generator, *, tinted: bool) -> Image.Image:
    """The picture as another artist may draw it; a tinted thing keeps its hue."""
    middle = CELL / 2
    across, down = 1 / rng.uniform(0.8, 1.0, 2)
    lean = rng.uniform(-0.12, 0.12)
    form = (across, lean, middle * (1 - across - lean), 0.0, down, middle * (1 - down))
    picture = picture.transform(picture.size, Image.Transform.AFFINE, form, Image.Resampling.BICUBIC)
    plain = picture.convert("RGB")
    detail = rng.random()
    if detail < 0.2:
        plain = plain.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6)))
    elif detail < 0.45:
        plain = plain.filter(ImageFilter.ModeFilter(int(rng.choice((5, 7, 9)))))
    elif detail < 0.75:
        plain = plain.quantize(int(rng.integers(3, 7))).convert("RGB")
    plain.putalpha(picture.getchannel("A"))
    pixels = np.asarray(plain, np.float32)
    luma = (pixels[..., :3] @ _REC_601)[..., None].astype(np.float32)
    rich = rng.uniform(0.8, 1.2) if tinted else rng.uniform(0.55, 1.4)
    gains = rng.uniform(0.96, 1.04, 3) if tinted else rng.uniform(0.82, 1.18, 3)
    colours = (luma + (pixels[..., :3] - luma) * rich) * gains
    # Light from one side, and a shine, as on a solid; half of the things stay flat.
    solid = rng.random() < 0.5
    rows, columns = np.mgrid[0:CELL, 0:CELL] / middle - 1
    side = rng.uniform(0, 2 * np.pi)
    slope = columns * np.cos(side) + rows * np.sin(side)
    x, y = rng.uniform(-0.5, 0.5, 2)
    shine = solid * rng.uniform(0, 0.3) * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / rng.uniform(0.05, 0.5))
    light = 1 + solid * rng.uniform(0, 0.35) * slope
    colours = colours * light[..., None] + (255 - colours).clip(0) * shine[..., None]
    varied = Image.fromarray(np.dstack([colours.clip(0, 255), pixels[..., 3:]]).round().astype(np.uint8))
    if rng.random() < 0.25:
        cover = picture.getchannel("A")
        edge = Image.new("RGBA", picture.size, (30, 30, 30, 0))
        edge.putalpha(cover.filter(ImageFilter.MaxFilter(int(rng.choice((3, 5))))))
        varied = Image.alpha_composite(edge, varied)
    return varied


def _turned(picture: Image.Image, angle: float) -> Image.Image:
    turned = picture.rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    box = turned.getchannel("A").getbbox() or (0, 0, *turned.size)
    turned = turned.crop(box)
    side = max(CELL, *turned.size)
    square = Image.new("RGBA", (side, side))
    square.paste(turned, ((side - turned.width) // 2, (side - turned.height) // 2))
    return square
