"""Scenes: shapes, things and signs on a background, at nine places or anywhere; `drawing.py` makes the pixels.

A scene is determined by its random source and split.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_interleave.world.vocabulary import NATURAL, SHAPES, SHAPES_ALONE, TINTED, Split

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
ITEMS_MAX = 5
SAME_MAX = 6
"""Most things of one kind in a scene with things anywhere."""
CROWD_MAX = 12
"""Most things in a crowded scene."""
SIZE_LEAST = 1 / 12
"""Smallest size of a thing that lies anywhere, as a fraction of the picture's shorter side."""

# Several tones for each colour, to cover other programs' idea of "green" (CSS names in comments).
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
    """One shape or thing."""

    shape: str
    colour: str
    """One of COLOURS; empty for a thing in its own colours."""
    x: float
    """Of the centre, as a fraction of the picture's width."""
    y: float
    """Of the centre, as a fraction of the picture's height."""
    size: float
    """As a fraction of the picture's shorter side."""
    tone: tuple[int, int, int]
    """RGB, 0 to 255."""
    angle: float = 0.0
    """Degrees, clockwise."""
    style: str = "filled"
    """A shape's: `filled`, `edged` (filled, darker edge), `inked` (filled, black edge), `outline` (thick line) or
    `line` (thin line). A thing's: one of STYLES."""
    mirrored: bool = False
    variant: int = 0
    """A thing's: seed of changes to its picture (`sprites.sprite`); 0: none."""

    @property
    def place(self) -> str:
        """The place, of PLACES, in which the centre lies."""
        return PLACES[min(int(self.y * 3), 2) * 3 + min(int(self.x * 3), 2)]

    @property
    def name(self) -> str:
        """Colour and shape: `red circle`; for a thing in its own colours the shape alone: `dog`."""
        return f"{self.colour} {self.shape}" if self.colour else self.shape


@dataclass(frozen=True)
class Sign:
    """A word or a number on a plate. `x`, `y`: as an Item's; `width`: the text's, as a fraction of the shorter side."""

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
    """A degradation of the whole picture; zeros are none."""

    darkness: float = 0.0
    """Share of light removed, 0 to 1."""
    blur: float = 0.0
    """Standard deviation of a Gaussian, as a fraction of the shorter side."""
    noise: float = 0.0
    """Standard deviation of the grain in each channel, of 255."""


@dataclass(frozen=True)
class Look:
    """A picture's background, size and rendering."""

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
    """How edges are drawn: `smooth`, `hard` (no anti-aliasing) or `soft`."""
    jpeg: int = 0
    """JPEG quality, 1 to 95, to save and reopen the picture with; 0: not saved."""


@dataclass(frozen=True)
class Scene:
    """Items in reading order (row by row), drawn in that order, on a background."""

    items: tuple[Item, ...]
    look: Look
    signs: tuple[Sign, ...] = ()
    effect: Effect = Effect()
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """The part shown: left, top, right, bottom, as fractions."""
    unknown: str = ""
    """The kind of an unknown picture (`unknown_pictures.paint`); empty for a scene of the world."""


def random_scene(rng: random.Random, count: int | None = None, split: Split = SHAPES_ALONE) -> Scene:
    """A scene of `count` items (None: 1 to ITEMS_MAX), each at another place."""
    if count is None:
        count = rng.choices((1, 2, 3, 4, 5), (20, 25, 25, 20, 10))[0]
    look = random_look(rng)
    if count == 1 and rng.random() < 0.15:
        return Scene((_large_item(rng, look, split),), look)
    items: list[Item] = []
    repeats = rng.random() < 0.35
    for place in rng.sample(range(9), count):
        shape = rng.choice(items).shape if items and repeats and rng.random() < 0.6 else None
        items.append(random_item(rng, look, place, shape, split=split))
    return arranged(items, look)


def free_scene(rng: random.Random, split: Split = SHAPES_ALONE, same: int | None = None) -> Scene:
    """A scene with things anywhere, of sizes from SIZE_LEAST to 0.5, some turned, some slightly overlapping.

    `same`: how many things share one kind, name or colour (1 to SAME_MAX); None draws it. The background looks like
    another program's.
    """
    look = free_look(rng)
    same = same or rng.choices(range(1, SAME_MAX + 1), (30, 18, 18, 16, 10, 8))[0]
    others = rng.choices((0, 1, 2, 3), (30, 30, 25, 15) if same > 1 else (32, 30, 24, 14))[0]
    first = random_item(rng, look, 4, split=split)
    items = [first]
    # Of one name, of one kind in any colours, or (where others are in one colour) of one colour.
    alike = rng.choices(("name", "kind", "colour"), (50, 35, 15))[0]
    while len(items) < same:
        if alike == "colour" and first.colour:
            kind = rng.choice([kind for kind in (*SHAPES, *TINTED) if first.colour in split.colours(kind)])
            items.append(
                random_item(rng, look, 4, kind if split.things else rng.choice(SHAPES), first.colour, split=split)
            )
        else:
            colour = first.colour if alike == "name" else None
            items.append(random_item(rng, look, 4, first.shape, colour, split=split))
    for _ in range(others):
        shape = rng.choice(items).shape if rng.random() < 0.15 else None
        items.append(random_item(rng, look, 4, shape, split=split))
    return _scattered(rng, items, look)


def crowded_scene(rng: random.Random, split: Split = SHAPES_ALONE) -> Scene:
    """A scene with up to CROWD_MAX small things anywhere, of few kinds: what a vision tower finds hardest."""
    look = free_look(rng)

    def new_item() -> Item:
        return random_item(rng, look, 4, rng.choice(SHAPES) if rng.random() < 0.5 else None, split=split)

    first = [new_item()]
    items: list[Item] = []
    for _ in range(rng.randint(5, CROWD_MAX)):
        if rng.random() < 0.5:
            first.append(new_item())
            items.append(first[-1])
        else:
            item = rng.choice(first)
            same = rng.random() < 0.6
            items.append(random_item(rng, look, 4, item.shape, item.colour if same else None, split=split))
    return _scattered(rng, items, look, largest=0.22)


def blank_scene(rng: random.Random) -> Scene:
    """An empty scene."""
    look = random_look(rng) if rng.random() < 0.5 else free_look(rng)
    return Scene((), look)


def free_look(rng: random.Random) -> Look:
    """A background as another program may draw and save it."""
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


def _scattered(rng: random.Random, items: list[Item], look: Look, largest: float = 0.5) -> Scene:
    """Place the items anywhere, in sizes up to `largest`; an item that finds no room is left out."""
    width, height = max(look.aspect, 1.0), 1 / min(look.aspect, 1.0)
    largest = min(largest, 0.95 / len(items) ** 0.5)
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
    split: Split = SHAPES_ALONE,
) -> Item:
    """An item near the middle of a place (index into PLACES), in a tone that stands out from the background."""
    shape = shape or (split.kind(rng) if split.things else rng.choice(SHAPES))
    if colour is None:
        colours = split.colours(shape)
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
        else rng.choice(split.styles),
        mirrored=shape not in SHAPES and rng.random() < 0.5,
    )


def free_place(rng: random.Random, scene: Scene) -> int:
    """Index into PLACES of an empty place."""
    taken = {item.place for item in scene.items}
    return rng.choice([index for index, place in enumerate(PLACES) if place not in taken])


def moved(rng: random.Random, item: Item, place: int) -> Item:
    """The item near the middle of a place (index into PLACES)."""
    row, column = divmod(place, 3)
    x = (column + 0.5 + rng.uniform(-0.14, 0.14)) / 3
    y = (row + 0.5 + rng.uniform(-0.14, 0.14)) / 3
    return replace(item, x=x, y=y)


def recoloured(rng: random.Random, item: Item, look: Look, split: Split = SHAPES_ALONE) -> Item:
    """The item in another colour. It must have a colour."""
    colours = [name for name in split.colours(item.shape) if name != item.colour]
    colour = rng.choice(standing_out(colours, look) or colours)
    return replace(item, colour=colour, tone=tone_of(rng, colour, look))


def reshaped(rng: random.Random, item: Item, split: Split = SHAPES_ALONE) -> Item:
    """The item with another shape of the same colour; a thing in its own colours becomes another such thing."""
    if not split.things:
        return replace(item, shape=rng.choice([shape for shape in SHAPES if shape != item.shape]))
    if item.shape in SHAPES:
        others: Sequence[str] = SHAPES
    else:
        others = NATURAL if not item.colour else [t for t in TINTED if item.colour in split.colours(t)]
    others = [other for other in others if other != item.shape]
    return replace(item, shape=rng.choice(others)) if others else item


def motion_clip(rng: random.Random, frames: int, split: Split = SHAPES_ALONE) -> tuple[list[Scene], Item, str]:
    """Frames of an item that crosses the picture past up to two that stay; the item; a key of DIRECTIONS."""
    look = random_look(rng)
    direction = rng.choice(tuple(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    lane = rng.randrange(3)
    mover = random_item(rng, look, 4, split=split)
    path_length = rng.uniform(0.34, 0.66)
    start = 0.5 - path_length / 2 + rng.uniform(-0.08, 0.08)
    across = (lane + 0.5 + rng.uniform(-0.1, 0.1)) / 3
    lane_places = {lane * 3 + i if dx else i * 3 + lane for i in range(3)}
    stay: list[Item] = []
    for place in rng.sample([p for p in range(9) if p not in lane_places], rng.choice((0, 0, 1, 1, 2))):
        item = random_item(rng, look, place, split=split)
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
    """A background: mostly light, sometimes dark; plain or uneven."""
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
    """The same background with other grain, sometimes a little lighter or darker."""
    shift = rng.choice((0, 0, rng.randint(-6, 6)))
    r, g, b = (max(0, min(255, c + shift)) for c in look.colour)
    return replace(look, colour=(r, g, b), grain_seed=rng.getrandbits(31) // 2 * 2 + look.grain_seed % 2)


def tone_of(rng: random.Random, colour: str, look: Look) -> tuple[int, int, int]:
    """A tone (RGB) of a colour that stands out from the background, if one does; black for no colour."""
    if not colour:
        return 0, 0, 0
    tones = [tone for tone in TONES[colour] if _stands_out(tone, look)] or list(TONES[colour])
    r, g, b = (max(0, min(255, c + rng.randint(-9, 9))) for c in rng.choice(tones))
    return r, g, b


def _random_aspect(seed: int) -> float:
    """Width over height: 1 in four of ten, else from 1:2 to 2:1.

    Drawn from its own seed, so that the main random source is not advanced.
    """
    rng = random.Random(seed)
    return 1.0 if rng.random() < 0.4 else 2 ** rng.uniform(-1, 1)


def _large_item(rng: random.Random, look: Look, split: Split) -> Item:
    item = random_item(rng, look, 4, split=split)
    return replace(item, size=rng.uniform(0.4, 0.8), x=rng.uniform(0.42, 0.58), y=rng.uniform(0.42, 0.58))


def standing_out(colours: Sequence[str], look: Look) -> list[str]:
    """The colours with a tone that stands out from the background."""
    return [name for name in colours if any(_stands_out(tone, look) for tone in TONES[name])]


def _stands_out(tone: tuple[int, int, int], look: Look) -> bool:
    return sum(abs(a - b) for a, b in zip(tone, look.colour, strict=True)) > 110
