"""Two views of things that stand on the ground, from a camera that moves around them.

Things are upright pictures that face the camera; a pinhole camera at distance 4 and height 1.2 looks at the middle.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from edge_interleave.world import scene as world
from edge_interleave.world.drawing import HORIZON
from edge_interleave.world.scene import Item, Look, Scene
from edge_interleave.world.vocabulary import Split

DISTANCE = 4.0
HEIGHT = 1.2
FOCAL = 1.3
"""Focal length, in heights of the picture, which is square or wider."""
SOLID = ("circle", "square", "house", "bus", "book", "clock", "apple")
"""Things that can hide others."""
_PLACES_TRIED = 60
_SOLID_SHARE = 0.82
"""The share of a solid thing's square, each way, that the thing surely covers."""


@dataclass(frozen=True)
class View:
    """Two views of one place."""

    scenes: tuple[Scene, Scene]
    hidden: Item
    """The hidden thing, as the other view shows it."""
    hidden_in: int
    """Index of the view that hides it."""
    direction: str
    """`left` or `right`: where the camera moved from the first view to the second."""


@dataclass(frozen=True)
class _Thing:
    """An item on the ground, in units of DISTANCE across and away from the first camera."""

    item: Item
    across: float
    away: float
    size: float


def draw_views(rng: random.Random, split: Split) -> View:
    """Two views of two to four things; one thing is hidden in one view and visible in the other."""
    while (view := _try(rng, split)) is None:
        pass
    return view


def _try(rng: random.Random, split: Split) -> View | None:
    look = _ground(rng)
    blocker = world.random_item(rng, look, 4, rng.choice(SOLID), split=split)
    items, kinds = [_upright(blocker)], {blocker.shape}
    while len(items) < 4:
        item = world.random_item(rng, look, 4, split=split)
        if item.shape not in kinds:
            kinds.add(item.shape)
            items.append(_upright(item))
    away, across = rng.uniform(-0.4, 0.1), rng.uniform(-0.4, 0.4)
    behind = rng.uniform(1.1, 1.8)
    in_line = across * (DISTANCE + behind) / (DISTANCE + away)
    things = [
        _Thing(items[0], across, away, rng.uniform(1.1, 1.3)),
        _Thing(items[1], in_line, behind, rng.uniform(0.65, 0.8)),
    ]
    turn = rng.choice((-1, 1)) * rng.uniform(0.75, 1.15)
    before, after = _both(things, turn)
    if before is None or after is None or not _behind(before[1], before[0]) or _touch(after, 1):
        return None
    for item in items[2 : 2 + rng.choice((0, 1, 1, 2, 2))]:
        for _ in range(_PLACES_TRIED):
            new = _Thing(item, rng.uniform(-1.7, 1.7), rng.uniform(-1.2, 1.8), rng.uniform(0.55, 0.8))
            more_before, more_after = _both([*things, new], turn)
            if more_before and more_after and not _touch(more_before, -1) and not _touch(more_after, -1):
                things.append(new)
                before, after = more_before, more_after
                break
    before, after = _widened(before, look), _widened(after, look)
    scenes = _scene(before, look), _scene(after, look)
    if rng.random() < 0.5:
        return View(scenes, after[1], 0, "right" if turn > 0 else "left")
    return View(scenes[::-1], after[1], 1, "left" if turn > 0 else "right")


def _both(things: list[_Thing], turn: float) -> tuple[list[Item] | None, list[Item] | None]:
    """The things before and after the camera moved; None where a thing is cut off."""
    return _projected(things, 0.0), _projected(things, turn)


def _projected(things: list[_Thing], turn: float) -> list[Item] | None:
    """The things seen by a camera turned `turn` radians to the right; None if one is cut off."""
    sine, cosine = math.sin(turn), math.cos(turn)
    placed: list[Item] = []
    for thing in things:
        depth = _depth(thing, sine, cosine)
        size = FOCAL * thing.size / depth
        x = 0.5 + FOCAL * (thing.across * cosine + thing.away * sine) / depth
        foot = HORIZON + FOCAL * HEIGHT / depth
        if abs(x - 0.5) + size / 2 > 0.49 or foot > 0.99:
            return None
        placed.append(replace(thing.item, x=x, y=foot - size / 2, size=size))
    return placed


def _depth(thing: _Thing, sine: float, cosine: float) -> float:
    return DISTANCE - thing.across * sine + thing.away * cosine


def _widened(placed: list[Item], look: Look) -> list[Item]:
    """Positions in a wider picture, which shows more ground at both sides than a square one."""
    return [replace(item, x=0.5 + (item.x - 0.5) / look.aspect) for item in placed]


def _scene(placed: list[Item], look: Look) -> Scene:
    """The scene, farthest thing first: on one ground, the thing whose foot is highest in the picture."""
    return Scene(tuple(sorted(placed, key=lambda item: item.y + item.size / 2)), look)


def _behind(item: Item, blocker: Item) -> bool:
    """Whether the blocker's solid middle covers the item."""
    reach = (blocker.size * _SOLID_SHARE - item.size) / 2
    return abs(item.x - blocker.x) <= reach and abs(item.y - blocker.y) <= reach


def _touch(placed: list[Item], index: int) -> bool:
    """Whether an item's square overlaps another's by more than a quarter."""
    item = placed[index]
    for other in placed:
        reach = (item.size + other.size) / 2 - min(item.size, other.size) / 4
        if other is not item and abs(item.x - other.x) < reach and abs(item.y - other.y) < reach:
            return True
    return False


def _upright(item: Item) -> Item:
    return replace(item, angle=0.0, style="filled" if item.style == "outline" else item.style)


def _ground(rng: random.Random) -> Look:
    look = world.random_look(rng)
    light = rng.randint(205, 250)
    sky = light - rng.randint(0, 25), light - rng.randint(0, 12), light
    ground = tuple(light - rng.randint(20, 60) for _ in range(3))
    other = ground[0], ground[1], ground[2]
    return replace(look, kind="ground", colour=sky, other=other, blur=0.0, aspect=max(look.aspect, 1.0))
