"""Questions about the world and their one right answer each. Knows nothing about tokens or models.

Every function takes scenes and a random source and returns a question and an answer, or None where the scenes do
not allow the question (no item that one word tells apart, say).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pool
import world
from world import Item, Scene

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QA = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    """Pictures, a question about them and the right answer."""

    task: str
    scenes: tuple[Scene, ...]
    question: str
    answer: str


def describe(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """All items with their places, in reading order."""
    parts = [f"{article(item.name)} at the {item.place}" for item in scene.items]
    question = rng.choice(
        (f"Describe the image{where}.", f"What is in the picture{where}?", f"Describe what you see{where}.")
        if not where
        else (f"Describe{where}.", f"Describe the picture{where}.")
    )
    return question, f"There is {join(parts)}."


def colour(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The colour of an item that its shape tells apart."""
    item = _told_apart(rng, scene, "shape")
    if item is None:
        return None
    question = rng.choice(
        (f"What colour is the {item.shape}{where}?", f"Which colour does the {item.shape}{where} have?")
    )
    return question, f"The {item.shape} is {item.colour}."


def shape(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The shape of an item that its colour tells apart."""
    item = _told_apart(rng, scene, "colour")
    if item is None:
        return None
    return f"What shape is the {item.colour} object{where}?", f"The {item.colour} object is a {item.shape}."


def place(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Where an item is, named by colour and shape, or by one of them where that is enough."""
    item = _told_apart(rng, scene, "name")
    if item is None:
        return None
    name = _shortest_name(rng, item, scene)
    question = rng.choice((f"Where is the {name}{where}?", f"At which place is the {name}{where}?"))
    return question, f"The {name} is at the {item.place}."


def at_place(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What lies at a place."""
    if rng.random() < 0.2 and len(scene.items) < 9:
        free = world.PLACES[world.free_place(rng, scene)]
        return f"What is at the {free}{where}?", f"There is nothing at the {free}."
    item = rng.choice(scene.items)
    return f"What is at the {item.place}{where}?", f"There is {article(item.name)} at the {item.place}."


def count(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """How many items there are: all, of a shape or of a colour."""
    kind = rng.random()
    if kind < 0.4:
        noun, number = "object", len(scene.items)
    elif kind < 0.75:
        counts = Counter(item.shape for item in scene.items)
        noun = rng.choice(list(counts) * 3 + list(world.SHAPES))
        number = counts[noun]
    else:
        counts = Counter(item.colour for item in scene.items)
        tone = rng.choice(list(counts) * 3 + list(world.COLOURS))
        noun, number = f"{tone} object", counts[tone]
    nouns = plural(noun)
    question = rng.choice((f"How many {nouns} are there{where}?", f"Count the {nouns}{where}."))
    verb, shown = ("is", noun) if number == 1 else ("are", nouns)
    return question, f"There {verb} {NUMBERS[number]} {shown}."


def is_there(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """Whether an item is there, named by colour and shape, or by one of them: a plain yes or no."""
    names = {name for item in scene.items for name in _names(item)}
    if rng.random() < 0.5:
        name = rng.choice(_names(rng.choice(scene.items)))
    else:
        while (name := rng.choice(_names(_any_item(rng)))) in names:
            pass
    question = rng.choice((f"Is there {article(name)}{where}?", f"Do you see {article(name)}{where}?"))
    return question, "Yes." if name in names else "No."


def which_image(rng: random.Random, scenes: Sequence[Scene]) -> QA | None:
    """The one image that holds an item, named by colour and shape, or by one of them."""
    order = list(range(len(scenes)))
    rng.shuffle(order)
    for index in order:
        item = rng.choice(scenes[index].items)
        others = [other for i, scene in enumerate(scenes) if i != index for other in scene.items]
        names = [n for n in _names(item) if not any(n in _names(other) for other in others)]
        if names:
            name = rng.choice(names)
            question = rng.choice(
                (f"Which image contains {article(name)}?", f"In which image is there {article(name)}?")
            )
            return question, f"Image {index + 1} contains {article(name)}."
    return None


def in_image(rng: random.Random, scenes: Sequence[Scene]) -> QA:
    """What one of several images holds, in reading order."""
    index = rng.randrange(len(scenes))
    question = rng.choice((f"What is in image {index + 1}?", f"What does image {index + 1} show?"))
    return question, f"Image {index + 1} contains {join([article(item.name) for item in scenes[index].items])}."


def true_or_false(rng: random.Random, scenes: Sequence[Scene]) -> QA | None:
    """A statement about two images: both hold an item, or each holds its own. The answer gives its reasons first."""
    first, second = ({item.name for item in scene.items} for scene in scenes)
    truth = rng.random() < 0.5
    if rng.random() < 0.65:
        names = sorted(first & second if truth else first ^ second)
        if not names:
            return None
        one = two = rng.choice(names)
        statement = f"both images contain {article(one)}"
    else:
        one, two = rng.choice(sorted(first)), rng.choice(sorted(second))
        if not truth:
            if rng.random() < 0.5:
                one = _absent(rng, first, second)
            else:
                two = _absent(rng, second, first)
        statement = f"image 1 contains {article(one)} and image 2 contains {article(two)}"
    found = [article(name) if name in names else f"no {name}" for name, names in ((one, first), (two, second))]
    verdict = "True." if truth else "False."
    return f"True or false: {statement}.", f"Image 1 contains {found[0]} and image 2 contains {found[1]}. {verdict}"


def changed(rng: random.Random, group: pool.Group) -> QA:
    """What became different between two images."""
    question = rng.choice(
        ("What changed between the two images?", "What changed?", "What is different in the second image?")
    )
    before, after = group.before, group.after
    if before is None:
        assert after is not None
        return question, f"{article(after.name).capitalize()} appeared at the {after.place}."
    if after is None:
        return question, f"The {before.name} at the {before.place} disappeared."
    if group.change == "move":
        return question, f"The {before.name} moved from the {before.place} to the {after.place}."
    if group.change == "recolour":
        return question, f"The {before.name} at the {before.place} became {after.colour}."
    return question, f"The {before.name} at the {before.place} became a {after.shape}."


def direction(rng: random.Random, group: pool.Group) -> QA:
    """Which way the moving item goes."""
    item = group.before
    assert item is not None
    stay = group.scenes[0].items
    name = rng.choice((item.name, item.name, *(n for n in (item.shape, "object") if len(stay) == 1)))
    question = rng.choice(
        (f"Which way does the {name} move?", f"In which direction does the {name} move?", f"Where is the {name} going?")
    )
    way = group.direction if group.direction in ("up", "down") else f"to the {group.direction}"
    return question, f"The {name} moves {way}."


def appearance(rng: random.Random, item: Item, frame: int) -> QA:
    """In which frame, counted from 1, an item is first seen."""
    name = item.name
    question = rng.choice(
        (
            f"In which frame does the {name} appear?",
            f"When does the {name} appear?",
            "In which frame does something appear?",
        )
    )
    return question, f"The {name} appears in frame {frame}."


def article(name: str) -> str:
    """`a red circle`, `an orange star`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(noun: str) -> str:
    """`circles`, `crosses`."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


SCENE_QUESTIONS: dict[str, Callable[..., QA | None]] = {
    "describe": describe,
    "colour": colour,
    "shape": shape,
    "place": place,
    "at_place": at_place,
    "count": count,
    "is there": is_there,
}
TASKS = (
    "describe", "colour", "place", "count", "is there", "which image", "in image",
    "true or false", "what changed", "direction", "appearance",
)  # fmt: skip


def draw_sample(task: str, rng: random.Random) -> Sample:
    """A fresh sample of a task (one of TASKS), drawn from the random source."""
    while True:
        scenes, qa = _draw(task, rng)
        if qa is not None:
            return Sample(task, tuple(scenes), *qa)


def _draw(task: str, rng: random.Random) -> tuple[Sequence[Scene], QA | None]:
    if task in SCENE_QUESTIONS:
        scene = world.random_scene(rng)
        return [scene], SCENE_QUESTIONS[task](rng, scene)
    if task in ("which image", "in image"):
        scenes = [world.random_scene(rng, rng.choice((1, 2, 3))) for _ in range(rng.randint(2, 6))]
        return scenes, which_image(rng, scenes) if task == "which image" else in_image(rng, scenes)
    if task == "true or false":
        group = pool.twin_pair(rng)
        return group.scenes, true_or_false(rng, group.scenes)
    if task == "what changed":
        group = pool.change_pair(rng)
        return group.scenes, changed(rng, group)
    if task == "direction":
        group = pool.motion(rng)
        return group.scenes, direction(rng, group)
    if task == "appearance":
        while (group := pool.change_pair(rng)).change != "appear":
            pass
        frames = rng.randint(3, 6)
        frame = rng.randint(2, frames)
        assert group.after is not None
        scenes = [group.scenes[0]] * (frame - 1) + [group.scenes[1]] * (frames - frame + 1)
        return scenes, appearance(rng, group.after, frame)
    raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")


def _any_item(rng: random.Random) -> Item:
    return Item(rng.choice(world.SHAPES), rng.choice(world.COLOURS), 0.5, 0.5, 0.2, (0, 0, 0))


def _names(item: Item) -> tuple[str, str, str]:
    return item.name, item.shape, f"{item.colour} object"


def _told_apart(rng: random.Random, scene: Scene, by: str) -> Item | None:
    counts = Counter(getattr(item, by) for item in scene.items)
    alone = [item for item in scene.items if counts[getattr(item, by)] == 1]
    return rng.choice(alone) if alone else None


def _shortest_name(rng: random.Random, item: Item, scene: Scene) -> str:
    if rng.random() < 0.4 and sum(other.shape == item.shape for other in scene.items) == 1:
        return item.shape
    return item.name


def _absent(rng: random.Random, here: set[str], there: set[str]) -> str:
    """A name that is not here: half the time one that lies in the other image."""
    swapped = sorted(there - here)
    if swapped and rng.random() < 0.5:
        return rng.choice(swapped)
    while (name := f"{rng.choice(world.COLOURS)} {rng.choice(world.SHAPES)}") in here:
        pass
    return name
