"""Draw the pictures and the clip of `edge-interleave demo` and write its script.

python examples/embedded_model/make_tour.py edge_interleave/embedded/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np

from edge_interleave.world.drawing import draw
from edge_interleave.world.scene import PLACES, TONES, Item, Look, Scene, arranged

SIDE = 300
CLIP_FRAMES, CLIP_RATE = 24, 12.0


def main(folder: Path) -> None:
    """Write the pictures, the clip and `tour.json` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cream, mint, night = (250, 244, 232), (226, 240, 232), (52, 54, 66)
    save(folder / "desk.png", cream, "red circle/top left", "blue star/center", "green heart/bottom right")
    save(folder / "card-1.png", mint, "purple moon/top", "orange square/bottom left")
    save(folder / "card-2.png", cream, "pink heart/left")
    save(folder / "card-3.png", mint, "red star/center", "black cross/top right")
    save(folder / "card-4.png", night, "yellow diamond/bottom")
    save(folder / "before.png", cream, "blue square/left", "orange triangle/top right", "purple heart/bottom")
    save(folder / "after.png", cream, "blue square/left", "orange triangle/bottom right", "purple heart/bottom")
    write_clip(folder / "clip.mp4")
    stops = [
        {
            "title": "One picture, two questions",
            "images": ["desk.png"],
            "question": "Describe the image.",
            "follow_up": "What colour is the star?",
        },
        {
            "title": "Four pictures at once",
            "images": [f"card-{number}.png" for number in (1, 2, 3, 4)],
            "question": "Which image contains a red star?",
            "follow_up": "What is in image 1?",
        },
        {
            "title": "Before and after",
            "images": ["before.png", "after.png"],
            "question": "What changed between the two images?",
            "follow_up": "True or false: both images contain a blue square.",
        },
        {
            "title": "A short video",
            "video": "clip.mp4",
            "question": "Which way does the red circle move?",
        },
    ]
    (folder / "tour.json").write_text(json.dumps(stops, indent=1) + "\n")


def save(path: Path, background: tuple[int, int, int], *items: str) -> None:
    """Draw items given as `colour shape/place` and save the picture."""
    draw(scene(background, *map(item, items))).save(path, optimize=True)


def item(text: str) -> Item:
    """`red star/center` as an item in the middle of its place."""
    name, place = text.split("/")
    colour, shape = name.split()
    row, column = divmod(PLACES.index(place), 3)
    return Item(shape, colour, (column + 0.5) / 3, (row + 0.5) / 3, 0.27, TONES[colour][0])


def scene(background: tuple[int, int, int], *items: Item) -> Scene:
    """The items on a plain background."""
    return arranged(items, Look(SIDE, "plain", background, background, 0.0, 0))


def write_clip(path: Path) -> None:
    """A red circle crosses from left to right, above a green triangle that stays."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_RATE, (SIDE, SIDE))
    stay = item("green triangle/bottom left")
    for index in range(CLIP_FRAMES):
        x = 0.2 + 0.6 * index / (CLIP_FRAMES - 1)
        mover = Item("circle", "red", x, 0.35, 0.27, TONES["red"][0])
        writer.write(np.asarray(draw(scene((250, 244, 232), mover, stay)))[..., ::-1])
    writer.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
