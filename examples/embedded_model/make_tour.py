"""Draws the pictures and the video of `edge-interleave demo`, and writes `tour.json`.

python examples/embedded_model/make_tour.py edge_interleave/embedded/demo
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_interleave.world.drawing import draw
from edge_interleave.world.scene import PLACES, TONES, Item, Look, Scene, Sign, arranged
from edge_interleave.world.vocabulary import SHAPES

SIDE = 300
STYLE = "noto"
"""Style of the things, under the package's own licence."""
CLIP_FRAMES, CLIP_RATE, CLIP_SIZE = 24, 12.0, (400, SIDE)


def main(folder: Path) -> None:
    """Write the pictures, the clip and `tour.json` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cream, mint, night = (250, 244, 232), (226, 240, 232), (52, 54, 66)
    save(folder / "desk.png", cream, "red car/top left", "dog/center", "green heart/bottom right")
    save(folder / "card-1.png", mint, "cat/top", "orange square/bottom left")
    save(folder / "card-2.png", cream, "pink balloon/left")
    save(folder / "card-3.png", mint, "yellow umbrella/center", "black cross/top right")
    save(folder / "card-4.png", night, "pizza/bottom")
    save(folder / "before.png", cream, "blue cup/left", "rabbit/top right", "purple heart/bottom")
    save(folder / "after.png", cream, "blue cup/left", "rabbit/bottom right", "purple heart/bottom")
    save_sign(folder / "sign-1.png", "milk")
    save_sign(folder / "sign-2.png", "42")
    write_clip(folder / "clip.mp4")
    stops = [
        {
            "title": "One picture, two questions",
            "images": ["desk.png"],
            "question": "Describe the image.",
            "follow_up": "What colour is the car?",
        },
        {
            "title": "Four pictures at once",
            "images": [f"card-{number}.png" for number in (1, 2, 3, 4)],
            "question": "Which image contains a yellow umbrella?",
            "follow_up": "What is in image 1?",
        },
        {
            "title": "Before and after",
            "images": ["before.png", "after.png"],
            "question": "What changed between the two images?",
            "follow_up": "True or false: both images contain a blue cup.",
        },
        {
            "title": "Two signs",
            "images": ["sign-1.png", "sign-2.png"],
            "question": "Which image says 42?",
            "follow_up": "What is written in image 1?",
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


def save_sign(path: Path, text: str) -> None:
    """Draw a sign with a word or a number and save the picture."""
    sky = (214, 228, 244)
    sign = Sign(text, 0.5, 0.5, 0.6, "plain", (24, 24, 32), (255, 252, 240))
    draw(replace(scene(sky), signs=(sign,))).save(path, optimize=True)


def item(text: str) -> Item:
    """`red star/center` or `dog/center` as an item in the middle of its place."""
    name, place = text.split("/")
    *colours, shape = name.split()
    colour = "".join(colours)
    row, column = divmod(PLACES.index(place), 3)
    style = "filled" if shape in SHAPES else STYLE
    tone = TONES[colour][0] if colour else (0, 0, 0)
    return Item(shape, colour, (column + 0.5) / 3, (row + 0.5) / 3, 0.27, tone, style=style)


def scene(background: tuple[int, int, int], *items: Item) -> Scene:
    """The items on a plain background."""
    return arranged(items, Look(SIDE, "plain", background, background, 0.0, 0))


def write_clip(path: Path) -> None:
    """A red circle crosses from left to right, above a green triangle that stays."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), CLIP_RATE, CLIP_SIZE)
    stay = item("green triangle/bottom left")
    for index in range(CLIP_FRAMES):
        x = 0.2 + 0.6 * index / (CLIP_FRAMES - 1)
        mover = Item("circle", "red", x, 0.3, 0.27, TONES["red"][0])
        frame = scene((250, 244, 232), mover, stay)
        wide = replace(frame, look=replace(frame.look, aspect=CLIP_SIZE[0] / CLIP_SIZE[1]))
        writer.write(np.asarray(draw(wide))[..., ::-1])
    writer.release()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
