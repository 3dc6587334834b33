"""The world that the embedded model knows: coloured shapes at nine places, in single images and short videos.

Draws scenes and says what is in them. Knows nothing about questions, tokens or models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
ITEMS_MAX = 5

# Several named tones a colour, so that another program's idea of "green" is met as well (CSS names in comments).
TONES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 16, 16), (231, 76, 60)),  # red, crimson
    "orange": ((255, 165, 0), (255, 140, 0), (243, 126, 18)),  # orange, darkorange
    "yellow": ((255, 255, 0), (255, 225, 25), (241, 220, 15)),  # yellow
    "green": ((0, 128, 0), (0, 200, 0), (34, 139, 34), (46, 204, 80), (60, 180, 75)),  # green, forestgreen
    "blue": ((0, 0, 255), (30, 90, 220), (0, 60, 180), (52, 120, 235)),  # blue
    "purple": ((128, 0, 128), (145, 30, 180), (110, 40, 170), (142, 68, 173)),  # purple
    "pink": ((255, 105, 180), (255, 140, 190), (255, 170, 200), (250, 120, 170)),  # hotpink
    "black": ((0, 0, 0), (20, 20, 20), (30, 30, 36)),  # black
}


@dataclass(frozen=True)
class Item:
    """One shape. Centre and size are fractions of the image's side; the angle is in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    size: float
    tone: tuple[int, int, int]
    angle: float = 0.0
    style: str = "filled"
    """`filled`, `edged` (filled, with a darker edge) or `outline` (a thick line)."""

    @property
    def place(self) -> str:
        """The ninth of the image in which the centre lies."""
        return PLACES[min(int(self.y * 3), 2) * 3 + min(int(self.x * 3), 2)]

    @property
    def name(self) -> str:
        """Colour and shape: `red circle`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Look:
    """All of a picture that is not its items."""

    side: int
    kind: str
    """`plain`, `gradient` or `noise`."""
    colour: tuple[int, int, int]
    other: tuple[int, int, int]
    blur: float
    grain_seed: int


@dataclass(frozen=True)
class Scene:
    """Items in reading order (row by row), and a look."""

    items: tuple[Item, ...]
    look: Look


def random_scene(rng: random.Random, count: int | None = None) -> Scene:
    """A scene of `count` items (1 to ITEMS_MAX where None), each at a place of its own."""
    if count is None:
        count = rng.choices((1, 2, 3, 4, 5), (20, 25, 25, 20, 10))[0]
    look = random_look(rng)
    if count == 1 and rng.random() < 0.15:
        return Scene((_large_item(rng, look),), look)
    items: list[Item] = []
    repeats = rng.random() < 0.35
    for place in rng.sample(range(9), count):
        shape = rng.choice(items).shape if items and repeats and rng.random() < 0.6 else None
        items.append(random_item(rng, look, place, shape))
    return arranged(items, look)


def arranged(items: Sequence[Item], look: Look) -> Scene:
    """A scene with its items in reading order."""
    return Scene(tuple(sorted(items, key=lambda item: PLACES.index(item.place))), look)


def random_item(
    rng: random.Random, look: Look, place: int, shape: str | None = None, colour: str | None = None
) -> Item:
    """An item near the middle of a place, of a tone that stands out from the background."""
    shape = shape or rng.choice(SHAPES)
    if colour is None:
        colour = rng.choice([name for name in COLOURS if any(_stands_out(tone, look) for tone in TONES[name])])
    row, column = divmod(place, 3)
    return Item(
        shape=shape,
        colour=colour,
        x=(column + 0.5 + rng.uniform(-0.14, 0.14)) / 3,
        y=(row + 0.5 + rng.uniform(-0.14, 0.14)) / 3,
        size=rng.uniform(0.56, 0.98) / 3,
        tone=_tone(rng, colour, look),
        angle=rng.uniform(-12, 12) if rng.random() < 0.5 else 0.0,
        style=rng.choices(("filled", "edged", "outline"), (60, 22, 18))[0],
    )


def free_place(rng: random.Random, scene: Scene) -> int:
    """A place where nothing lies."""
    taken = {item.place for item in scene.items}
    return rng.choice([index for index, place in enumerate(PLACES) if place not in taken])


def moved(rng: random.Random, item: Item, place: int) -> Item:
    """The same item near the middle of another place."""
    row, column = divmod(place, 3)
    x = (column + 0.5 + rng.uniform(-0.14, 0.14)) / 3
    y = (row + 0.5 + rng.uniform(-0.14, 0.14)) / 3
    return replace(item, x=x, y=y)


def recoloured(rng: random.Random, item: Item, look: Look) -> Item:
    """The same item in another colour."""
    names = [n for n in COLOURS if n != item.colour and any(_stands_out(tone, look) for tone in TONES[n])]
    colour = rng.choice(names)
    return replace(item, colour=colour, tone=_tone(rng, colour, look))


def reshaped(rng: random.Random, item: Item) -> Item:
    """Another shape at the same place."""
    return replace(item, shape=rng.choice([shape for shape in SHAPES if shape != item.shape]))


def motion_clip(rng: random.Random, frames: int) -> tuple[list[Scene], Item, str]:
    """An item that crosses the picture, among none to two that stay: frames, the item, the direction's name."""
    look = random_look(rng)
    direction = rng.choice(tuple(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    lane = rng.randrange(3)
    mover = random_item(rng, look, 4)
    path_length = rng.uniform(0.34, 0.66)
    start = 0.5 - path_length / 2 + rng.uniform(-0.08, 0.08)
    across = (lane + 0.5 + rng.uniform(-0.1, 0.1)) / 3
    lane_places = {lane * 3 + i if dx else i * 3 + lane for i in range(3)}
    stay: list[Item] = []
    for place in rng.sample([p for p in range(9) if p not in lane_places], rng.choice((0, 0, 1, 1, 2))):
        item = random_item(rng, look, place)
        if item.shape != mover.shape and item.colour != mover.colour:
            stay.append(item)
    scenes = []
    for index in range(frames):
        along = start + path_length * index / (frames - 1)
        if dx + dy < 0:
            along = 1 - along
        here = replace(mover, x=along, y=across) if dx else replace(mover, x=across, y=along)
        scenes.append(arranged([*stay, here], replace(look, grain_seed=look.grain_seed + index)))
    return scenes, mover, direction


def random_look(rng: random.Random) -> Look:
    """A background: mostly light, sometimes dark, plain or uneven."""
    light = rng.random() < 0.8
    low, high = (195, 255) if light else (25, 95)
    base = rng.randint(low, high)
    tint = 22 if rng.random() < 0.6 else 0
    if light and rng.random() < 0.35:
        base, tint = 255, 0

    def near() -> tuple[int, int, int]:
        r, g, b = (max(0, min(255, base + rng.randint(-tint, tint))) for _ in range(3))
        return r, g, b

    colour = near()
    kind = rng.choices(("plain", "gradient", "noise"), (60, 25, 15))[0]
    drift = 26 if kind == "gradient" else 0
    r, g, b = (max(0, min(255, c + rng.randint(-drift, drift))) for c in colour)
    return Look(
        side=rng.choice((96, 128, 160, 192, 224, 300)),
        kind=kind,
        colour=colour,
        other=(r, g, b),
        blur=rng.choice((0.0, 0.0, 0.0, 0.6)),
        grain_seed=rng.getrandbits(31),
    )


def random_look_like(rng: random.Random, look: Look) -> Look:
    """The same background a moment later: other grain, now and then a little lighter or darker."""
    shift = rng.choice((0, 0, rng.randint(-6, 6)))
    r, g, b = (max(0, min(255, c + shift)) for c in look.colour)
    return replace(look, colour=(r, g, b), grain_seed=rng.getrandbits(31) // 2 * 2 + look.grain_seed % 2)


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of look.side pixels."""
    look, side = scene.look, scene.look.side
    scale = 2 if side <= 160 else 1
    image = _background(look, side * scale)
    pen = ImageDraw.Draw(image)
    for item in scene.items:
        _draw_item(pen, item, side * scale, item.tone, background=look.colour)
    if scale > 1:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * side / 128))
    return image


def item_map(scene: Scene, side: int) -> np.ndarray:
    """Which item covers each pixel: (side, side) uint8, 0 for none, i + 1 for items[i]."""
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)
    for index, item in enumerate(scene.items):
        pen.polygon([tuple(p) for p in outline(item, side)], fill=index + 1)
    return np.asarray(image)


def outline(item: Item, side: int) -> list[tuple[float, float]]:
    """The item's outline in pixels, as a polygon."""
    angle = math.radians(item.angle)
    cos, sin = math.cos(angle), math.sin(angle)
    half, cx, cy = item.size * side / 2, item.x * side, item.y * side
    return [(cx + half * (x * cos - y * sin), cy + half * (x * sin + y * cos)) for x, y in _UNIT[item.shape]]


def _background(look: Look, side: int) -> Image.Image:
    if look.kind == "plain":
        return Image.new("RGB", (side, side), look.colour)
    if look.kind == "gradient":
        ends = np.array([look.colour, look.other], np.float32)
        ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None]
        rows = ends[0] * (1 - ramp) + ends[1] * ramp
        pixels = np.repeat(
            rows[:, None] if look.grain_seed % 2 else rows[None, :], side, axis=1 if look.grain_seed % 2 else 0
        )
        return Image.fromarray(pixels.astype(np.uint8))
    grain = np.random.default_rng(look.grain_seed).normal(0, 7, (side, side, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.array(look.colour, np.float32) + grain, 0, 255).astype(np.uint8))


def _draw_item(
    pen: ImageDraw.ImageDraw, item: Item, side: int, tone: tuple[int, int, int], background: tuple[int, int, int]
) -> None:
    points = outline(item, side)
    width = max(2, round(item.size * side * (0.16 if item.style == "outline" else 0.06)))
    if item.style == "outline":
        pen.polygon(points, fill=tone)
        inner = outline(replace(item, size=max(item.size - 2.2 * width / side, 0.01)), side)
        pen.polygon(inner, fill=background)
        return
    pen.polygon(points, fill=tone)
    if item.style == "edged":
        edge = tuple(int(c * 0.55) for c in tone)
        pen.line([*points, points[0], points[1]], fill=edge, width=width, joint="curve")


def _large_item(rng: random.Random, look: Look) -> Item:
    item = random_item(rng, look, 4)
    return replace(item, size=rng.uniform(0.4, 0.8), x=rng.uniform(0.42, 0.58), y=rng.uniform(0.42, 0.58))


def _tone(rng: random.Random, colour: str, look: Look) -> tuple[int, int, int]:
    tones = [tone for tone in TONES[colour] if _stands_out(tone, look)] or list(TONES[colour])
    r, g, b = (max(0, min(255, c + rng.randint(-9, 9))) for c in rng.choice(tones))
    return r, g, b


def _stands_out(tone: tuple[int, int, int], look: Look) -> bool:
    return sum(abs(a - b) for a, b in zip(tone, look.colour, strict=True)) > 110


def _circle(
    centre: tuple[float, float], radius: float, start: float = 0, end: float = 360
) -> list[tuple[float, float]]:
    steps = 40
    angles = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    points = []
    for i in range(10):
        radius = 1.0 if i % 2 == 0 else 0.42
        angle = math.radians(-90 + 36 * i)
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, -(y + 2.5) / 15))
    return points


def _moon() -> list[tuple[float, float]]:
    outer = _circle((0.0, 0.0), 1.0, 50, 310)
    inner = _circle((0.42, 0.0), 0.79, 283, 77)
    return outer + inner


_UNIT: dict[str, list[tuple[float, float]]] = {
    "circle": _circle((0.0, 0.0), 1.0),
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (0.75, 0.0), (0.0, 1.0), (-0.75, 0.0)],
    "cross": [
        (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
        (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
    ],
    "moon": _moon(),
}  # fmt: skip
