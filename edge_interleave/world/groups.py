"""Groups of scenes that belong together: one picture, a pair, a clip, views of one place.

A group is determined by its random source.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_interleave.world import scene as world
from edge_interleave.world.scene import Effect, Item, Scene, Sign
from edge_interleave.world.unknown_pictures import HELD_OUT, UNKNOWN_KINDS
from edge_interleave.world.views import View, draw_views
from edge_interleave.world.vocabulary import COLOURS, HELD_OUT_STYLE, NATURAL, SHAPES, SHAPES_ALONE, WORDS, Split

CHANGES = ("recolour", "reshape", "move", "appear", "disappear")
LONG_CLIP = 24
"""Frames of a long clip."""
UNKNOWN_WEIGHTS = (22, 9, 6, 8, 17, 9, 14, 15)
"""Relative frequency of each kind of UNKNOWN_KINDS."""
EFFECTS = ("darkest", "blurriest", "noisiest")


@dataclass(frozen=True)
class Change:
    """The difference between two scenes; `before` is None for a new item, `after` for a removed one."""

    kind: str
    """One of CHANGES."""
    before: Item | None
    after: Item | None


@dataclass(frozen=True)
class Group:
    """Scenes that belong together, and how."""

    kind: str
    scenes: tuple[Scene, ...]
    change: str = ""
    before: Item | None = None
    after: Item | None = None
    direction: str = ""
    """Where an item moves, or the camera."""
    story: tuple[Change, ...] = ()
    """The change from each scene to the next."""
    hidden_in: int = 0
    """Index of the view that hides `before`."""


def single(rng: random.Random, split: Split = SHAPES_ALONE) -> Group:
    """One picture."""
    return Group("single", (world.random_scene(rng, split=split),))


def change_pair(rng: random.Random, split: Split = SHAPES_ALONE) -> Group:
    """Two pictures of one place, with one change."""
    first = world.random_scene(rng, rng.choices((1, 2, 3, 4), (25, 35, 25, 15))[0], split)
    second, change = _next(rng, first, split)
    return Group("change", (first, second), change.kind, change.before, change.after)


def twin_pair(rng: random.Random, split: Split = SHAPES_ALONE) -> Group:
    """Two unrelated pictures that both show an item of one colour and shape."""
    first = world.random_scene(rng, rng.choice((1, 2, 3)), split)
    second = world.random_scene(rng, rng.choice((1, 2, 3)), split)
    shared = rng.choice(first.items)
    keep = list(second.items)[:-1]
    taken = {item.place for item in keep}
    place = rng.choice([i for i, name in enumerate(world.PLACES) if name not in taken])
    twin = world.random_item(rng, second.look, place, shared.shape, shared.colour, split=split)
    return Group("twins", (first, world.arranged([*keep, twin], second.look)), before=shared, after=twin)


def motion(rng: random.Random, frames: int | None = None, split: Split = SHAPES_ALONE) -> Group:
    """A clip of an item that moves in one direction."""
    scenes, item, direction = world.motion_clip(rng, frames or rng.choice((3, 4, 4, 5, 6, 8)), split)
    return Group("motion", tuple(scenes), before=item, direction=direction)


def arrivals(rng: random.Random, split: Split) -> Group:
    """A place where two or three items appear, one after another, and stay; one scene for each state."""
    scenes = [world.random_scene(rng, rng.choice((1, 1, 2)), split)]
    story: list[Change] = []
    for _ in range(rng.choice((2, 3))):
        names = {item.shape for item in scenes[-1].items}
        while True:
            item = world.random_item(rng, scenes[0].look, world.free_place(rng, scenes[-1]), split=split)
            if item.shape not in names:
                break
        look = world.random_look_like(rng, scenes[0].look)
        scenes.append(world.arranged([*scenes[-1].items, item], look))
        story.append(Change("appear", None, item))
    return Group("arrivals", tuple(scenes), story=tuple(story))


def story(rng: random.Random, split: Split) -> Group:
    """Three scenes of one place, with one change between each; no scene has two items of one name."""
    while True:
        scenes = [world.random_scene(rng, rng.choice((1, 1, 2)), split)]
        changes: list[Change] = []
        for _ in range(2):
            scene, change = _next(rng, scenes[-1], split)
            scenes.append(scene)
            changes.append(change)
        if all(len({item.name for item in scene.items}) == len(scene.items) for scene in scenes):
            return Group("story", tuple(scenes), story=tuple(changes))


def quality(rng: random.Random, split: Split) -> Group:
    """One scene four times: unchanged, darker, blurrier, noisier."""
    scene = world.random_scene(rng, rng.choice((1, 2, 3)), split)
    scene = replace(scene, look=replace(scene.look, kind="plain", blur=0.0))
    effects = (
        Effect(),
        Effect(darkness=rng.uniform(0.35, 0.65)),
        Effect(blur=rng.uniform(0.018, 0.04)),
        Effect(noise=rng.uniform(26, 48)),
    )
    return Group("quality", tuple(replace(scene, effect=effect) for effect in effects))


def sign(rng: random.Random, split: Split) -> Group:
    """A picture with a sign, and up to two items in the other rows."""
    look = world.random_look(rng)
    row = rng.randrange(3)
    made = _sign(rng, split, x=0.5 + rng.uniform(-0.08, 0.08), y=(row + 0.5) / 3, widths=(0.5, 0.75))
    free = [place for place in range(9) if place // 3 != row]
    items = [world.random_item(rng, look, place, split=split) for place in rng.sample(free, rng.choice((0, 1, 1, 2)))]
    return Group("sign", (replace(world.arranged(items, look), signs=(made,)),))


def puzzle(rng: random.Random, split: Split) -> Group:
    """A 3 x 3 matrix whose last item, `after`, is missing: shapes by row and colours by column, or the other way.

    Source: RAVEN (Zhang et al. 2019), with two of its attributes.
    """
    look = replace(world.random_look(rng), kind="plain")
    while len(colours := _standing_out(rng, look)) < 3:
        look = replace(world.random_look(rng), kind="plain")
    shapes = rng.sample(SHAPES, 3)
    by_row = rng.random() < 0.5
    items = []
    for place in range(9):
        row, column = divmod(place, 3) if by_row else divmod(place, 3)[::-1]
        item = world.random_item(rng, look, place, shapes[row], colours[column], split=split)
        items.append(replace(item, angle=0.0, style="filled"))
    return Group("puzzle", (Scene(tuple(items[:-1]), look),), after=items[-1])


def views(rng: random.Random, split: Split) -> Group:
    """Two views of things on the ground; one view hides the thing `before`."""
    seen: View = draw_views(rng, split)
    return Group("views", seen.scenes, before=seen.hidden, direction=seen.direction, hidden_in=seen.hidden_in)


def patches(rng: random.Random, split: Split) -> Group:
    """One large picture of small things, as overview and four tiles, row by row."""
    look = replace(world.random_look(rng), side=384, blur=0.0)
    signs: list[Sign] = []
    items: list[Item] = []
    for quarter in range(4):
        x, y = 0.25 + 0.5 * (quarter % 2) + rng.uniform(-0.03, 0.03), 0.25 + 0.5 * (quarter // 2)
        y += rng.uniform(-0.08, 0.08)
        if rng.random() < 0.45:
            signs.append(_sign(rng, split, x, y, widths=(0.24, 0.36)))
        else:
            item = world.random_item(rng, look, 0, split=split)
            items.append(replace(item, x=x, y=y, size=rng.uniform(0.13, 0.19)))
    whole = Scene(tuple(items), look, tuple(signs))
    crops = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    return Group("patches", (whole, *(replace(whole, crop=crop) for crop in crops)))


def free(rng: random.Random, split: Split) -> Group:
    """One picture with things anywhere."""
    return Group("free", (world.free_scene(rng, split),))


def crowd(rng: random.Random, split: Split) -> Group:
    """One picture with many small things anywhere."""
    return Group("crowd", (world.crowded_scene(rng, split),))


def sizes(rng: random.Random, split: Split) -> Group:
    """One picture with two or more things anywhere, no two of one name."""
    while True:
        scene = world.free_scene(rng, split, same=1)
        if len({item.name for item in scene.items}) == len(scene.items) > 1:
            return Group("sizes", (scene,))


def blank(rng: random.Random, split: Split) -> Group:
    """One empty picture."""
    return Group("blank", (world.blank_scene(rng),))


def unknown(rng: random.Random, split: Split) -> Group:
    """One picture outside the world; a held-out one if the split has the held-out style."""
    kind = rng.choices(UNKNOWN_KINDS, UNKNOWN_WEIGHTS)[0]
    held_out = HELD_OUT_STYLE in split.styles
    look = replace(world.free_look(rng), side=rng.choice((144, 192, 256)))
    return Group("strange", (Scene((), look, unknown=HELD_OUT * held_out + kind),))


MAKERS: dict[str, Callable[..., Group]] = {
    "single": single,
    "change": change_pair,
    "twins": twin_pair,
    "motion": lambda rng, split=SHAPES_ALONE: motion(rng, split=split),
    "glide": lambda rng, split=SHAPES_ALONE: motion(rng, LONG_CLIP, split),
    "arrivals": arrivals,
    "story": story,
    "quality": quality,
    "sign": sign,
    "puzzle": puzzle,
    "views": views,
    "patches": patches,
    "free": free,
    "crowd": crowd,
    "sizes": sizes,
    "blank": blank,
    "strange": unknown,
}
"""By kind; each takes a random source and a split. Kinds are part of the seeds of training, so they stay."""


def _next(rng: random.Random, first: Scene, split: Split) -> tuple[Scene, Change]:
    """The scene after one change, and the change."""
    kind = rng.choice(CHANGES)
    if kind == "disappear" and len(first.items) == 1:
        kind = "appear"
    item = rng.choice(first.items)
    if kind == "recolour" and item.shape in NATURAL:
        kind = "move"
    rest = [other for other in first.items if other is not item]
    before: Item | None = item
    after: Item | None
    if kind == "appear":
        before, after = None, world.random_item(rng, first.look, world.free_place(rng, first), split=split)
        rest = list(first.items)
    elif kind == "disappear":
        after = None
    elif kind == "move":
        after = world.moved(rng, item, world.free_place(rng, first))
    elif kind == "recolour":
        after = world.recoloured(rng, item, first.look, split)
    else:
        after = world.reshaped(rng, item, split)
    second = world.arranged(rest if after is None else [*rest, after], world.random_look_like(rng, first.look))
    return second, Change(kind, before, after)


def _sign(rng: random.Random, split: Split, x: float, y: float, widths: tuple[float, float]) -> Sign:
    text = str(split.number(rng)) if split.held_out or rng.random() < 0.5 else rng.choice(WORDS)
    width = rng.uniform(*widths) * (0.72 if len(text) < 4 else 1.0)
    dark, light = (rng.randint(0, 70) for _ in range(3)), (rng.randint(200, 255) for _ in range(3))
    ink, plate = tuple(dark), tuple(light)
    if rng.random() < 0.35:
        ink, plate = plate, ink
    return Sign(text, x, y, width, rng.choice(split.letterings), _rgb(ink), _rgb(plate))


def _rgb(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _standing_out(rng: random.Random, look: world.Look) -> list[str]:
    colours = world.standing_out(COLOURS, look)
    return rng.sample(colours, min(3, len(colours)))
