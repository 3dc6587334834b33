"""The pictures that training draws once and reuses: groups of scenes, their pixels and their patch labels.

A group is one picture, a pair (something changed, or both share an item) or a clip. Knows nothing about questions.
Every group follows from its seed, so only pixels and labels are kept on disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import world
from PIL import Image

IMAGE_SIDE = 96
PATCH = 16
GRID = IMAGE_SIDE // PATCH
CHANGES = ("recolour", "reshape", "move", "appear", "disappear")


@dataclass(frozen=True)
class Group:
    """Scenes that belong together, and what ties them."""

    kind: str
    """`single`, `change`, `twins` or `motion`."""
    scenes: tuple[world.Scene, ...]
    change: str = ""
    before: world.Item | None = None
    after: world.Item | None = None
    direction: str = ""


def single(rng: random.Random) -> Group:
    """One picture."""
    return Group("single", (world.random_scene(rng),))


def change_pair(rng: random.Random) -> Group:
    """Two pictures of one place and what became different; `before` or `after` is None where an item is new or gone."""
    first = world.random_scene(rng, rng.choices((1, 2, 3, 4), (25, 35, 25, 15))[0])
    kind = rng.choice(CHANGES)
    if kind == "disappear" and len(first.items) == 1:
        kind = "appear"
    item = rng.choice(first.items)
    rest = [other for other in first.items if other is not item]
    if kind == "appear":
        before, after = None, world.random_item(rng, first.look, world.free_place(rng, first))
        rest = list(first.items)
    elif kind == "disappear":
        before, after = item, None
    elif kind == "move":
        before, after = item, world.moved(rng, item, world.free_place(rng, first))
    elif kind == "recolour":
        before, after = item, world.recoloured(rng, item, first.look)
    else:
        before, after = item, world.reshaped(rng, item)
    second = world.arranged(rest if after is None else [*rest, after], world.random_look_like(rng, first.look))
    return Group("change", (first, second), kind, before, after)


def twin_pair(rng: random.Random) -> Group:
    """Two unrelated pictures that share one item's colour and shape, at whatever places."""
    first = world.random_scene(rng, rng.choice((1, 2, 3)))
    second = world.random_scene(rng, rng.choice((1, 2, 3)))
    shared = rng.choice(first.items)
    keep = list(second.items)[:-1]
    taken = {item.place for item in keep}
    place = rng.choice([i for i, name in enumerate(world.PLACES) if name not in taken])
    twin = world.random_item(rng, second.look, place, shared.shape, shared.colour)
    return Group("twins", (first, world.arranged([*keep, twin], second.look)), before=shared, after=twin)


def motion(rng: random.Random, frames: int | None = None) -> Group:
    """A clip of an item that moves one way."""
    scenes, item, direction = world.motion_clip(rng, frames or rng.choice((3, 4, 4, 5, 6, 8)))
    return Group("motion", tuple(scenes), before=item, direction=direction)


MAKERS = {"single": single, "change": change_pair, "twins": twin_pair, "motion": motion}


@dataclass
class Pool:
    """Groups with their pixels (images, side, side, 3) uint8 and labels (images, grid, grid, 2) int8."""

    groups: list[Group]
    first_image: list[int]
    pixels: np.ndarray
    labels: np.ndarray


def load_pool(folder: Path, counts: dict[str, int], seed: int, workers: int = 2) -> Pool:
    """The pool of that seed, drawn where the folder does not hold it yet."""
    groups = [group for kind in counts for group in _groups(kind, counts[kind], seed)]
    firsts, total = [], 0
    for group in groups:
        firsts.append(total)
        total += len(group.scenes)
    tag = f"{seed}-" + "-".join(f"{kind}{count}" for kind, count in counts.items())
    pixels_path, labels_path = folder / f"pixels-{tag}.npy", folder / f"labels-{tag}.npy"
    if not labels_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw_all(groups, pixels_path, labels_path, total, workers)
    return Pool(groups, firsts, np.load(pixels_path, mmap_mode="r"), np.load(labels_path))


def picture(scene: world.Scene) -> np.ndarray:
    """The scene as the vision tower sees it: (96, 96, 3) uint8, resized as the runtime does."""
    return np.asarray(world.draw(scene).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))


def patch_labels(scene: world.Scene) -> np.ndarray:
    """For each patch its main item's shape and colour: (grid, grid, 2) int8; -1 where empty, -2 where in doubt."""
    covered = world.item_map(scene, IMAGE_SIDE).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID, GRID, -1)
    labels = np.full((GRID, GRID, 2), -1, np.int8)
    for row in range(GRID):
        for column in range(GRID):
            counts = np.bincount(covered[row, column], minlength=len(scene.items) + 1)[1:]
            best = int(counts.argmax())
            if counts[best] >= 0.12 * PATCH * PATCH:
                item = scene.items[best]
                labels[row, column] = world.SHAPES.index(item.shape), world.COLOURS.index(item.colour)
            elif counts[best] > 0.02 * PATCH * PATCH:
                labels[row, column] = -2
    return labels


def _groups(kind: str, count: int, seed: int) -> Iterator[Group]:
    for index in range(count):
        yield MAKERS[kind](random.Random(f"{seed}/{kind}/{index}"))


def _draw_all(groups: list[Group], pixels_path: Path, labels_path: Path, total: int, workers: int) -> None:
    partial = pixels_path.with_suffix(".partial.npy")
    pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (total, IMAGE_SIDE, IMAGE_SIDE, 3))
    labels = np.empty((total, GRID, GRID, 2), np.int8)
    scenes = [scene for group in groups for scene in group.scenes]
    with ProcessPoolExecutor(workers) as executor:
        for index, (image, label) in enumerate(executor.map(_draw_one, scenes, chunksize=200)):
            pixels[index], labels[index] = image, label
    pixels.flush()
    partial.rename(pixels_path)
    np.save(labels_path, labels)


def _draw_one(scene: world.Scene) -> tuple[np.ndarray, np.ndarray]:
    return picture(scene), patch_labels(scene)
