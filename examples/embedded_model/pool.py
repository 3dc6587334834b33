"""The pool: pictures that training draws once and reuses, as groups of scenes with pixels and patch labels.

Several processes draw at the same time, each a share of the groups, into one array file; training can use finished
rows meanwhile. Seeds determine the groups, so only the arrays are stored.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from edge_interleave.world import unknown_pictures
from edge_interleave.world.drawing import draw, item_map, sign_parts
from edge_interleave.world.groups import MAKERS, Group
from edge_interleave.world.scene import Scene
from edge_interleave.world.vocabulary import COLOURS, KINDS, SHAPES_ALONE, THINGS, TRAIN, Split

IMAGE_SIDE = 144
PATCH = 24
GRID = IMAGE_SIDE // PATCH
EMPTY, DOUBT = -1, -2
WITH_SHAPES_ALONE = ("single", "change", "twins", "motion")
"""Kinds of groups of which a quarter holds shapes alone."""
EFFECTS = 4
"""Targets for a whole picture: darkness, blur, noise, and whether it is an unknown picture."""
ITEMS = 12
"""Most things listed for a picture."""
CENTRES = 4
"""Classes of the number of things whose centre lies in a patch: 0, 1, 2, more."""
FINE = 20
"""Parts of a patch in which the labels say where a thing's centre lies, and its size."""
SEEN, CLEAR = 0.02, 0.12
"""Shares of a patch. A thing that covers less than SEEN is not there; less than CLEAR is in doubt, but for its largest
part."""
_AT_ONCE = 50
"""Pictures drawn between two checks of the clock."""
unknown_pictures.training_folder = Path(__file__).with_name("unknown")


@dataclass
class Share:
    """The groups that one process draws and asks about."""

    groups: list[Group]
    first_image: list[int]
    """For each group, the row of its first picture in the arrays."""
    images: int
    """Number of pictures in the groups."""


@dataclass
class Arrays:
    """Drawn pictures and their targets, memory-mapped; `images` rows each."""

    pixels: np.ndarray
    """(images, side, side, 3) uint8."""
    labels: np.ndarray
    """(images, grid, grid, 6) int8, as `patch_labels`."""
    items: np.ndarray
    """(images, ITEMS, 2) int8, as `listed_items`."""
    effects: np.ndarray
    """(images, EFFECTS) float32, each about 0 ... 1."""


def share_of(counts: dict[str, int], seed: int, number: int, shares: int) -> Share:
    """The groups of process `number` of `shares`, shuffled, so that every prefix holds all kinds."""
    groups = [
        MAKERS[kind](random.Random(f"train/{seed}/{kind}/{index}"), split=split_of(kind, index))
        for kind, count in counts.items()
        for index in range(number, count, shares)
    ]
    random.Random(f"order/{seed}/{number}").shuffle(groups)
    firsts = np.cumsum([0, *(len(group.scenes) for group in groups)]).tolist()
    return Share(groups, firsts[:-1], firsts[-1])


def open_arrays(folder: Path, tag: str, images: int, *, new: bool = False) -> Arrays:
    """Open the arrays for `images` pictures; `new` creates missing ones."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "pixels": (np.uint8, (images, IMAGE_SIDE, IMAGE_SIDE, 3)),
        "labels": (np.int8, (images, GRID, GRID, 6)),
        "items": (np.int8, (images, ITEMS, 2)),
        "effects": (np.float32, (images, EFFECTS)),
    }
    opened = {}
    for name, (dtype, shape) in shapes.items():
        path = folder / f"{name}-{tag}.npy"
        if new and not path.exists():
            np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
        opened[name] = np.load(path, mmap_mode="r+")
    return Arrays(**opened)


def draw_share(
    share: Share, offset: int, arrays: Arrays, done: Path, told: Callable[[int], None], until: float | None = None
) -> None:
    """Draw a share's pictures into its rows, from row `offset` on; resumes at the count in the file `done`.

    `told` is called with the number of drawn pictures. After `until` (time.monotonic()), drawing stops, and groups that
    are not drawn are dropped from the share.
    """
    scenes = [scene for group in share.groups for scene in group.scenes]
    drawn = int(done.read_text()) if done.exists() else 0
    told(drawn)
    while drawn < len(scenes) and (until is None or time.monotonic() < until):
        for plain in scenes[drawn : drawn + _AT_ONCE]:
            row, scene = offset + drawn, varied(plain)
            arrays.pixels[row], arrays.labels[row] = picture(scene), patch_labels(scene)
            arrays.items[row], arrays.effects[row] = listed_items(scene), effects_of(scene)
            drawn += 1
        done.write_text(str(drawn))
        told(drawn)
    whole = sum(first + len(g.scenes) <= drawn for g, first in zip(share.groups, share.first_image, strict=True))
    share.groups[whole:] = []
    share.first_image[:] = [offset + first for first in share.first_image[:whole]]


def varied(scene: Scene) -> Scene:
    """The scene with other drawings of half of its things, the same ones wherever a thing recurs.

    Unknown emoji are varied too; if these were not, the model would take every unusual drawing for unknown.
    """
    items = []
    for item in scene.items:
        seed = zlib.crc32(repr((item.shape, item.tone, item.size, item.angle)).encode())
        items.append(replace(item, variant=seed) if item.shape in THINGS and seed % 2 else item)
    return replace(scene, items=tuple(items))


def picture(scene: Scene) -> np.ndarray:
    """The vision tower's input: (side, side, 3) uint8, resized as the runtime resizes."""
    return np.asarray(draw(scene).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))


def effects_of(scene: Scene) -> tuple[float, ...]:
    """The EFFECTS targets of a picture, each about 0 to 1."""
    effect = scene.effect
    return effect.darkness / 0.65, effect.blur / 0.04, effect.noise / 48, float(bool(scene.unknown))


def patch_labels(scene: Scene) -> np.ndarray:
    """For each patch, what mainly covers it: (grid, grid, 6) int8.

    The last axis: kind; colour; how many centres of things the patch holds, up to CENTRES - 1; how far right of and
    below the patch's middle the centre of the covering thing lies, and the thing's size, in FINE parts of a patch
    (0 for signs). The last four tell two things side by side from a large one. A sign's patches are its digits or its
    word. EMPTY where nothing lies; DOUBT where little does, unless it is the thing's largest part, for the colour of a
    thing in its own colours, and everywhere in an unknown picture.
    """
    if scene.unknown:
        return np.full((GRID, GRID, 6), (DOUBT, DOUBT, 0, 0, 0, 0), np.int8)
    parts = [part for sign in scene.signs for part in sign_parts(sign)]
    facts = [(KINDS.index(i.shape), COLOURS.index(i.colour) if i.colour else DOUBT) for i in scene.items]
    facts += [(KINDS.index(part), DOUBT) for part in parts]
    covered = item_map(scene, IMAGE_SIDE).reshape(GRID, PATCH, GRID, PATCH).swapaxes(1, 2).reshape(GRID, GRID, -1)
    labels = np.full((GRID, GRID, 6), (EMPTY, EMPTY, 0, 0, 0, 0), np.int8)
    left, top, right, bottom = scene.crop
    spots = []
    for item in scene.items:
        x, y = (item.x - left) / (right - left), (item.y - top) / (bottom - top)
        spots.append((x * GRID, y * GRID, item.size / (right - left) * GRID))
        if 0 <= x < 1 and 0 <= y < 1:
            at = int(y * GRID), int(x * GRID)
            labels[(*at, 2)] = min(labels[(*at, 2)] + 1, CENTRES - 1)
    if not facts:
        return labels
    cells = np.arange(GRID * GRID)[:, None] * (len(facts) + 1)
    counts = np.bincount((cells + covered.reshape(GRID * GRID, -1)).ravel(), minlength=GRID * GRID * (len(facts) + 1))
    counts = counts.reshape(GRID * GRID, -1)[:, 1:]
    # A small thing across a corner covers little of each patch: its largest part stands for it.
    homes = counts.argmax(0)
    for patch in np.flatnonzero(counts.max(1) > SEEN * PATCH * PATCH):
        best = int(counts[patch].argmax())
        row, column = divmod(int(patch), GRID)
        if counts[patch, best] < CLEAR * PATCH * PATCH and homes[best] != patch:
            labels[row, column, :2] = DOUBT
            continue
        labels[row, column, :2] = facts[best]
        if best < len(spots):
            x, y, size = spots[best]
            labels[row, column, 3:] = (np.array((x - column - 0.5, y - row - 0.5, size)) * FINE).round().clip(-127, 127)
    return labels


def listed_items(scene: Scene) -> np.ndarray:
    """Kind and colour of each thing with its centre in a picture, -1 for none: (ITEMS, 2) int8."""
    listed = np.full((ITEMS, 2), -1, np.int8)
    left, top, right, bottom = scene.crop
    inside = [item for item in scene.items if left <= item.x < right and top <= item.y < bottom]
    for number, item in enumerate(inside[:ITEMS]):
        listed[number] = KINDS.index(item.shape), COLOURS.index(item.colour) if item.colour else -1
    return listed


def split_of(kind: str, index: int) -> Split:
    """The split of a group of the pool."""
    return SHAPES_ALONE if kind in WITH_SHAPES_ALONE and index % 4 == 0 else TRAIN
