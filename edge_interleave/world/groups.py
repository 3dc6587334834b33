"""Groups of scenes that belong together, and what ties them: one picture, a pair, a clip, views of one place.

Every group follows from its random source. Knows nothing about questions, pixels or tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_interleave.world import scene as world
from edge_interleave.world.cast import COLOURS, HELD_OUT_STYLE, NATURAL, SHAPES, SHAPES_ALONE, WORDS, Cast
from edge_interleave.world.scene import Effect, Item, Scene, Sign
from edge_interleave.world.strangers import HELD_OUT, STRANGE
from edge_interleave.world.views import View, draw_views

CHANGES = ("recolour", "reshape", "move", "appear", "disappear")
LONG_CLIP = 24
"""Frames of a long clip."""
STRANGE_WEIGHTS = (30, 13, 8, 10, 10, 10, 13, 6)
"""How often a strange picture is of each kind of STRANGE."""
EFFECTS = ("darkest", "blurriest", "noisiest")


@dataclass(frozen=True)
class Change:
    """What became different from one scene to the next; `before` or `after` is None where an item is new or gone."""

    kind: str
    """One of CHANGES."""
    before: Item | None
    after: Item | None


@dataclass(frozen=True)
class Group:
    """Scenes that belong together, and what ties them."""

    kind: str
    scenes: tuple[Scene, ...]
    change: str = ""
    before: Item | None = None
    after: Item | None = None
    direction: str = ""
    """Where an item goes, or the camera."""
    story: tuple[Change, ...] = ()
    """What happens from each scene to the next."""
    hidden_in: int = 0
    """Of two views, the one in which `before` is hidden."""


def single(rng: random.Random, cast: Cast = SHAPES_ALONE) -> Group:
    """One picture."""
    return Group("single", (world.random_scene(rng, cast=cast),))


def change_pair(rng: random.Random, cast: Cast = SHAPES_ALONE) -> Group:
    """Two pictures of one place and what became different."""
    first = world.random_scene(rng, rng.choices((1, 2, 3, 4), (25, 35, 25, 15))[0], cast)
    second, change = _next(rng, first, cast)
    return Group("change", (first, second), change.kind, change.before, change.after)


def twin_pair(rng: random.Random, cast: Cast = SHAPES_ALONE) -> Group:
    """Two unrelated pictures that share one item's colour and shape, at whatever places."""
    first = world.random_scene(rng, rng.choice((1, 2, 3)), cast)
    second = world.random_scene(rng, rng.choice((1, 2, 3)), cast)
    shared = rng.choice(first.items)
    keep = list(second.items)[:-1]
    taken = {item.place for item in keep}
    place = rng.choice([i for i, name in enumerate(world.PLACES) if name not in taken])
    twin = world.random_item(rng, second.look, place, shared.shape, shared.colour, cast=cast)
    return Group("twins", (first, world.arranged([*keep, twin], second.look)), before=shared, after=twin)


def motion(rng: random.Random, frames: int | None = None, cast: Cast = SHAPES_ALONE) -> Group:
    """A clip of an item that moves one way."""
    scenes, item, direction = world.motion_clip(rng, frames or rng.choice((3, 4, 4, 5, 6, 8)), cast)
    return Group("motion", tuple(scenes), before=item, direction=direction)


def arrivals(rng: random.Random, cast: Cast) -> Group:
    """A place in which two or three items appear, one after another, and stay: a scene for each state."""
    scenes = [world.random_scene(rng, rng.choice((1, 1, 2)), cast)]
    story: list[Change] = []
    for _ in range(rng.choice((2, 3))):
        names = {item.shape for item in scenes[-1].items}
        while True:
            item = world.random_item(rng, scenes[0].look, world.free_place(rng, scenes[-1]), cast=cast)
            if item.shape not in names:
                break
        look = world.random_look_like(rng, scenes[0].look)
        scenes.append(world.arranged([*scenes[-1].items, item], look))
        story.append(Change("appear", None, item))
    return Group("arrivals", tuple(scenes), story=tuple(story))


def story(rng: random.Random, cast: Cast) -> Group:
    """Three scenes of one place, and what happens from each to the next; a name means one thing throughout."""
    while True:
        scenes = [world.random_scene(rng, rng.choice((1, 1, 2)), cast)]
        changes: list[Change] = []
        for _ in range(2):
            scene, change = _next(rng, scenes[-1], cast)
            scenes.append(scene)
            changes.append(change)
        if all(len({item.name for item in scene.items}) == len(scene.items) for scene in scenes):
            return Group("story", tuple(scenes), story=tuple(changes))


def quality(rng: random.Random, cast: Cast) -> Group:
    """One scene four times: as it is, darker, blurrier and noisier."""
    scene = world.random_scene(rng, rng.choice((1, 2, 3)), cast)
    scene = replace(scene, look=replace(scene.look, kind="plain", blur=0.0))
    effects = (
        Effect(),
        Effect(darkness=rng.uniform(0.35, 0.65)),
        Effect(blur=rng.uniform(0.018, 0.04)),
        Effect(noise=rng.uniform(26, 48)),
    )
    return Group("quality", tuple(replace(scene, effect=effect) for effect in effects))


def sign(rng: random.Random, cast: Cast) -> Group:
    """A picture with a word or a number on a plate, and up to two items in the other rows."""
    look = world.random_look(rng)
    row = rng.randrange(3)
    made = _sign(rng, cast, x=0.5 + rng.uniform(-0.08, 0.08), y=(row + 0.5) / 3, widths=(0.5, 0.75))
    free = [place for place in range(9) if place // 3 != row]
    items = [world.random_item(rng, look, place, cast=cast) for place in rng.sample(free, rng.choice((0, 1, 1, 2)))]
    return Group("sign", (replace(world.arranged(items, look), signs=(made,)),))


def puzzle(rng: random.Random, cast: Cast) -> Group:
    """Three rows of three: a shape for each row and a colour for each column, or the other way; the last is missing.

    `after` is the missing item. After RAVEN (Zhang et al. 2019), with two of its attributes.
    """
    look = replace(world.random_look(rng), kind="plain")
    while len(colours := _standing_out(rng, look)) < 3:
        look = replace(world.random_look(rng), kind="plain")
    shapes = rng.sample(SHAPES, 3)
    by_row = rng.random() < 0.5
    items = []
    for place in range(9):
        row, column = divmod(place, 3) if by_row else divmod(place, 3)[::-1]
        item = world.random_item(rng, look, place, shapes[row], colours[column], cast=cast)
        items.append(replace(item, angle=0.0, style="filled"))
    return Group("puzzle", (Scene(tuple(items[:-1]), look),), after=items[-1])


def views(rng: random.Random, cast: Cast) -> Group:
    """Two views of things that stand on the ground; one of the two hides a thing. `before` is that thing."""
    seen: View = draw_views(rng, cast)
    return Group("views", seen.scenes, before=seen.hidden, direction=seen.direction, hidden_in=seen.hidden_in)


def patches(rng: random.Random, cast: Cast) -> Group:
    """One large picture as overview and four tiles, row by row; what is in it is small."""
    look = replace(world.random_look(rng), side=384, blur=0.0)
    signs: list[Sign] = []
    items: list[Item] = []
    for quarter in range(4):
        x, y = 0.25 + 0.5 * (quarter % 2) + rng.uniform(-0.03, 0.03), 0.25 + 0.5 * (quarter // 2)
        y += rng.uniform(-0.08, 0.08)
        if rng.random() < 0.45:
            signs.append(_sign(rng, cast, x, y, widths=(0.24, 0.36)))
        else:
            item = world.random_item(rng, look, 0, cast=cast)
            items.append(replace(item, x=x, y=y, size=rng.uniform(0.13, 0.19)))
    whole = Scene(tuple(items), look, tuple(signs))
    crops = [(x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    return Group("patches", (whole, *(replace(whole, crop=crop) for crop in crops)))


def free(rng: random.Random, cast: Cast) -> Group:
    """One picture whose things lie anywhere."""
    return Group("free", (world.free_scene(rng, cast),))


def sizes(rng: random.Random, cast: Cast) -> Group:
    """One picture of two to four things that differ in name, anywhere."""
    while True:
        scene = world.free_scene(rng, cast, same=1)
        if len({item.name for item in scene.items}) == len(scene.items) > 1:
            return Group("sizes", (scene,))


def blank(rng: random.Random, cast: Cast) -> Group:
    """One picture of nothing."""
    return Group("blank", (world.blank_scene(rng),))


def strange(rng: random.Random, cast: Cast) -> Group:
    """One picture of something that the world has not; in a new style something that training never sees."""
    kind = rng.choices(STRANGE, STRANGE_WEIGHTS)[0]
    held_out = HELD_OUT_STYLE in cast.styles
    look = replace(world.free_look(rng), side=rng.choice((144, 192, 256)))
    return Group("strange", (Scene((), look, strange=HELD_OUT * held_out + kind),))


MAKERS: dict[str, Callable[..., Group]] = {
    "single": single,
    "change": change_pair,
    "twins": twin_pair,
    "motion": lambda rng, cast=SHAPES_ALONE: motion(rng, cast=cast),
    "glide": lambda rng, cast=SHAPES_ALONE: motion(rng, LONG_CLIP, cast),
    "arrivals": arrivals,
    "story": story,
    "quality": quality,
    "sign": sign,
    "puzzle": puzzle,
    "views": views,
    "patches": patches,
    "free": free,
    "sizes": sizes,
    "blank": blank,
    "strange": strange,
}
"""Each takes a random source and a cast."""


def _next(rng: random.Random, first: Scene, cast: Cast) -> tuple[Scene, Change]:
    """A moment later: the scene with one change."""
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
        before, after = None, world.random_item(rng, first.look, world.free_place(rng, first), cast=cast)
        rest = list(first.items)
    elif kind == "disappear":
        after = None
    elif kind == "move":
        after = world.moved(rng, item, world.free_place(rng, first))
    elif kind == "recolour":
        after = world.recoloured(rng, item, first.look, cast)
    else:
        after = world.reshaped(rng, item, cast)
    second = world.arranged(rest if after is None else [*rest, after], world.random_look_like(rng, first.look))
    return second, Change(kind, before, after)


def _sign(rng: random.Random, cast: Cast, x: float, y: float, widths: tuple[float, float]) -> Sign:
    text = str(cast.number(rng)) if cast.held_out or rng.random() < 0.5 else rng.choice(WORDS)
    width = rng.uniform(*widths) * (0.72 if len(text) < 4 else 1.0)
    dark, light = (rng.randint(0, 70) for _ in range(3)), (rng.randint(200, 255) for _ in range(3))
    ink, plate = tuple(dark), tuple(light)
    if rng.random() < 0.35:
        ink, plate = plate, ink
    return Sign(text, x, y, width, rng.choice(cast.letterings), _rgb(ink), _rgb(plate))


def _rgb(values: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = values
    return red, green, blue


def _standing_out(rng: random.Random, look: world.Look) -> list[str]:
    colours = world.standing_out(COLOURS, look)
    return rng.sample(colours, min(3, len(colours)))
