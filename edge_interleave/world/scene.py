"""Scenes of the world that the embedded model knows: shapes, things and signs at nine places, on a background.

Says what lies where; `drawing.py` draws it. Knows nothing about questions, tokens or models. Without a cast scenes
are of shapes alone, and follow from the random source as they did in the first version.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_interleave.world.cast import NATURAL, SHAPES, SHAPES_ALONE, TINTED, Cast

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
ITEMS_MAX = 5
SAME_MAX = 6
"""So many things of one kind at most, in a picture whose things lie anywhere."""
SIZE_LEAST = 1 / 12
"""Of a thing that lies anywhere, in the canvas' shorter side."""

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
    """One shape or thing. The centre is in fractions of the image's width and height, the size one of its shorter side;
    the angle is in degrees."""

    shape: str
    colour: str
    """One of COLOURS; empty for a thing in its own colours."""
    x: float
    y: float
    size: float
    tone: tuple[int, int, int]
    angle: float = 0.0
    style: str = "filled"
    """Of a shape `filled`, `edged` (filled, with a darker edge), `inked` (filled, with a black edge), `outline` (a
    thick line) or `line` (a thin one); of a thing its set."""
    mirrored: bool = False

    @property
    def place(self) -> str:
        """The ninth of the image in which the centre lies."""
        return PLACES[min(int(self.y * 3), 2) * 3 + min(int(self.x * 3), 2)]

    @property
    def name(self) -> str:
        """Colour and shape: `red circle`; a thing in its own colours is named without: `dog`."""
        return f"{self.colour} {self.shape}" if self.colour else self.shape


@dataclass(frozen=True)
class Sign:
    """A word or a number on a plate. The centre is in fractions of the image's width and height, the width one of its
    shorter side."""

    text: str
    x: float
    y: float
    width: float
    lettering: str
    ink: tuple[int, int, int]
    plate: tuple[int, int, int]

    @property
    def row(self) -> str:
        """`top`, `center` or `bottom`."""
        return ("top", "center", "bottom")[min(int(self.y * 3), 2)]


@dataclass(frozen=True)
class Effect:
    """What befell the whole picture; zeros are none."""

    darkness: float = 0.0
    """The share of light that is gone."""
    blur: float = 0.0
    """Standard deviation of a Gaussian, as a fraction of the shorter side."""
    noise: float = 0.0
    """Standard deviation of grain in each channel, of 255."""


@dataclass(frozen=True)
class Look:
    """All of a picture that is not its items."""

    side: int
    """Pixels of the shorter side."""
    kind: str
    """`plain`, `gradient`, `noise` or `ground` (`colour` above a horizon, `other` below)."""
    colour: tuple[int, int, int]
    other: tuple[int, int, int]
    blur: float
    grain_seed: int
    aspect: float = 1.0
    """Width over height."""
    edges: str = "smooth"
    """How edges are drawn: `smooth` (as Pillow does large, smaller ones shrunk), `hard` (no anti-aliasing), `soft`."""
    jpeg: int = 0
    """Quality of a JPEG file that the picture went through, 1 to 95; 0: none."""


@dataclass(frozen=True)
class Scene:
    """Items in reading order (row by row), drawn in that order, and a look."""

    items: tuple[Item, ...]
    look: Look
    signs: tuple[Sign, ...] = ()
    effect: Effect = Effect()
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """What of the drawing is shown: left, top, right, bottom."""
    strange: str = ""
    """Of a picture of something else than the world: what (`strangers.STRANGE`); empty for a picture of the world."""


def random_scene(rng: random.Random, count: int | None = None, cast: Cast = SHAPES_ALONE) -> Scene:
    """A scene of `count` items (1 to ITEMS_MAX where None), each at a place of its own."""
    if count is None:
        count = rng.choices((1, 2, 3, 4, 5), (20, 25, 25, 20, 10))[0]
    look = random_look(rng)
    if count == 1 and rng.random() < 0.15:
        return Scene((_large_item(rng, look, cast),), look)
    items: list[Item] = []
    repeats = rng.random() < 0.35
    for place in rng.sample(range(9), count):
        shape = rng.choice(items).shape if items and repeats and rng.random() < 0.6 else None
        items.append(random_item(rng, look, place, shape, cast=cast))
    return arranged(items, look)


def free_scene(rng: random.Random, cast: Cast = SHAPES_ALONE, same: int | None = None) -> Scene:
    """Things anywhere on the canvas, from a twelfth to half of its shorter side, up to six of a kind.

    Slightly turned, some slightly overlapping. same: how many are of one kind or of one name (1 to SAME_MAX); drawn
    where None. The canvas is one that another program may have made.
    """
    look = free_look(rng)
    same = same or rng.choices(range(1, SAME_MAX + 1), (30, 18, 18, 16, 10, 8))[0]
    others = rng.choices((0, 1, 2, 3), (30, 30, 25, 15) if same > 1 else (32, 30, 24, 14))[0]
    first = random_item(rng, look, 4, cast=cast)
    items = [first]
    # Of one name, of one kind in any colours, or (where others are in one colour) of one colour.
    alike = rng.choices(("name", "kind", "colour"), (50, 35, 15))[0]
    while len(items) < same:
        if alike == "colour" and first.colour:
            kind = rng.choice([kind for kind in (*SHAPES, *TINTED) if first.colour in cast.colours(kind)])
            items.append(
                random_item(rng, look, 4, kind if cast.things else rng.choice(SHAPES), first.colour, cast=cast)
            )
        else:
            colour = first.colour if alike == "name" else None
            items.append(random_item(rng, look, 4, first.shape, colour, cast=cast))
    for _ in range(others):
        shape = rng.choice(items).shape if rng.random() < 0.15 else None
        items.append(random_item(rng, look, 4, shape, cast=cast))
    return _scattered(rng, items, look)


def blank_scene(rng: random.Random) -> Scene:
    """A canvas with nothing on it."""
    look = random_look(rng) if rng.random() < 0.5 else free_look(rng)
    return Scene((), look)


def free_look(rng: random.Random) -> Look:
    """A background as `random_look`, of a picture that other programs drew and saved."""
    look = random_look(rng)
    if rng.random() < 0.3:
        look = replace(look, kind="plain", colour=(255, 255, 255), other=(255, 255, 255))
    elif rng.random() < 0.15:
        strong = rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)
        look = replace(look, kind="plain", colour=strong, other=strong)
    edges = rng.choices(("smooth", "hard", "soft"), (50, 20, 30))[0]
    jpeg = rng.randint(30, 92) if rng.random() < 0.4 else 0
    side = rng.choice((144, 160, 192, 224, 256, 300, 384))
    return replace(look, side=side, edges=edges, jpeg=jpeg, blur=look.blur if rng.random() < 0.5 else 0.0)


def _scattered(rng: random.Random, items: list[Item], look: Look) -> Scene:
    """The items at free places, of free sizes; one that finds no place is left out."""
    width, height = max(look.aspect, 1.0), 1 / min(look.aspect, 1.0)
    largest = min(0.5, 0.95 / len(items) ** 0.5)
    shared = math.exp(rng.uniform(math.log(SIZE_LEAST), math.log(largest)))
    alike = rng.random() < 0.4
    nearness = 0.78 if rng.random() < 0.2 else 1.0
    placed: list[Item] = []
    for item in items:
        for attempt in range(60):
            if alike:
                size = min(max(shared * rng.uniform(0.8, 1.25), SIZE_LEAST), largest)
            else:
                size = math.exp(rng.uniform(math.log(SIZE_LEAST), math.log(largest)))
            size = max(size * (1 - attempt / 80), SIZE_LEAST)
            x, y = rng.uniform(size / 2, width - size / 2), rng.uniform(size / 2, height - size / 2)
            if all(math.hypot(x - o.x * width, y - o.y * height) > 0.52 * (size + o.size) * nearness for o in placed):
                break
        else:
            continue
        style = item.style
        if item.shape in SHAPES:
            style = rng.choices(("filled", "edged", "inked", "outline", "line"), (46, 10, 14, 15, 15))[0]
        angle = rng.uniform(-25, 25) if rng.random() < 0.5 else 0.0
        red, green, blue = (max(0, min(255, c + rng.randint(-14, 14))) for c in item.tone)
        free = replace(item, x=x / width, y=y / height, size=size, style=style, angle=angle)
        placed.append(replace(free, tone=(red, green, blue)))
    if alike and rng.random() < 0.7:
        styles = {item.shape: item.style for item in placed}
        placed = [replace(item, style=styles[item.shape]) for item in placed]
    return Scene(tuple(sorted(placed, key=lambda item: (PLACES.index(item.place), item.x))), look)


def arranged(items: Sequence[Item], look: Look) -> Scene:
    """A scene with its items in reading order."""
    return Scene(tuple(sorted(items, key=lambda item: PLACES.index(item.place))), look)


def random_item(
    rng: random.Random,
    look: Look,
    place: int,
    shape: str | None = None,
    colour: str | None = None,
    *,
    cast: Cast = SHAPES_ALONE,
) -> Item:
    """An item near the middle of a place, of a tone that stands out from the background."""
    shape = shape or (cast.kind(rng) if cast.things else rng.choice(SHAPES))
    if colour is None:
        colours = cast.colours(shape)
        colour = rng.choice(standing_out(colours, look) or colours) if colours else ""
    row, column = divmod(place, 3)
    return Item(
        shape=shape,
        colour=colour,
        x=(column + 0.5 + rng.uniform(-0.14, 0.14)) / 3,
        y=(row + 0.5 + rng.uniform(-0.14, 0.14)) / 3,
        size=rng.uniform(0.56, 0.98) / 3 if shape in SHAPES else rng.uniform(0.72, 1.05) / 3,
        tone=tone_of(rng, colour, look),
        angle=rng.uniform(-12, 12) if rng.random() < 0.5 else 0.0,
        style=rng.choices(("filled", "edged", "outline"), (60, 22, 18))[0]
        if shape in SHAPES
        else rng.choice(cast.styles),
        mirrored=shape not in SHAPES and rng.random() < 0.5,
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


def recoloured(rng: random.Random, item: Item, look: Look, cast: Cast = SHAPES_ALONE) -> Item:
    """The same item in another colour; it must have one."""
    colours = [name for name in cast.colours(item.shape) if name != item.colour]
    colour = rng.choice(standing_out(colours, look) or colours)
    return replace(item, colour=colour, tone=tone_of(rng, colour, look))


def reshaped(rng: random.Random, item: Item, cast: Cast = SHAPES_ALONE) -> Item:
    """Another shape of the same colour at the same place; for a thing in its own colours another such thing."""
    if not cast.things:
        return replace(item, shape=rng.choice([shape for shape in SHAPES if shape != item.shape]))
    if item.shape in SHAPES:
        others: Sequence[str] = SHAPES
    else:
        others = NATURAL if not item.colour else [t for t in TINTED if item.colour in cast.colours(t)]
    others = [other for other in others if other != item.shape]
    return replace(item, shape=rng.choice(others)) if others else item


def motion_clip(rng: random.Random, frames: int, cast: Cast = SHAPES_ALONE) -> tuple[list[Scene], Item, str]:
    """An item that crosses the picture, among none to two that stay: frames, the item, the direction's name."""
    look = random_look(rng)
    direction = rng.choice(tuple(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    lane = rng.randrange(3)
    mover = random_item(rng, look, 4, cast=cast)
    path_length = rng.uniform(0.34, 0.66)
    start = 0.5 - path_length / 2 + rng.uniform(-0.08, 0.08)
    across = (lane + 0.5 + rng.uniform(-0.1, 0.1)) / 3
    lane_places = {lane * 3 + i if dx else i * 3 + lane for i in range(3)}
    stay: list[Item] = []
    for place in rng.sample([p for p in range(9) if p not in lane_places], rng.choice((0, 0, 1, 1, 2))):
        item = random_item(rng, look, place, cast=cast)
        if item.shape != mover.shape and (not item.colour or item.colour != mover.colour):
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
    side = rng.choice((96, 128, 160, 192, 224, 300))
    blur = rng.choice((0.0, 0.0, 0.0, 0.6))
    seed = rng.getrandbits(31)
    return Look(side, kind, colour, (r, g, b), blur, seed, aspect=_random_aspect(seed))


def random_look_like(rng: random.Random, look: Look) -> Look:
    """The same background a moment later: other grain, now and then a little lighter or darker."""
    shift = rng.choice((0, 0, rng.randint(-6, 6)))
    r, g, b = (max(0, min(255, c + shift)) for c in look.colour)
    return replace(look, colour=(r, g, b), grain_seed=rng.getrandbits(31) // 2 * 2 + look.grain_seed % 2)


def tone_of(rng: random.Random, colour: str, look: Look) -> tuple[int, int, int]:
    """A tone of a colour that stands out from the background where one does; black where there is no colour."""
    if not colour:
        return 0, 0, 0
    tones = [tone for tone in TONES[colour] if _stands_out(tone, look)] or list(TONES[colour])
    r, g, b = (max(0, min(255, c + rng.randint(-9, 9))) for c in rng.choice(tones))
    return r, g, b


def _random_aspect(seed: int) -> float:
    """Square in four of ten, else anything from 1:2 to 2:1.

    From a seed of its own, so that what else is drawn stays what it was when all pictures were square.
    """
    rng = random.Random(seed)
    return 1.0 if rng.random() < 0.4 else 2 ** rng.uniform(-1, 1)


def _large_item(rng: random.Random, look: Look, cast: Cast) -> Item:
    item = random_item(rng, look, 4, cast=cast)
    return replace(item, size=rng.uniform(0.4, 0.8), x=rng.uniform(0.42, 0.58), y=rng.uniform(0.42, 0.58))


def standing_out(colours: Sequence[str], look: Look) -> list[str]:
    """Those of the colours of which some tone stands out from the background."""
    return [name for name in colours if any(_stands_out(tone, look) for tone in TONES[name])]


def _stands_out(tone: tuple[int, int, int], look: Look) -> bool:
    return sum(abs(a - b) for a, b in zip(tone, look.colour, strict=True)) > 110
