"""The embedded model understands pictures drawn by another program, on canvases of any shape."""

import random
from collections.abc import Iterator, Sequence

import pytest
from PIL import Image, ImageDraw

import edge_interleave as ei

COLOURS = ("red", "blue", "green", "purple", "black", "orange")
SHAPES = ("circle", "square", "triangle")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
CANVASES = ((300, 300), (400, 300), (640, 360), (300, 400), (360, 640))
PICTURES = 8
"""Number of pictures for each canvas."""
RIGHT_AT_LEAST = 7


@pytest.fixture(scope="module")
def model() -> Iterator[ei.Model]:
    with ei.load(threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize("size", CANVASES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_shapes_drawn_with_pillow_are_described_rightly(model: ei.Model, size: tuple[int, int]) -> None:
    wrong = []
    for number in range(PICTURES):
        picture, facts = sketch(random.Random(f"sketch/{number}"), size)
        answer = model.ask([picture, "Describe the image."]).text
        if not all(fact in answer for fact in facts) or sum(answer.count(shape) for shape in SHAPES) != len(facts):
            wrong.append(f"{facts}: {answer}")
    assert len(wrong) <= PICTURES - RIGHT_AT_LEAST, "\n".join(wrong)


def test_pictures_of_several_shapes_are_told_apart(model: ei.Model) -> None:
    wrong = []
    for number in range(PICTURES):
        rng = random.Random(f"several/{number}")
        shapes, colours = rng.sample(SHAPES, 3), rng.sample(COLOURS, 3)
        sizes = rng.sample(CANVASES, 3)
        pictures = [
            drawn(size, [(4, *pair)]) for size, pair in zip(sizes, zip(shapes, colours, strict=True), strict=True)
        ]
        index = rng.randrange(3)
        answer = model.ask([*pictures, f"Which image contains a {shapes[index]}?"]).text
        if not answer.startswith(f"Image {index + 1} "):
            wrong.append(f"{shapes}, {index + 1}: {answer}")
    assert len(wrong) <= PICTURES - RIGHT_AT_LEAST, "\n".join(wrong)


@pytest.mark.parametrize("size", CANVASES[1:3], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_which_way_a_circle_moves_in_wide_frames(model: ei.Model, size: tuple[int, int], direction: str) -> None:
    along = [0.2 + 0.12 * step for step in range(6)]
    places = along[::-1] if direction in ("left", "up") else along
    frames = []
    for place in places:
        frame = Image.new("RGB", size, "white")
        x, y = (place, 0.5) if direction in ("left", "right") else (0.5, place)
        paint(ImageDraw.Draw(frame), "circle", "red", x * size[0], y * size[1], 0.13 * min(size))
        frames.append(frame)
    answer = model.ask([*frames, "Which way does the circle move?"]).text
    assert answer.startswith("The circle moves "), answer
    assert answer.endswith(f" {direction}."), answer


def sketch(rng: random.Random, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
    """A white canvas with one to three shapes, and what is true of it: `red circle at the top left`, and so on."""
    places, shapes, colours = rng.sample(range(9), 3), rng.sample(SHAPES, 3), rng.sample(COLOURS, 3)
    items = list(zip(places, shapes, colours, strict=True))[: rng.randint(1, 3)]
    return drawn(size, items), [f"{colour} {shape} at the {PLACES[place]}" for place, shape, colour in items]


def drawn(size: tuple[int, int], items: Sequence[tuple[int, str, str]]) -> Image.Image:
    """Shapes in the middle of places (row by row, 0 to 8), each with a colour of CSS."""
    picture = Image.new("RGB", size, "white")
    for place, shape, colour in items:
        row, column = divmod(place, 3)
        x, y = (column + 0.5) * size[0] / 3, (row + 0.5) * size[1] / 3
        paint(ImageDraw.Draw(picture), shape, colour, x, y, 0.13 * min(size))
    return picture


def paint(pen: ImageDraw.ImageDraw, shape: str, colour: str, x: float, y: float, half: float) -> None:
    """One shape, `half` pixels from its middle to its sides."""
    if shape == "triangle":
        pen.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=colour)
    else:
        filled = pen.ellipse if shape == "circle" else pen.rectangle
        filled((x - half, y - half, x + half, y + half), fill=colour)
