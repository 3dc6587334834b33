"""The pictures that training draws once and reuses: groups of scenes, their pixels and their patch labels.

Knows nothing about questions. Every group follows from its seed, so only pixels and labels are kept on disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edge_interleave.world.cast import COLOURS, KINDS, SEEN, SHAPES_ALONE, Cast
from edge_interleave.world.drawing import draw, item_map, sign_parts
from edge_interleave.world.groups import MAKERS, Group
from edge_interleave.world.scene import Scene

IMAGE_SIDE = 96
PATCH = 16
GRID = IMAGE_SIDE // PATCH
EMPTY, DOUBT = -1, -2
OF_FIRST = ("single", "change", "twins", "motion")
"""Kinds of groups that the first version's world had; a quarter of them is of shapes alone."""


@dataclass
class Pool:
    """Groups with their pixels (images, side, side, 3) uint8 and labels (images, grid, grid, 2) int8."""

    groups: list[Group]
    first_image: list[int]
    pixels: np.ndarray
    labels: np.ndarray
    effects: np.ndarray
    """Darkness, blur and noise of each picture, each about 0 ... 1: (images, 3) float32."""


def load_pool(folder: Path, counts: dict[str, int], seed: int, workers: int = 2) -> Pool:
    """The pool of that seed, drawn where the folder does not hold it yet."""
    groups = [group for kind in counts for group in _groups(kind, counts[kind], seed)]
    scenes = [scene for group in groups for scene in group.scenes]
    firsts = np.cumsum([0, *(len(group.scenes) for group in groups)])[:-1].tolist()
    tag = f"{seed}-" + "-".join(f"{kind}{count}" for kind, count in counts.items())
    pixels_path, labels_path = folder / f"pixels-{tag}.npy", folder / f"labels-{tag}.npy"
    if not labels_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _draw_all(scenes, pixels_path, labels_path, workers)
    effects = np.array([(s.effect.darkness / 0.65, s.effect.blur / 0.04, s.effect.noise / 48) for s in scenes])
    pixels = np.load(pixels_path, mmap_mode="r")
    return Pool(groups, firsts, pixels, np.load(labels_path), effects.astype(np.float32))


def picture(scene: Scene) -> np.ndarray:
    """The scene as the vision tower sees it: (96, 96, 3) uint8, resized as the runtime does."""
    return np.asarray(draw(scene).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))


def patch_labels(scene: Scene) -> np.ndarray:
    """For each patch what mainly lies there, its kind and colour: (grid, grid, 2) int8.

    A sign's patches are its digits or its word. EMPTY where nothing lies, DOUBT where it is little, and for the colour
    of what has none of its own.
    """
    parts = [part for sign in scene.signs for part in sign_parts(sign)]
    facts = [(KINDS.index(i.shape), COLOURS.index(i.colour) if i.colour else DOUBT) for i in scene.items]
    facts += [(KINDS.index(part), DOUBT) for part in parts]
    covered = item_map(scene, IMAGE_SIDE).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID, GRID, -1)
    labels = np.full((GRID, GRID, 2), EMPTY, np.int8)
    for row in range(GRID):
        for column in range(GRID):
            counts = np.bincount(covered[row, column], minlength=len(facts) + 1)[1:]
            if not len(counts):
                continue
            best = int(counts.argmax())
            if counts[best] >= 0.12 * PATCH * PATCH:
                labels[row, column] = facts[best]
            elif counts[best] > 0.02 * PATCH * PATCH:
                labels[row, column] = DOUBT
    return labels


def cast_of(kind: str, index: int) -> Cast:
    """Who appears in a group of the pool."""
    return SHAPES_ALONE if kind in OF_FIRST and index % 4 == 0 else SEEN


def _groups(kind: str, count: int, seed: int) -> Iterator[Group]:
    for index in range(count):
        yield MAKERS[kind](random.Random(f"train/{seed}/{kind}/{index}"), cast=cast_of(kind, index))


def _draw_all(scenes: list[Scene], pixels_path: Path, labels_path: Path, workers: int) -> None:
    partial = pixels_path.with_suffix(".partial.npy")
    pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(scenes), IMAGE_SIDE, IMAGE_SIDE, 3))
    labels = np.empty((len(scenes), GRID, GRID, 2), np.int8)
    with ProcessPoolExecutor(workers) as executor:
        for index, (image, label) in enumerate(executor.map(_draw_one, scenes, chunksize=200)):
            pixels[index], labels[index] = image, label
    pixels.flush()
    partial.rename(pixels_path)
    np.save(labels_path, labels)


def _draw_one(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    return picture(scene), patch_labels(scene)
