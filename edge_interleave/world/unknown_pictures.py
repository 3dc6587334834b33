"""Pictures outside the world: photographs, textures, noise, screens, handwriting, other emoji.

A model of the world should say that it does not know them. A picture is determined by its kind and seed. Training and
tests see different photographs, emoji and kinds of patterns. `unknown/LICENSES.md` names the sources of the held-out
pictures.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

UNKNOWN_KINDS = ("photo", "texture", "noise", "gradient", "screen", "writing", "emoji", "figure")
"""The kinds of unknown pictures."""
HELD_OUT = "held-out "
"""Prefix of a kind: its held-out pictures, which training never sees."""
HELD_OUT_PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
"""Photographs of scikit-image's data; thumbnails of them ship with this package."""
_TRAINING_PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "clock_motion.png", "coins.png", "color.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "microaneurysms.png", "moon.png", "motorcycle_left.png",
    "motorcycle_right.png", "page.png", "retina.jpg", "text.png",
)  # fmt: skip
"""Files of scikit-image's wheel."""
CELL, COLUMNS = 56, 12
"""The emoji sheets: side of a cell in pixels, and cells in a row."""
Size = tuple[int, int]
Rgb = tuple[int, int, int]
training_folder: Path | None = None
"""Folder of training's emoji sheets. Held-out pictures do not need it."""


def paint(kind: str, seed: int, size: Size) -> Image.Image:
    """Draw an RGB picture. `kind`: one of UNKNOWN_KINDS, after HELD_OUT or not; `size`: width and height in pixels.

    Raises ValueError for another kind, and for training's emoji while `training_folder` is unset.
    """
    held_out = kind.startswith(HELD_OUT)
    name = kind.removeprefix(HELD_OUT)
    if name not in _PAINTERS:
        raise ValueError(f"unknown pictures have no kind '{kind}'; choose one of {', '.join(UNKNOWN_KINDS)}")
    rng = random.Random(f"{name}/{seed}")
    return _PAINTERS[name](rng, size, held_out)


def _photo(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    """A crop of a photograph, changed at random; for training, nearly half of the time a synthetic landscape."""
    if not held_out and rng.random() < 0.45:
        return _landscape(rng, size)
    picture = rng.choice(_photographs(held_out))
    share = rng.uniform(0.3, 1.0) ** 0.5
    width, height = picture.width * share, picture.height * share
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = (left, top, left + width, top + height)
    picture = picture.resize(size, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if not held_out:
        if rng.random() < 0.5:
            order = rng.sample(range(3), 3)
            gains = [rng.uniform(0.6, 1.25) for _ in range(3)]
            pixels = np.asarray(picture, np.float32)[..., order if rng.random() < 0.4 else [0, 1, 2]] * gains
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if rng.random() < 0.2:
            picture = picture.convert("L").convert("RGB")
        if rng.random() < 0.2:
            picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return picture


@cache
def _photographs(held_out: bool) -> Sequence[Image.Image]:
    if held_out:
        folder = resources.files(__package__) / "unknown"
        return [_opened(folder / f"{name}.jpg") for name in HELD_OUT_PHOTOGRAPHS]
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise ValueError("training's photographs are those of scikit-image; install it (pip install scikit-image)")
    folder = Path(next(iter(package.submodule_search_locations))) / "data"
    found = [_opened(folder / name) for name in _TRAINING_PHOTOGRAPHS if (folder / name).exists()]
    faces = np.load(folder / "lfw_subset.npy", allow_pickle=False)
    return found + [Image.fromarray((face * 255).astype(np.uint8)).convert("RGB") for face in faces[::8]]


def _opened(path: Traversable) -> Image.Image:
    with path.open("rb") as file:
        picture = Image.open(file).convert("RGB")
    picture.thumbnail((400, 400))
    return picture


def _training_folder() -> Path:
    if training_folder is None:
        raise ValueError("training's emoji are not part of this package; set unknown_pictures.training_folder")
    return training_folder


def _octaves(rng: random.Random, size: Size, finest: int, roughness: float) -> NDArray[np.float32]:
    """Fractal noise, (height, width) from 0 to 1: random grids of growing fineness, added up."""
    noise = np.random.default_rng(rng.getrandbits(31))
    total = np.zeros((size[1], size[0]), np.float32)
    cells, weight = rng.choice((2, 3, 4)), 1.0
    while cells <= finest:
        grain = noise.random((max(2, cells * size[1] // size[0] + 1), cells + 1), np.float32)
        total += weight * np.asarray(cv2.resize(grain, size, interpolation=cv2.INTER_CUBIC), np.float32)
        cells, weight = cells * 2, weight * roughness
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _toned(rng: random.Random, values: NDArray[np.float32]) -> Image.Image:
    """Map values from 0 to 1 to shades between two to four colours."""
    stops = np.array([_any_colour(rng) for _ in range(rng.randint(2, 4))], np.float32)
    if rng.random() < 0.25:
        stops = np.repeat(stops.mean(1, keepdims=True), 3, 1)
    if np.ptp(stops, 0).max() < 70:
        stops[0], stops[-1] = stops[0] * 0.3, 255 - (255 - stops[-1]) * 0.3
    at = np.clip(values, 0, 1) * (len(stops) - 1)
    pixels = np.stack([np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def _landscape(rng: random.Random, size: Size) -> Image.Image:
    """A picture like a photograph: layers of coloured fractal noise, sometimes blurred."""
    picture = _toned(rng, _octaves(rng, size, rng.choice((16, 64, 128)), rng.uniform(0.4, 0.75)))
    for _ in range(rng.randint(1, 5)):
        mask = _octaves(rng, size, rng.choice((4, 8, 32)), 0.5)
        edge = rng.uniform(0.45, 0.7)
        soft = np.clip((mask - edge) * rng.uniform(8, 60) + 0.5, 0, 1)
        other = _toned(rng, _octaves(rng, size, rng.choice((8, 64, 128)), rng.uniform(0.4, 0.8)))
        picture.paste(other, (0, 0), Image.fromarray((soft * 255).astype(np.uint8)))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.5)))
    return picture


def _texture(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32) / min(size)
    way = rng.uniform(0, math.pi)
    along = columns * math.cos(way) + rows * math.sin(way)
    bent = along + rng.uniform(0, 0.25) * _octaves(rng, size, 8, 0.5)
    waves = rng.uniform(4, 30)
    if held_out:
        middle = rng.uniform(0, 1), rng.uniform(0, 1)
        rings = np.hypot(columns - middle[0], rows - middle[1]) + 0.1 * _octaves(rng, size, 8, 0.5)
        return _toned(rng, (np.sin(rings * waves * 6) / 2 + 0.5).astype(np.float32))
    kind = rng.randrange(4)
    if kind == 0:
        return _toned(rng, _octaves(rng, size, rng.choice((16, 64, 128)), rng.uniform(0.5, 0.95)))
    if kind == 1:
        return _toned(rng, (np.sin(bent * waves * 6) / 2 + 0.5).astype(np.float32))
    across = rows * math.cos(way) - columns * math.sin(way)
    if kind == 2:
        return _toned(rng, ((np.floor(bent * waves) + np.floor(across * waves)) % 2).astype(np.float32))
    dots = np.sin(along * waves * 6) * np.sin(across * waves * 6)
    return _toned(rng, (dots / 2 + 0.5).astype(np.float32))


def _noise(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(31))
    cell = rng.choice((3, 6)) if held_out else rng.choice((1, 2, 4, 8))
    shape = (-(-size[1] // cell), -(-size[0] // cell), rng.choice((1, 3)))
    grain = noise.random(shape) if rng.random() < 0.6 else np.clip(noise.normal(0.5, 0.25, shape), 0, 1)
    pixels = np.broadcast_to((grain * 255).astype(np.uint8), (*shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.NEAREST)


def _gradient(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32) / min(size)
    way = rng.uniform(0, 2 * math.pi)
    if held_out:
        values = np.arctan2(rows - rng.uniform(0.2, 0.8), columns - rng.uniform(0.2, 0.8)) / (2 * math.pi) + 0.5
    elif rng.random() < 0.5:
        values = columns * math.cos(way) + rows * math.sin(way)
    else:
        values = np.hypot(rows - rng.uniform(0, 1), columns - rng.uniform(0, 1))
    values = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    stops = np.array([_any_colour(rng) for _ in range(rng.randint(2, 4))], np.float32)
    if np.ptp(stops, 0).max() < 120:
        stops[0], stops[-1] = stops[0] * 0.15, 255 - (255 - stops[-1]) * 0.15
    pixels = np.stack([np.interp(values * (len(stops) - 1), np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def _screen(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    """Windows, tables, lists, maps and other charts; held out: bar charts and line charts."""
    light = rng.random() < 0.7
    image = Image.new("RGB", size, _grey(rng, 225, 255) if light else _grey(rng, 20, 60))
    pen, unit = ImageDraw.Draw(image), min(size) / 100
    ink = _grey(rng, 0, 90) if light else _grey(rng, 180, 255)
    if held_out:
        left, foot = 12 * unit, size[1] - 12 * unit
        pen.line([(left, 8 * unit), (left, foot), (size[0] - 8 * unit, foot)], fill=ink, width=max(1, round(unit)))
        count = rng.randint(5, 12)
        step = (size[0] - 24 * unit) / count
        tone = _any_colour(rng)
        heights = [rng.uniform(0.1, 0.9) * (foot - 10 * unit) for _ in range(count)]
        if rng.random() < 0.5:
            for number, height in enumerate(heights):
                x = left + (number + 0.2) * step
                pen.rectangle((x, foot - height, x + 0.6 * step, foot), fill=tone)
        else:
            points = [(left + (number + 0.5) * step, foot - height) for number, height in enumerate(heights)]
            pen.line(points, fill=tone, width=max(1, round(1.5 * unit)))
        return image
    if rng.random() < 0.55:
        rng.choice(_SCREENS)(rng, pen, size, unit, ink)
        return image
    if rng.random() < 0.7:
        pen.rectangle((0, 0, size[0], rng.uniform(5, 14) * unit), fill=_any_colour(rng))
    if rng.random() < 0.5:
        pen.rectangle((0, 0, rng.uniform(12, 30) * unit, size[1]), fill=_grey(rng, 90, 240))
    for _ in range(rng.randint(1, 5)):
        left, top = rng.uniform(0, 0.7) * size[0], rng.uniform(0.05, 0.8) * size[1]
        right, foot = left + rng.uniform(0.15, 0.6) * size[0], top + rng.uniform(0.1, 0.5) * size[1]
        pen.rectangle((left, top, right, foot), fill=_grey(rng, 150, 255), outline=ink)
        pen.rectangle((left, top, right, top + 5 * unit), fill=_any_colour(rng))
        _lines(rng, pen, (left + 3 * unit, top + 9 * unit, right, foot), unit, ink)
    _lines(rng, pen, (rng.uniform(0, 0.4) * size[0], rng.uniform(0.1, 0.5) * size[1], *size), unit, ink)
    return image


def _table(rng: random.Random, pen: ImageDraw.ImageDraw, size: Size, unit: float, ink: Rgb) -> None:
    """A table, a calendar or a keyboard: cells in rows, some filled, some with print."""
    rows, columns = rng.randint(3, 9), rng.randint(3, 10)
    left, top = rng.uniform(2, 20) * unit, rng.uniform(2, 25) * unit
    wide, high = (size[0] - left - rng.uniform(2, 20) * unit) / columns, (size[1] - top - 4 * unit) / rows
    gap = rng.choice((0.0, 0.0, 0.12)) * min(wide, high)
    head, fill = _any_colour(rng), _any_colour(rng)
    filled = rng.choice((0.0, 0.1, 0.3))
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * wide, top + row * high
            tone = head if row == 0 and rng.random() < 0.9 else fill if rng.random() < filled else None
            pen.rectangle((x, y, x + wide - gap, y + high - gap), fill=tone, outline=ink)
            if rng.random() < 0.6:
                _lines(rng, pen, (x + 0.15 * wide, y + 0.25 * high, x + 0.95 * wide, y + 0.8 * high), unit, ink)


def _list(rng: random.Random, pen: ImageDraw.ImageDraw, size: Size, unit: float, ink: Rgb) -> None:
    """A list of entries with boxes or buttons, or a chat with bubbles."""
    chat, y = rng.random() < 0.4, rng.uniform(4, 14) * unit
    tones = _any_colour(rng), _grey(rng, 150, 245)
    while y < size[1] - 8 * unit:
        high = rng.uniform(7, 18 if chat else 12) * unit
        if chat:
            wide, mine = rng.uniform(0.35, 0.7) * size[0], rng.random() < 0.5
            x = size[0] - wide - 4 * unit if mine else 4 * unit
            pen.rounded_rectangle((x, y, x + wide, y + high), radius=3 * unit, fill=tones[mine])
            _lines(rng, pen, (x + 3 * unit, y + 2 * unit, x + wide, y + high), unit, ink)
        else:
            pen.rectangle((5 * unit, y, 5 * unit + 0.6 * high, y + 0.6 * high), outline=ink)
            if rng.random() < 0.5:
                pen.line([(6 * unit, y + 0.3 * high), (5 * unit + 0.3 * high, y + 0.55 * high)], fill=ink)
            _lines(rng, pen, (8 * unit + high, y, size[0] * rng.uniform(0.5, 0.95), y + 0.7 * high), unit, ink)
        y += high + rng.uniform(1.5, 5) * unit


def _points(rng: random.Random, pen: ImageDraw.ImageDraw, size: Size, unit: float, ink: Rgb) -> None:
    """A chart of points between two axes."""
    left, foot = rng.uniform(6, 18) * unit, size[1] - rng.uniform(6, 18) * unit
    pen.line([(left, 6 * unit), (left, foot), (size[0] - 6 * unit, foot)], fill=ink, width=max(1, round(unit)))
    rise, spread, dot = rng.uniform(-0.8, 0.8), rng.uniform(0.03, 0.3), rng.uniform(0.6, 2.2) * unit
    tones = [_any_colour(rng) for _ in range(rng.randint(1, 3))]
    for _ in range(rng.randint(15, 90)):
        along = rng.random()
        up = min(max(0.5 + rise * (along - 0.5) + rng.gauss(0, spread), 0.02), 0.98)
        x, y = left + along * (size[0] - left - 8 * unit), foot - up * (foot - 8 * unit)
        pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=rng.choice(tones))


def _pie(rng: random.Random, pen: ImageDraw.ImageDraw, size: Size, unit: float, ink: Rgb) -> None:
    """A pie chart with a legend."""
    reach = rng.uniform(18, 40) * unit
    x, y = rng.uniform(0.4, 0.6) * size[0], rng.uniform(0.42, 0.58) * size[1]
    cuts = sorted(rng.uniform(0, 360) for _ in range(rng.randint(3, 7)))
    for number, (start, end) in enumerate(zip(cuts, [*cuts[1:], cuts[0] + 360], strict=True)):
        tone = _any_colour(rng)
        pen.pieslice((x - reach, y - reach, x + reach, y + reach), start, end, fill=tone, outline=ink)
        at = (3 + 6 * number) * unit
        pen.rectangle((2 * unit, at, 6 * unit, at + 4 * unit), fill=tone)
        _lines(rng, pen, (8 * unit, at, 24 * unit, at + 4.5 * unit), unit, ink)


def _map(rng: random.Random, pen: ImageDraw.ImageDraw, size: Size, unit: float, ink: Rgb) -> None:
    """A street map: areas, roads across the page, some print."""
    for _ in range(rng.randint(2, 6)):
        corners = [
            (rng.uniform(-0.2, 1.2) * size[0], rng.uniform(-0.2, 1.2) * size[1]) for _ in range(rng.randint(3, 6))
        ]
        pen.polygon(corners, fill=_grey(rng, 150, 235, 40))
    for _ in range(rng.randint(4, 12)):
        ends = [(rng.uniform(-0.2, 1.2) * size[0], rng.choice((-0.1, 1.1)) * size[1]) for _ in range(2)]
        if rng.random() < 0.5:
            ends = [(rng.choice((-0.1, 1.1)) * size[0], rng.uniform(-0.2, 1.2) * size[1]) for _ in range(2)]
        pen.line(ends, fill=_grey(rng, 180, 255, 30), width=max(1, round(rng.uniform(1, 5) * unit)))
    _lines(rng, pen, (rng.uniform(0, 0.5) * size[0], rng.uniform(0, 0.8) * size[1], *size), unit, ink)


_SCREENS = (_table, _list, _points, _pie, _map)


def _lines(
    rng: random.Random, pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], unit: float, ink: Rgb
) -> None:
    """Lines that look like small print in a box."""
    left, top, right, foot = box
    height = rng.uniform(2.0, 4.5) * unit
    y = top
    while y + height < foot:
        x = left
        until = left + (right - left) * rng.uniform(0.4, 1.0)
        while x < until - 2 * height:
            width = height * rng.uniform(1.0, 4.5)
            letters = max(1, round(width / (0.6 * height)))
            for number in range(letters):
                at = x + number * 0.6 * height
                tall = rng.random() < 0.3
                pen.rectangle((at, y if tall else y + 0.3 * height, at + 0.35 * height, y + height * 0.9), fill=ink)
            x += width + 0.6 * height
        y += height * 1.7
        if rng.random() < 0.1:
            y += height * 1.5


def _writing(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    """Pen strokes in lines; held out: loops all over the page."""
    scale = 2
    light = rng.random() < 0.85
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), _grey(rng, 225, 255) if light else _grey(rng, 20, 60))
    pen, unit = ImageDraw.Draw(image), min(size) * scale / 100
    ink = rng.choice((_grey(rng, 0, 60), (20, 30, 140), (140, 20, 30))) if light else _grey(rng, 200, 255)
    width = max(2, round(rng.uniform(0.8, 2.4) * unit))
    if held_out or rng.random() < 0.25:
        turns = rng.uniform(3, 9)
        wide = held_out
        centre = (rng.uniform(0.3, 0.7) * image.width, rng.uniform(0.3, 0.7) * image.height)
        a, b = rng.uniform(1.1, 3.4), rng.uniform(0, 6)
        points = []
        for step in range(400):
            t = step / 400 * turns * 2 * math.pi
            reach = 42 * unit if wide else 40 * unit * step / 400
            across = math.sin(a * t + b) if wide else math.cos(t)
            points.append((centre[0] + reach * across, centre[1] + reach * math.sin(t)))
        pen.line(points, fill=ink, width=width, joint="curve")
    else:
        height = rng.uniform(5, 16) * unit
        y = rng.uniform(6, 30) * unit + height
        while y < image.height - height / 2:
            x = rng.uniform(4, 20) * unit
            until = image.width * rng.uniform(0.5, 0.97)
            while x < until:
                points, letters = [], rng.randint(2, 8)
                for _ in range(letters * 3):
                    points.append((x, y - rng.choice((0, 0, 0.5, 0.5, 1.0, -0.4)) * height * rng.uniform(0.7, 1.2)))
                    x += height * rng.uniform(0.1, 0.3)
                pen.line(_smooth(points), fill=ink, width=width, joint="curve")
                x += height * rng.uniform(0.4, 0.9)
                if rng.random() < 0.15:
                    break
            y += height * rng.uniform(1.6, 2.4)
            if rng.random() < 0.12:
                break
    return image.resize(size, Image.Resampling.LANCZOS)


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A smooth curve near the points (Chaikin's corner cutting, three times)."""
    curve = list(points)
    for _ in range(3):
        cut = []
        for (ax, ay), (bx, by) in itertools.pairwise(curve):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by), (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        curve = cut or curve
    return curve


def _emoji(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    """One to four emoji that the world does not contain, on a plain background."""
    base = rng.randint(200, 255) if rng.random() < 0.8 else rng.randint(25, 90)
    tint = rng.choice((0, 20))
    image = Image.new("RGB", size, _grey(rng, base, base, tint))
    count = rng.choice((1, 1, 1, 2, 3, 4))
    cells = rng.sample(range(9), count)
    large = count == 1 and rng.random() < 0.5
    for cell in cells:
        side = round(min(size) * (rng.uniform(0.35, 0.85) if large else rng.uniform(0.2, 0.36)))
        x = size[0] / 2 if large else (cell % 3 + 0.5) * size[0] / 3
        y = size[1] / 2 if large else (cell // 3 + 0.5) * size[1] / 3
        picture = rng.choice(_emoji_cells(held_out))
        if not held_out:
            picture = _varied(rng, picture)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        image.paste(picture, (round(x - side / 2), round(y - side / 2)), picture)
    return image


def _varied(rng: random.Random, picture: Image.Image) -> Image.Image:
    """An emoji mirrored, turned or in other colours, so that training shows more than its sheets hold."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.4:
        picture = picture.rotate(rng.uniform(-30, 30), Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        red, green, blue, alpha = picture.split()
        picture = Image.merge("RGBA", (*rng.sample((red, green, blue), 3), alpha))
    return picture


@cache
def _emoji_cells(held_out: bool) -> Sequence[Image.Image]:
    folder = resources.files(__package__) / "unknown" if held_out else _training_folder()
    cells = []
    for name in ("google", "twitter"):
        with (folder / f"emoji-{name}.png").open("rb") as file:
            sheet = Image.open(file).convert("RGBA")
        for top in range(0, sheet.height, CELL):
            for left in range(0, sheet.width, CELL):
                cell = sheet.crop((left, top, left + CELL, top + CELL))
                if cell.getchannel("A").getbbox():
                    cells.append(cell)
    return cells


def _figure(rng: random.Random, size: Size, held_out: bool) -> Image.Image:
    """Arrows, zigzags, grids, graphs and things made of joined lines and shapes; held out: stick figures."""
    scale = 2
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), _grey(rng, 215, 255))
    pen, unit = ImageDraw.Draw(image), min(size) * scale / 100
    ink, width = _any_colour(rng, 170), max(2, round(rng.uniform(1.2, 4) * unit))
    middle = (image.width * rng.uniform(0.35, 0.65), image.height * rng.uniform(0.35, 0.65))
    if held_out:
        x, y, head = middle[0], middle[1] - 12 * unit, rng.uniform(6, 10) * unit
        pen.ellipse((x - head, y - 2 * head, x + head, y), outline=ink, width=width)
        hip = y + 26 * unit
        pen.line([(x, y), (x, hip)], fill=ink, width=width)
        for side in (-1, 1):
            reach = side * rng.uniform(8, 16) * unit
            pen.line([(x, y + 7 * unit), (x + reach, y + rng.uniform(2, 18) * unit)], fill=ink, width=width)
            pen.line([(x, hip), (x + reach, hip + rng.uniform(12, 20) * unit)], fill=ink, width=width)
        return image.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.6:
        fill = _any_colour(rng) if rng.random() < 0.4 else None
        rng.choice(_JOINED)(rng, pen, middle, rng.uniform(16, 40) * unit, (ink, fill, width))
        return image.resize(size, Image.Resampling.LANCZOS)
    kind = rng.randrange(4)
    way = rng.uniform(0, 2 * math.pi)
    reach = rng.uniform(20, 42) * unit
    tip = (middle[0] + reach * math.cos(way), middle[1] + reach * math.sin(way))
    tail = (middle[0] - reach * math.cos(way), middle[1] - reach * math.sin(way))
    if kind == 0:
        pen.line([tail, tip], fill=ink, width=width)
        for turn in (2.6, -2.6):
            barb = (tip[0] + 0.5 * reach * math.cos(way + turn), tip[1] + 0.5 * reach * math.sin(way + turn))
            pen.line([tip, barb], fill=ink, width=width)
    elif kind == 1:
        points = [
            (rng.uniform(0.05, 0.95) * image.width, rng.uniform(0.05, 0.95) * image.height)
            for _ in range(rng.randint(5, 14))
        ]
        pen.line(_smooth(points) if rng.random() < 0.5 else points, fill=ink, width=width, joint="curve")
    elif kind == 2:
        steps = rng.randint(4, 12)
        for number in range(steps + 1):
            at = number / steps
            pen.line([(at * image.width, 0), (at * image.width, image.height)], fill=ink, width=width)
            pen.line([(0, at * image.height), (image.width, at * image.height)], fill=ink, width=width)
    else:
        nodes = [
            (rng.uniform(0.1, 0.9) * image.width, rng.uniform(0.1, 0.9) * image.height)
            for _ in range(rng.randint(4, 9))
        ]
        for a in nodes:
            pen.line([a, rng.choice(nodes)], fill=ink, width=max(2, width // 2))
        for x, y in nodes:
            pen.rectangle((x - 4 * unit, y - 3 * unit, x + 4 * unit, y + 3 * unit), fill=_any_colour(rng), outline=ink)
    return image.resize(size, Image.Resampling.LANCZOS)


Pen = tuple[Rgb, Rgb | None, int]
"""Ink, fill and width of a line."""
Point = tuple[float, float]


def _polar(middle: Point, reach: float, way: float) -> Point:
    return middle[0] + reach * math.cos(way), middle[1] + reach * math.sin(way)


def _round(draw: ImageDraw.ImageDraw, at: Point, reach: float, pen: Pen, squash: float = 1.0) -> None:
    box = (at[0] - reach, at[1] - reach * squash, at[0] + reach, at[1] + reach * squash)
    draw.ellipse(box, fill=pen[1], outline=pen[0], width=pen[2])


def _molecule(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """Circles joined by lines, as a molecule or a mobile."""
    ball, start = rng.uniform(0.1, 0.3) * reach, rng.uniform(0, 2 * math.pi)
    count = rng.randint(2, 6)
    ends = [
        _polar(middle, reach * rng.uniform(0.6, 1.1), start + 2 * math.pi * n / count + rng.uniform(-0.3, 0.3))
        for n in range(count)
    ]
    for end in ends:
        draw.line([middle, end], fill=pen[0], width=pen[2])
    for end in [*ends, middle][: None if rng.random() < 0.6 else -1]:
        _round(draw, end, ball * rng.uniform(0.7, 1.3), pen)


def _sign_post(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A circle, a square or a triangle at the end of a stick: a lollipop, a flag, a magnifying glass."""
    way = rng.choice((math.pi / 2, rng.uniform(0, 2 * math.pi)))
    end, head = _polar(middle, reach * 1.2, way), rng.uniform(0.3, 0.6) * reach
    draw.line([middle, end], fill=pen[0], width=pen[2] * rng.choice((1, 1, 2)))
    kind = rng.randrange(3)
    top = _polar(middle, head, way + math.pi)
    if kind == 0:
        _round(draw, top, head, pen)
    elif kind == 1:
        draw.rectangle((top[0] - head, top[1] - head, top[0] + head, top[1] + head), pen[1], pen[0], pen[2])
    else:
        draw.polygon(
            [middle, _polar(middle, head * 1.5, way + 2.4), _polar(middle, head * 1.5, way + 3.4)], pen[1], pen[0]
        )
    if rng.random() < 0.4:
        draw.line([_polar(end, reach * 0.4, way + 1.2), end, _polar(end, reach * 0.4, way - 1.2)], pen[0], pen[2])


def _face(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A face of a few lines, or a mask."""
    squash = rng.uniform(0.8, 1.25)
    _round(draw, middle, reach, pen, squash)
    x, y = middle
    for side in (-1, 1):
        _round(draw, (x + side * 0.4 * reach, y - 0.3 * reach), 0.1 * reach, (pen[0], pen[0], 1))
    turn = rng.choice((0, 180))
    draw.arc(
        (x - 0.5 * reach, y - 0.1 * reach, x + 0.5 * reach, y + 0.6 * reach), 15 + turn, 165 + turn, pen[0], pen[2]
    )
    if rng.random() < 0.5:
        draw.line([(x, y - 0.15 * reach), (x - 0.12 * reach, y + 0.15 * reach), (x, y + 0.15 * reach)], pen[0], pen[2])


def _wheel(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A wheel with spokes, a target, a gear or a sun with rays."""
    count, inner = rng.randint(5, 14), rng.uniform(0.2, 0.7) * reach
    if rng.random() < 0.7:
        _round(draw, middle, reach, pen)
    _round(draw, middle, inner, pen)
    if rng.random() < 0.7:
        from_ = inner * rng.choice((0, 1, 1.15))
        for number in range(count):
            way = 2 * math.pi * number / count
            draw.line([_polar(middle, from_, way), _polar(middle, reach, way)], fill=pen[0], width=pen[2])
    else:
        for ring in range(1, rng.randint(3, 6)):
            _round(draw, middle, reach * 1.2 / ring, (pen[0], None, pen[2]))


def _ladder(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A ladder, a fence, a comb or rails: two lines, or one, with rungs."""
    way, wide = rng.uniform(0, math.pi), rng.uniform(0.15, 0.5) * reach
    one_sided = rng.random() < 0.4
    ends = _polar(middle, reach * 1.1, way), _polar(middle, reach * 1.1, way + math.pi)
    for side in (1,) if one_sided else (-1, 1):
        draw.line([_polar(end, side * wide, way + math.pi / 2) for end in ends], fill=pen[0], width=pen[2])
    count = rng.randint(3, 9)
    for number in range(count):
        at = _polar(middle, reach * (2 * (number + 0.5) / count - 1), way)
        draw.line([_polar(at, s * wide, way + math.pi / 2) for s in (-1, 1)], fill=pen[0], width=pen[2])


def _solid(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A box, a prism or a can drawn in perspective, as wires."""
    lean = rng.uniform(0.2, 0.6) * reach, -rng.uniform(0.15, 0.5) * reach
    if rng.random() < 0.25:
        for down in (-1, 1):
            _round(draw, (middle[0], middle[1] + down * 0.7 * reach), 0.6 * reach, (pen[0], None, pen[2]), 0.35)
        for side in (-1, 1):
            x = middle[0] + side * 0.6 * reach
            draw.line([(x, middle[1] - 0.7 * reach), (x, middle[1] + 0.7 * reach)], fill=pen[0], width=pen[2])
        return
    count, start = rng.choice((3, 4, 4, 5, 6)), rng.uniform(0, 1)
    front = [_polar(middle, 0.8 * reach, start + 2 * math.pi * n / count) for n in range(count)]
    back = [(x + lean[0], y + lean[1]) for x, y in front]
    draw.polygon(front, fill=pen[1])
    for a, b, c, d in zip(front, [*front[1:], front[0]], back, [*back[1:], back[0]], strict=True):
        draw.line([a, b], fill=pen[0], width=pen[2])
        draw.line([c, d], fill=pen[0], width=pen[2])
        draw.line([a, c], fill=pen[0], width=pen[2])


def _chain(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """Rings or boxes that hang together: a chain, a flow chart, a caterpillar."""
    way, count = rng.uniform(-0.8, 0.8), rng.randint(3, 7)
    part = 2.2 * reach / count
    boxes, gap = rng.random() < 0.5, rng.choice((0.35, 0.5, 0.62))
    before: Point | None = None
    for number in range(count):
        at = _polar(middle, part * (number - (count - 1) / 2), way + rng.uniform(-0.2, 0.2))
        if before is not None and gap < 0.5:
            draw.line([before, at], fill=pen[0], width=pen[2])
        if boxes:
            half = gap * part
            draw.rectangle((at[0] - half, at[1] - 0.6 * half, at[0] + half, at[1] + 0.6 * half), pen[1], pen[0], pen[2])
        else:
            _round(draw, at, gap * part, pen)
        before = at


def _branches(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """A bare tree, a river or a root: lines that fork."""

    def grow(at: Point, way: float, length: float, depth: int) -> None:
        end = _polar(at, length, way)
        draw.line([at, end], fill=pen[0], width=max(2, pen[2] * (depth + 1) // 4))
        if depth:
            for _ in range(rng.choice((2, 2, 3))):
                grow(end, way + rng.uniform(-0.9, 0.9), length * rng.uniform(0.55, 0.85), depth - 1)

    way = rng.choice((-math.pi / 2, rng.uniform(0, 2 * math.pi)))
    grow(_polar(middle, reach, way + math.pi), way, reach * 0.8, rng.randint(2, 4))


def _creature(rng: random.Random, draw: ImageDraw.ImageDraw, middle: Point, reach: float, pen: Pen) -> None:
    """An insect, a robot or a dog of a few lines: a body with many legs, eyes on top."""
    squash = rng.uniform(0.35, 0.7)
    legs = rng.randint(2, 5)
    for number in range(legs):
        x = middle[0] + reach * (1.6 * (number + 0.5) / legs - 0.8)
        foot = x + rng.uniform(-0.2, 0.2) * reach
        knee = middle[1] + squash * reach * 0.9
        draw.line([(x, middle[1]), (foot, knee), (foot, knee + rng.uniform(0.3, 0.7) * reach)], pen[0], pen[2])
    if rng.random() < 0.5:
        _round(draw, middle, reach, pen, squash)
    else:
        draw.rectangle(
            (middle[0] - reach, middle[1] - squash * reach, middle[0] + reach, middle[1] + squash * reach),
            pen[1], pen[0], pen[2],
        )  # fmt: skip
    if rng.random() < 0.6:
        for side in (-1, 1):
            at = middle[0] + side * 0.3 * reach, middle[1] - (squash + 0.3) * reach
            draw.line([(middle[0] + side * 0.2 * reach, middle[1] - squash * reach), at], fill=pen[0], width=pen[2])
            _round(draw, at, 0.1 * reach, pen)


_JOINED = (_molecule, _sign_post, _face, _wheel, _ladder, _solid, _chain, _branches, _creature)


def _grey(rng: random.Random, low: int, high: int, tint: int = 6) -> Rgb:
    base = rng.randint(low, high)
    red, green, blue = (max(0, min(255, base + rng.randint(-tint, tint))) for _ in range(3))
    return red, green, blue


def _any_colour(rng: random.Random, high: int = 255) -> Rgb:
    return rng.randint(0, high), rng.randint(0, high), rng.randint(0, high)


_PAINTERS: dict[str, Callable[[random.Random, Size, bool], Image.Image]] = {
    "photo": _photo,
    "texture": _texture,
    "noise": _noise,
    "gradient": _gradient,
    "screen": _screen,
    "writing": _writing,
    "emoji": _emoji,
    "figure": _figure,
}
