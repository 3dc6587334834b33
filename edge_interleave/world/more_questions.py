"""Questions of everyday: what is red, which is bigger, what shapes, is it the same; and what nobody could answer.

As `questions.py` otherwise. Colours are asked for as long as nothing in its own colours could be meant as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from edge_interleave.world.cast import COLOURS, NATURAL, SHAPES, SHAPES_ALONE, TINTED, Cast
from edge_interleave.world.group_questions import changed
from edge_interleave.world.groups import Group
from edge_interleave.world.questions import EMPTY, NUMBERS, QA, article, join, plural
from edge_interleave.world.scene import PLACES, Item, Scene

UNKNOWN_PICTURE = "I do not know this picture: I know drawings of shapes, things and signs."
UNKNOWN_QUESTION = "I do not know that: I can say what is in a picture, where it is, its colour and how many."
NO_PICTURE = "There is no picture: show me one, and I can say what is in it."
MAYBE: dict[str, tuple[str, ...]] = {
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
"""Colours that somebody might see in a thing that has its own."""
_CLEARLY = 1.45
"""So many times as large is clearly larger."""


def own_colours(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """The colour of a thing in its own colours, of which there is one name."""
    things = sorted({item.shape for item in scene.items if item.shape in NATURAL})
    if not things:
        return None
    thing = rng.choice(things)
    return f"What colour is the {thing}{where}?", f"The {thing} has its own colours."


def absent(rng: random.Random, scene: Scene, where: str = "", cast: Cast = SHAPES_ALONE) -> QA:
    """The colour or place of what is not there."""
    kind = cast.kind(rng)
    there = {item.shape for item in scene.items}
    while kind in there:
        kind = cast.kind(rng)
    question = rng.choice((f"What colour is the {kind}{where}?", f"Where is the {kind}{where}?"))
    coloured = [item for item in scene.items if item.colour]
    if coloured and rng.random() < 0.35:
        item, names = rng.choice(coloured), {item.name for item in scene.items}
        others = [
            f"{colour} {item.shape}" for colour in cast.colours(item.shape) if f"{colour} {item.shape}" not in names
        ]
        if others:
            kind = rng.choice(others)
            question = f"Where is the {kind}{where}?"
    return question, f"There is no {kind}."


def nearly_there(rng: random.Random, scene: Scene, where: str = "", cast: Cast = SHAPES_ALONE) -> QA | None:
    """Whether a thing is there, of which the kind or the colour alone may be; a plain yes or no."""
    coloured = [item for item in scene.items if item.colour]
    if not coloured:
        return None
    item, names = rng.choice(coloured), {item.name for item in scene.items}
    name = item.name
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            name = f"{rng.choice(cast.colours(item.shape))} {item.shape}"
        else:
            kind = rng.choice([k for k in (*SHAPES, *TINTED) if item.colour in cast.colours(k)])
            name = f"{item.colour} {kind}"
    question = rng.choice((f"Is there {article(name)}{where}?", f"Do you see {article(name)}{where}?"))
    return question, "Yes." if name in names else "No."


def anything(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Whether anything has a colour."""
    asked = _colour(rng, scene)
    if asked is None:
        return None
    return f"Is there anything {asked}{where}?", "Yes." if _of(scene, asked) else "No."


def what_is(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """What has a colour."""
    asked = _colour(rng, scene)
    if asked is None:
        return None
    counts = Counter(item.shape for item in _of(scene, asked)).most_common()
    if not counts:
        return f"What is {asked}{where}?", f"Nothing is {asked}."
    parts = [f"the {NUMBERS[number]} {plural(kind)}" if number > 1 else f"the {kind}" for kind, number in counts]
    verb = "are" if len(_of(scene, asked)) > 1 else "is"
    return f"What is {asked}{where}?", f"{join(parts)} {verb} {asked}.".capitalize()


def count_named(rng: random.Random, scene: Scene, where: str = "", cast: Cast = SHAPES_ALONE) -> QA | None:
    """How many there are of a kind, of a colour, or of both."""
    natural = any(not item.colour for item in scene.items)
    if scene.items and rng.random() < 0.8:
        item = rng.choice(scene.items)
        colour, kind = item.colour, item.shape
        if rng.random() < 0.15:
            kind = cast.kind(rng)
            colour = rng.choice(cast.colours(kind) or ("",))
    else:
        kind = cast.kind(rng)
        colour = rng.choice(cast.colours(kind) or ("",))
    by = rng.choices(("kind", "colour", "both", "all"), (50, 18, 22, 10))[0]
    if by in ("colour", "both") and not colour:
        by = "kind"
    if by == "colour" and natural and any(colour in MAYBE.get(item.shape, ()) for item in scene.items):
        by = "both"
    noun = {"kind": kind, "colour": f"{colour} object", "both": f"{colour} {kind}", "all": "object"}[by]
    number = sum(
        (by in ("colour", "all") or item.shape == kind) and (by in ("kind", "all") or item.colour == colour)
        for item in scene.items
    )
    nouns = plural(noun)
    question = rng.choice((f"How many {nouns} are there{where}?", f"Count the {nouns}{where}."))
    verb, shown = ("is", noun) if number == 1 else ("are", nouns)
    return question, f"There {verb} {NUMBERS[number]} {shown}."


def bigger(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Which of two things is bigger or smaller, or which of all is the biggest or smallest."""
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
    """What is written where nothing is."""
    return rng.choice((f"What is written{where}?", f"What does the sign{where} say?")), "There is nothing written."


def signed(scene: Scene) -> QA:
    """What a picture with one sign shows."""
    parts = [f"{article(item.name)} at the {item.place}" for item in scene.items]
    says = f"It says {scene.signs[0].text}."
    return "Describe the image.", f"{says} There is {join(parts)}." if parts else says


def colours(rng: random.Random, scene: Scene, where: str = "") -> QA | None:
    """Which colours there are, in the order of COLOURS."""
    if not scene.items:
        return f"What colours do you see{where}?", EMPTY
    if any(not item.colour for item in scene.items):
        return None
    seen = [colour for colour in COLOURS if _of(scene, colour)]
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


def same(rng: random.Random, different: bool) -> QA:
    """Whether two pictures are the same."""
    return "Are the two images the same?", "No." if different else "Yes."


def compare(rng: random.Random, scenes: Sequence[Scene], group: Group | None = None) -> QA:
    """How two pictures compare: what changed from one to the other, what either holds, or that they are the same."""
    question = "Compare the two images."
    if group is not None and group.kind == "change":
        return question, changed(rng, group)[1]
    first, second = (Counter(item.name for item in scene.items) for scene in scenes)
    if scenes[0] is scenes[1] or first == second:
        return question, "The two images are the same."
    if not all(scene.items for scene in scenes):
        return question, "The two images are not the same."
    said = [f"image {n + 1} contains {join([article(item.name) for item in s.items])}" for n, s in enumerate(scenes)]
    return question, f"{said[0].capitalize()}, and {said[1]}."


MORE_QUESTIONS: dict[str, Callable[..., QA | None]] = {
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
"""Of one scene; `absent`, `nearly there` and `count of a kind` take a cast as well."""


def _of(scene: Scene, colour: str) -> list[Item]:
    return [item for item in scene.items if item.colour == colour]


def _colour(rng: random.Random, scene: Scene) -> str | None:
    """A colour that can be asked about; half of the time one that is there."""
    unsure = {colour for item in scene.items for colour in MAYBE.get(item.shape, ())}
    sure = [colour for colour in COLOURS if colour not in unsure]
    here = [colour for colour in sure if _of(scene, colour)]
    if here and rng.random() < 0.55:
        return rng.choice(here)
    gone = [colour for colour in sure if colour not in here]
    return rng.choice(gone) if gone else None


def _alone(scene: Scene) -> list[Item]:
    counts = Counter(item.shape for item in scene.items)
    return [item for item in scene.items if counts[item.shape] == 1]
