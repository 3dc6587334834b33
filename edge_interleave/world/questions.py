"""Questions about scenes and their one right answer each. Knows nothing about tokens or models.

Every function takes scenes and a random source and returns a question and an answer, or None where the scenes do
not allow the question (no item that one word tells apart, say). `group_questions.py` asks about what ties scenes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from edge_interleave.world.cast import COLOURS, SHAPES, SHAPES_ALONE, Cast
from edge_interleave.world.scene import ITEMS_MAX, PLACES, Item, Scene, free_place

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QA = tuple[str, str]
EMPTY = "The picture is empty."


def describe(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """All items with their places, in reading order; of more than ITEMS_MAX how many of each name."""
    parts = [f"{article(item.name)} at the {item.place}" for item in scene.items]
    question = rng.choice(
        (f"Describe the image{where}.", f"What is in the picture{where}?", f"Describe what you see{where}.")
        if not where
        else (f"Describe{where}.", f"Describe the picture{where}.")
    )
    if not scene.items:
        return question, EMPTY
    if len(scene.items) > ITEMS_MAX:
        return question, f"There {listed(scene)}."
    return question, f"There is {join(parts)}."


def listed(scene: Scene) -> str:
    """`are three red circles, two dogs and a car`: how many of each name, the commonest first."""
    return _listed([item.name for item in scene.items])


def _listed(names: Sequence[str]) -> str:
    counts = Counter(names).most_common()
    parts = [f"{NUMBERS[number]} {plural(name)}" if number > 1 else article(name) for name, number in counts]
    return f"{'are' if counts[0][1] > 1 else 'is'} {join(parts)}"


def colour_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The colour of an item that its shape tells apart."""
    item = _told_apart(rng, scene, "shape")
    if item is None or not item.colour:
        return None
    question = rng.choice(
        (f"What colour is the {item.shape}{where}?", f"Which colour does the {item.shape}{where} have?")
    )
    return question, f"The {item.shape} is {item.colour}."


def shape_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The shape of an item that its colour tells apart."""
    item = _told_apart(rng, scene, "colour")
    if item is None or _natural(scene):
        return None
    return f"What shape is the {item.colour} object{where}?", f"The {item.colour} object is a {item.shape}."


def place_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Where an item is, named by colour and shape, or by one of them where that is enough."""
    item = _told_apart(rng, scene, "name")
    if item is None:
        return None
    name = _shortest_name(rng, item, scene)
    question = rng.choice((f"Where is the {name}{where}?", f"At which place is the {name}{where}?"))
    return question, f"The {name} is at the {item.place}."


def at_place(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What lies at a place."""
    if not scene.items or (rng.random() < 0.2 and len(scene.items) < 9):
        free = PLACES[free_place(rng, scene)]
        return f"What is at the {free}{where}?", f"There is nothing at the {free}."
    place = rng.choice(scene.items).place
    names = [item.name for item in scene.items if item.place == place]
    return f"What is at the {place}{where}?", f"There {_listed(names)} at the {place}."


def count(rng: random.Random, scene: Scene, where: str = "", cast: Cast = SHAPES_ALONE) -> QA:
    """How many items there are: all, of a shape or of a colour."""
    kind = rng.random() * (0.75 if _natural(scene) else 1.0)
    if kind < 0.4:
        noun, number = "object", len(scene.items)
    elif kind < 0.75:
        counts = Counter(item.shape for item in scene.items)
        noun = rng.choice(list(counts) * 3 + (_kinds(rng, cast) if cast.things else list(SHAPES)))
        number = counts[noun]
    else:
        counts = Counter(item.colour for item in scene.items)
        tone = rng.choice(list(counts) * 3 + list(COLOURS))
        noun, number = f"{tone} object", counts[tone]
    nouns = plural(noun)
    question = rng.choice((f"How many {nouns} are there{where}?", f"Count the {nouns}{where}."))
    verb, shown = ("is", noun) if number == 1 else ("are", nouns)
    return question, f"There {verb} {NUMBERS[number]} {shown}."


def is_there(rng: random.Random, scene: Scene, where: str = "", cast: Cast = SHAPES_ALONE) -> QA:
    """Whether an item is there, named by colour and shape, or by one of them: a plain yes or no."""
    natural = _natural(scene)
    names = {name for item in scene.items for name in _names(item, natural)}
    if scene.items and rng.random() < 0.5:
        name = rng.choice(_names(rng.choice(scene.items), natural))
    else:
        # A thing in its own colours has no name by its colour.
        while (name := rng.choice(_names(_any_item(rng, cast), natural))) in names or name == " object":
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
        natural = any(map(_natural, scenes))
        names = [n for n in _names(item, natural) if not any(n in _names(other, natural) for other in others)]
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


def true_or_false(rng: random.Random, scenes: Sequence[Scene], cast: Cast = SHAPES_ALONE) -> QA | None:
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
                one = _absent(rng, first, second, cast)
            else:
                two = _absent(rng, second, first, cast)
        statement = f"image 1 contains {article(one)} and image 2 contains {article(two)}"
    found = [article(name) if name in names else f"no {name}" for name, names in ((one, first), (two, second))]
    verdict = "True." if truth else "False."
    return f"True or false: {statement}.", f"Image 1 contains {found[0]} and image 2 contains {found[1]}. {verdict}"


def article(name: str) -> str:
    """`a red circle`, `an orange star`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(noun: str) -> str:
    """`circles`, `crosses`, `butterflies`."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh")) else f"{noun}s"


def join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


SCENE_QUESTIONS: dict[str, Callable[..., QA | None]] = {
    "describe": describe,
    "colour": colour_of,
    "shape": shape_of,
    "place": place_of,
    "at_place": at_place,
    "count": count,
    "is there": is_there,
}


def _any_item(rng: random.Random, cast: Cast) -> Item:
    kind = cast.kind(rng) if cast.things else rng.choice(SHAPES)
    colours = cast.colours(kind)
    return Item(kind, rng.choice(colours) if colours else "", 0.5, 0.5, 0.2, (0, 0, 0))


def _names(item: Item, natural: bool) -> tuple[str, ...]:
    """What an item may be called; by its colour alone only where all have one."""
    return (item.name, item.shape) if natural else (item.name, item.shape, f"{item.colour} object")


def _natural(scene: Scene) -> bool:
    """Whether something in the scene has its own colours: of what is red one cannot ask then."""
    return any(not item.colour for item in scene.items)


def _kinds(rng: random.Random, cast: Cast) -> list[str]:
    return [cast.kind(rng) for _ in range(8)]


def _told_apart(rng: random.Random, scene: Scene, by: str) -> Item | None:
    counts = Counter(getattr(item, by) for item in scene.items)
    alone = [item for item in scene.items if counts[getattr(item, by)] == 1]
    return rng.choice(alone) if alone else None


def _shortest_name(rng: random.Random, item: Item, scene: Scene) -> str:
    if rng.random() < 0.4 and sum(other.shape == item.shape for other in scene.items) == 1:
        return item.shape
    return item.name


def _absent(rng: random.Random, here: set[str], there: set[str], cast: Cast) -> str:
    """A name that is not here: half the time one that lies in the other image."""
    swapped = sorted(there - here)
    if swapped and rng.random() < 0.5:
        return rng.choice(swapped)
    while (name := cast.name(rng) if cast.things else f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}") in here:
        pass
    return name
