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
    """Windows, bars and lines of text; held out: charts."""
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
        picture = rng.choice(_emoji_cells(held_out)).resize((side, side), Image.Resampling.BICUBIC)
        image.paste(picture, (round(x - side / 2), round(y - side / 2)), picture)
    return image


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
    """Arrows, zigzags, grids and graphs; held out: stick figures."""
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
