"""Questions about one scene, each with its one right answer.

Every function takes a random source and a scene, and returns a question and its answer, or None if the scene does not
allow the question (no item that its name identifies, say). `where` is "" or names the image: " in image 2". Questions
about a colour are asked only if no thing in its own colours could be meant.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from edge_interleave.world.phrases import EMPTY, NUMBERS, QA, article, join, plural
from edge_interleave.world.scene import ITEMS_MAX, PLACES, Item, Scene, free_place
from edge_interleave.world.vocabulary import COLOURS, NATURAL, SHAPES, SHAPES_ALONE, TINTED, Split

POSSIBLE_COLOURS: dict[str, tuple[str, ...]] = {
    "dog": ("red", "orange", "yellow", "black"),
    "cat": ("orange", "yellow", "black"),
    "rabbit": ("pink", "black"),
    "bird": ("red", "orange", "yellow", "green", "blue", "purple", "black"),
    "fish": ("orange", "yellow", "blue", "purple"),
    "frog": ("green", "yellow", "pink"),
    "turtle": ("green", "yellow", "orange"),
    "butterfly": ("orange", "yellow", "blue", "purple", "pink", "black"),
    "apple": ("red", "green", "pink", "orange"),
    "banana": ("yellow", "orange"),
    "pizza": ("red", "orange", "yellow", "green"),
    "house": ("red", "orange", "yellow", "green", "blue", "pink", "purple"),
    "tree": ("green",),
    "clock": ("red", "orange", "pink", "black", "blue"),
    "key": ("yellow", "orange", "red"),
    "bicycle": ("red", "blue", "black", "green", "orange", "purple"),
}
"""Colours that a viewer may see in a thing in its own colours."""
_CLEARLY = 1.45
"""At this ratio of sizes, a thing is clearly bigger than another."""


def ask(kind: str, rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA | None:
    """A question of a kind of SCENE_QUESTIONS or EVERYDAY_QUESTIONS."""
    question = SCENE_QUESTIONS.get(kind) or EVERYDAY_QUESTIONS[kind]
    return question(rng, scene, where, split=split) if kind in _DRAWS_NAMES else question(rng, scene, where)


def describe(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """All items with their places, in reading order; with more than ITEMS_MAX items, how many of each name."""
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


def colour_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The colour of an item whose shape identifies it."""
    item = _unique_item(rng, scene, "shape")
    if item is None or not item.colour:
        return None
    question = rng.choice(
        (f"What colour is the {item.shape}{where}?", f"Which colour does the {item.shape}{where} have?")
    )
    return question, f"The {item.shape} is {item.colour}."


def shape_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The shape of an item whose colour identifies it."""
    item = _unique_item(rng, scene, "colour")
    if item is None or has_natural(scene):
        return None
    return f"What shape is the {item.colour} object{where}?", f"The {item.colour} object is a {item.shape}."


def place_of(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Where an item is; named by its shape alone if that is enough."""
    item = _unique_item(rng, scene, "name")
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


def count(rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA:
    """How many items there are: of all, of a shape or of a colour."""
    kind = rng.random() * (0.75 if has_natural(scene) else 1.0)
    if kind < 0.4:
        noun, number = "object", len(scene.items)
    elif kind < 0.75:
        counts = Counter(item.shape for item in scene.items)
        noun = rng.choice(list(counts) * 3 + (_kinds(rng, split) if split.things else list(SHAPES)))
        number = counts[noun]
    else:
        counts = Counter(item.colour for item in scene.items)
        tone = rng.choice(list(counts) * 3 + list(COLOURS))
        noun, number = f"{tone} object", counts[tone]
    nouns = plural(noun)
    question = rng.choice((f"How many {nouns} are there{where}?", f"Count the {nouns}{where}."))
    verb, shown = ("is", noun) if number == 1 else ("are", nouns)
    return question, f"There {verb} {NUMBERS[number]} {shown}."


def is_there(rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA:
    """Whether an item is there, named by colour and shape or by one of them: yes or no."""
    natural = has_natural(scene)
    names = {name for item in scene.items for name in names_of(item, natural)}
    if scene.items and rng.random() < 0.5:
        name = rng.choice(names_of(rng.choice(scene.items), natural))
    else:
        # A thing in its own colours cannot be named by colour.
        while (name := rng.choice(names_of(_any_item(rng, split), natural))) in names or name == " object":
            pass
    question = rng.choice((f"Is there {article(name)}{where}?", f"Do you see {article(name)}{where}?"))
    return question, "Yes." if name in names else "No."


def own_colours(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The colour of a thing in its own colours."""
    things = sorted({item.shape for item in scene.items if item.shape in NATURAL})
    if not things:
        return None
    thing = rng.choice(things)
    return f"What colour is the {thing}{where}?", f"The {thing} has its own colours."


def absent(rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA:
    """The colour or place of something that is not in the scene."""
    kind = split.kind(rng)
    there = {item.shape for item in scene.items}
    while kind in there:
        kind = split.kind(rng)
    question = rng.choice((f"What colour is the {kind}{where}?", f"Where is the {kind}{where}?"))
    coloured = [item for item in scene.items if item.colour]
    if coloured and rng.random() < 0.35:
        item, names = rng.choice(coloured), {item.name for item in scene.items}
        others = [
            f"{colour} {item.shape}" for colour in split.colours(item.shape) if f"{colour} {item.shape}" not in names
        ]
        if others:
            kind = rng.choice(others)
            question = f"Where is the {kind}{where}?"
    return question, f"There is no {kind}."


def nearly_there(rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA | None:
    """Whether a thing is there, where perhaps only its kind or only its colour is: yes or no."""
    coloured = [item for item in scene.items if item.colour]
    if not coloured:
        return None
    item, names = rng.choice(coloured), {item.name for item in scene.items}
    name = item.name
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            name = f"{rng.choice(split.colours(item.shape))} {item.shape}"
        else:
            kind = rng.choice([k for k in (*SHAPES, *TINTED) if item.colour in split.colours(k)])
            name = f"{item.colour} {kind}"
    question = rng.choice((f"Is there {article(name)}{where}?", f"Do you see {article(name)}{where}?"))
    return question, "Yes." if name in names else "No."


def anything(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Whether anything has a colour."""
    asked = _colour(rng, scene)
    if asked is None:
        return None
    return f"Is there anything {asked}{where}?", "Yes." if _of_colour(scene, asked) else "No."


def what_is(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """What has a colour."""
    asked = _colour(rng, scene)
    if asked is None:
        return None
    counts = Counter(item.shape for item in _of_colour(scene, asked)).most_common()
    if not counts:
        return f"What is {asked}{where}?", f"Nothing is {asked}."
    parts = [f"the {NUMBERS[number]} {plural(kind)}" if number > 1 else f"the {kind}" for kind, number in counts]
    verb = "are" if len(_of_colour(scene, asked)) > 1 else "is"
    return f"What is {asked}{where}?", f"{join(parts)} {verb} {asked}.".capitalize()


def count_named(rng: random.Random, scene: Scene, where: str = "", split: Split = SHAPES_ALONE) -> QA | None:
    """How many items there are of a kind, of a colour, of both, in all, or how many shapes."""
    natural = any(not item.colour for item in scene.items)
    if scene.items and rng.random() < 0.8:
        item = rng.choice(scene.items)
        colour, kind = item.colour, item.shape
        if rng.random() < 0.15:
            kind = split.kind(rng)
            colour = rng.choice(split.colours(kind) or ("",))
    else:
        kind = split.kind(rng)
        colour = rng.choice(split.colours(kind) or ("",))
    by = rng.choices(("kind", "colour", "both", "all", "shapes"), (50, 18, 22, 10, 6))[0]
    if by in ("colour", "both") and not colour:
        by = "kind"
    if by == "colour" and natural and any(colour in POSSIBLE_COLOURS.get(item.shape, ()) for item in scene.items):
        by = "both"
    by_name = {"kind": kind, "colour": f"{colour} object", "both": f"{colour} {kind}"}
    noun = {**by_name, "all": "object", "shapes": "shape"}[by]
    number = sum(
        item.shape in SHAPES
        if by == "shapes"
        else (by in ("colour", "all") or item.shape == kind) and (by in ("kind", "all") or item.colour == colour)
        for item in scene.items
    )
    nouns = plural(noun)
    question = rng.choice((f"How many {nouns} are there{where}?", f"Count the {nouns}{where}."))
    verb, shown = ("is", noun) if number == 1 else ("are", nouns)
    return question, f"There {verb} {NUMBERS[number]} {shown}."


def bigger(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Which of two things is bigger or smaller, or which of all is biggest or smallest."""
    names = Counter(item.name for item in scene.items)
    kinds = Counter(item.shape for item in scene.items)
    if any(number > 1 for number in names.values()) or len(scene.items) < 2:
        return None

    def called(item: Item) -> str:
        return item.shape if kinds[item.shape] == 1 and rng.random() < 0.5 else item.name

    by_size = sorted(scene.items, key=lambda item: item.size)
    more = rng.choice(("bigger", "smaller"))
    if len(scene.items) == 2 and rng.random() < 0.4:
        if by_size[1].size < _CLEARLY * by_size[0].size:
            return None
        item = by_size[1] if more == "bigger" else by_size[0]
        return f"Which is {more}{where}?", f"The {item.name} is {more}."
    if rng.random() < 0.5:
        one, other = rng.sample(list(scene.items), 2)
        if max(one.size, other.size) < _CLEARLY * min(one.size, other.size):
            return None
        names_of = {id(item): called(item) for item in (one, other)}
        right = one if (one.size > other.size) == (more == "bigger") else other
        question = f"Which is {more}, the {names_of[id(one)]} or the {names_of[id(other)]}{where}?"
        return question, f"The {names_of[id(right)]} is {more}."
    most = "biggest" if more == "bigger" else "smallest"
    first, second = (by_size[-1], by_size[-2]) if most == "biggest" else (by_size[0], by_size[1])
    if max(first.size, second.size) < _CLEARLY * min(first.size, second.size):
        return None
    return f"Which is the {most} object{where}?", f"The {most} object is the {first.name}."


def shapes(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What shapes there are."""
    counts = Counter(item.shape for item in scene.items if item.shape in SHAPES).most_common()
    question = f"What shapes do you see{where}?"
    if not scene.items:
        return question, EMPTY
    if not counts:
        return question, "There are no shapes."
    parts = [f"{NUMBERS[number]} {plural(kind)}" if number > 1 else article(kind) for kind, number in counts]
    return question, f"There {'are' if counts[0][1] > 1 else 'is'} {join(parts)}."


def unwritten(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What is written, in a scene without a sign."""
    return rng.choice((f"What is written{where}?", f"What does the sign{where} say?")), "There is nothing written."


def colours(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Which colours there are, in the order of COLOURS."""
    if not scene.items:
        return f"What colours do you see{where}?", EMPTY
    if any(not item.colour for item in scene.items):
        return None
    seen = [colour for colour in COLOURS if _of_colour(scene, colour)]
    return f"What colours do you see{where}?", f"{join(seen)}.".capitalize()


def is_coloured(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Whether the one thing of a kind has a colour."""
    alone = _alone(scene)
    coloured = [item for item in alone if item.colour]
    if not coloured:
        return None
    item = rng.choice(coloured)
    others = [colour for colour in COLOURS if colour != item.colour]
    seen = [other.colour for other in scene.items if other.colour and other.colour != item.colour]
    colour = item.colour if rng.random() < 0.5 else rng.choice(seen if seen and rng.random() < 0.5 else others)
    return f"Is the {item.shape} {colour}{where}?", "Yes." if colour == item.colour else "No."


def is_placed(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Whether the one thing of a kind is at a place."""
    alone = _alone(scene)
    if not alone:
        return None
    item = rng.choice(alone)
    others = [other.place for other in scene.items if other.place != item.place]
    elsewhere = rng.choice(others if others and rng.random() < 0.4 else [p for p in PLACES if p != item.place])
    place = item.place if rng.random() < 0.5 else elsewhere
    return f"Is the {item.shape} at the {place}{where}?", "Yes." if place == item.place else "No."


def signed(scene: Scene) -> QA:
    """A description of a scene with one sign."""
    parts = [f"{article(item.name)} at the {item.place}" for item in scene.items]
    says = f"It says {scene.signs[0].text}."
    return "Describe the image.", f"{says} There is {join(parts)}." if parts else says


def listed(scene: Scene) -> str:
    """How many of each name, the commonest first: `are three red circles, two dogs and a car`."""
    return _listed([item.name for item in scene.items])


def names_of(item: Item, natural: bool) -> tuple[str, ...]:
    """An item's names; by its colour alone only if nothing in the scene has its own colours (`natural`)."""
    return (item.name, item.shape) if natural else (item.name, item.shape, f"{item.colour} object")


def has_natural(scene: Scene) -> bool:
    """Whether a thing in the scene has its own colours; then a colour alone identifies nothing."""
    return any(not item.colour for item in scene.items)


SCENE_QUESTIONS: dict[str, Callable[..., QA | None]] = {
    "describe": describe,
    "colour": colour_of,
    "shape": shape_of,
    "place": place_of,
    "at_place": at_place,
    "count": count,
    "is there": is_there,
}
"""The questions of M4's single-image scenario."""
EVERYDAY_QUESTIONS: dict[str, Callable[..., QA | None]] = {
    "own colours": own_colours,
    "absent": absent,
    "nearly there": nearly_there,
    "anything": anything,
    "what is": what_is,
    "count of a kind": count_named,
    "bigger": bigger,
    "shapes": shapes,
    "unwritten": unwritten,
    "colours": colours,
    "is coloured": is_coloured,
    "is placed": is_placed,
}
"""Further questions, as people ask them."""
_DRAWS_NAMES = ("count", "is there", "absent", "nearly there", "count of a kind")
"""Kinds that draw a name from a split, besides those in the scene."""


def _listed(names: Sequence[str]) -> str:
    counts = Counter(names).most_common()
    parts = [f"{NUMBERS[number]} {plural(name)}" if number > 1 else article(name) for name, number in counts]
    return f"{'are' if counts[0][1] > 1 else 'is'} {join(parts)}"


def _any_item(rng: random.Random, split: Split) -> Item:
    kind = split.kind(rng) if split.things else rng.choice(SHAPES)
    colours = split.colours(kind)
    return Item(kind, rng.choice(colours) if colours else "", 0.5, 0.5, 0.2, (0, 0, 0))


def _kinds(rng: random.Random, split: Split) -> list[str]:
    return [split.kind(rng) for _ in range(8)]


def _unique_item(rng: random.Random, scene: Scene, by: str) -> Item | None:
    """An item whose `shape`, `colour` or `name` (`by`) no other item has; None if there is none."""
    counts = Counter(getattr(item, by) for item in scene.items)
    alone = [item for item in scene.items if counts[getattr(item, by)] == 1]
    return rng.choice(alone) if alone else None


def _shortest_name(rng: random.Random, item: Item, scene: Scene) -> str:
    if rng.random() < 0.4 and sum(other.shape == item.shape for other in scene.items) == 1:
        return item.shape
    return item.name


def _of_colour(scene: Scene, colour: str) -> list[Item]:
    return [item for item in scene.items if item.colour == colour]


def _colour(rng: random.Random, scene: Scene) -> str | None:
    """A colour that can be asked about; about half of the time one that is in the scene."""
    unsure = {colour for item in scene.items for colour in POSSIBLE_COLOURS.get(item.shape, ())}
    sure = [colour for colour in COLOURS if colour not in unsure]
    here = [colour for colour in sure if _of_colour(scene, colour)]
    if here and rng.random() < 0.55:
        return rng.choice(here)
    absent_colours = [colour for colour in sure if colour not in here]
    return rng.choice(absent_colours) if absent_colours else None


def _alone(scene: Scene) -> list[Item]:
    counts = Counter(item.shape for item in scene.items)
    return [item for item in scene.items if counts[item.shape] == 1]
