"""A dozen pictures for the probe of a vision tower: half drawn, half like photographs, always the same.

Photographs have spectra that fall with frequency, correlated colours, light from one side and sharp objects in front.
Such pictures are made here from noise, since real ones would be too large for the package.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

_SEED = 7
_Levels = npt.NDArray[np.float64]


@cache
def probe_pictures(side: int) -> tuple[Image.Image, ...]:
    """Twelve RGB pictures of `side` x `side` pixels."""
    random = np.random.default_rng(_SEED)
    drawn = [_shapes(side, random), _lines(side), _board(side), _chart(side, random), _plain(side), _gradient(side)]
    photos = [_landscape(side, random, fall) for fall in (1.0, 1.3, 1.6)]
    photos += [_still_life(side, random) for _ in range(2)] + [_night(side, random)]
    return (*drawn, *photos)


def _shapes(side: int, random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for number in range(9):
        x, y = (number % 3) * side / 3, (number // 3) * side / 3
        box = (x + side * 0.05, y + side * 0.05, x + side * 0.27, y + side * 0.27)
        colour = tuple(int(level) for level in random.integers(0, 256, 3))
        (draw.ellipse, draw.rectangle)[number % 2](box, fill=colour)
    return image


def _lines(side: int) -> Image.Image:
    """A page of text."""
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    step = max(6, side // 16)
    for line, top in enumerate(range(0, side, step)):
        draw.text((side // 20, top), f"{line}: the quick brown fox jumps over 13 lazy dogs.", fill="black")
    return image


def _board(side: int) -> Image.Image:
    rows, columns = np.indices((side, side)) * 12 // side
    return _picture(np.repeat(((rows + columns) % 2 * 1.0)[..., None], 3, axis=2))


def _chart(side: int, random: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (side, side), (250, 248, 240))
    draw = ImageDraw.Draw(image)
    for bar, height in enumerate(random.uniform(0.1, 0.9, 8)):
        left = side * (0.06 + 0.11 * bar)
        draw.rectangle((left, side * (0.95 - 0.85 * height), left + side * 0.08, side * 0.95), fill=(40, 90, 30 * bar))
    draw.line((side * 0.04, side * 0.95, side * 0.96, side * 0.95), fill="black", width=max(1, side // 128))
    return image


def _plain(side: int) -> Image.Image:
    """A lens cap."""
    return Image.new("RGB", (side, side), "black")


def _gradient(side: int) -> Image.Image:
    return Image.linear_gradient("L").resize((side, side)).convert("RGB")


def _landscape(side: int, random: np.random.Generator, fall: float) -> Image.Image:
    """Like clouds, foliage or stone, depending on the fall of the spectrum; darker on one side."""
    light = np.linspace(0.6, 1.1, side)[:, None, None]
    return _picture((0.5 + 0.22 * _coloured(side, random, fall)) * light)


def _still_life(side: int, random: np.random.Generator) -> Image.Image:
    """Sharp, textured objects before a blurred background."""
    behind = _landscape(side, random, 1.5).filter(ImageFilter.GaussianBlur(side / 40))
    for _ in range(4):
        thing = _picture(random.uniform(0.2, 0.8, 3) + 0.12 * _coloured(side, random, 0.9))
        mask = Image.new("L", (side, side), 0)
        x, y, w, h = random.uniform(0.0, 0.7), random.uniform(0.0, 0.7), *random.uniform(0.15, 0.4, 2)
        box = tuple(float(part * side) for part in (x, y, x + w, y + h))
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        behind.paste(thing, (0, 0), mask)
    return behind


def _night(side: int, random: np.random.Generator) -> Image.Image:
    """Dark, with grain and a few clipped lights."""
    levels = 0.05 + 0.03 * _coloured(side, random, 1.2) + 0.03 * random.standard_normal((side, side, 3))
    rows, columns = np.indices((side, side)) / side
    for row, column, size in random.uniform((0, 0, 0.01), (1, 1, 0.06), (6, 3)):
        levels += 1.2 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))[..., None]
    return _picture(levels)


def _coloured(side: int, random: np.random.Generator, fall: float) -> _Levels:
    """Noise (side, side, 3), standard deviation about 1, with amplitudes that fall as frequency ** -fall."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    layers = []
    for _ in range(2):
        spectrum = np.fft.rfft2(random.standard_normal((side, side))) / frequency**fall
        layer = np.fft.irfft2(spectrum, (side, side))
        layers.append(layer / max(layer.std(), 1e-9))
    # One layer is brightness, the other goes from blue to orange.
    colour: _Levels = layers[0][..., None] * np.ones(3) + layers[1][..., None] * np.array([0.35, 0.0, -0.35])
    return colour


def _picture(levels: _Levels) -> Image.Image:
    return Image.fromarray((levels.clip(0, 1) * 255).astype(np.uint8))
