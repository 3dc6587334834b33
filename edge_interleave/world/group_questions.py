"""Questions about what ties the scenes of a group: changes, motion, order, views. As `questions.py` otherwise."""

from __future__ import annotations

import random
from collections.abc import Sequence

from edge_interleave.world.groups import EFFECTS, Change, Group
from edge_interleave.world.questions import NUMBERS, QA, article, join
from edge_interleave.world.scene import Item, Scene, Sign

LETTERS = "ABCD"
TIMES = ("", "once", "twice", "three times")


def changed(rng: random.Random, group: Group) -> QA:
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
    return question, f"The {before.name} at the {before.place} became {article(after.shape)}."


def edit(rng: random.Random, group: Group) -> QA:
    """The instruction that makes the second image of the first."""
    question = rng.choice(
        ("Which instruction turns image 1 into image 2?", "What must be done to image 1 to get image 2?")
    )
    before, after = group.before, group.after
    if before is None:
        assert after is not None
        return question, f"Add {article(after.name)} at the {after.place}."
    if after is None:
        return question, f"Remove the {before.name} at the {before.place}."
    if group.change == "move":
        return question, f"Move the {before.name} from the {before.place} to the {after.place}."
    if group.change == "recolour":
        return question, f"Make the {before.name} at the {before.place} {after.colour}."
    return question, f"Turn the {before.name} at the {before.place} into {article(after.shape)}."


def story(rng: random.Random, group: Group) -> QA:
    """What three images tell."""
    first = join([article(item.name) for item in group.scenes[0].items])
    told = " ".join(f"Then {_happened(change)}." for change in group.story)
    return rng.choice(
        ("Tell the story of the images.", "What happens in the images?")
    ), f"First there is {first}. {told}"


def direction(rng: random.Random, group: Group) -> QA:
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


def order(rng: random.Random, group: Group) -> QA:
    """In which order items appear."""
    names = [change.after.name for change in group.story if change.after is not None]
    question = rng.choice(("In which order do the objects appear?", "What appears first, and what then?"))
    return question, f"First the {', then the '.join(names)}."


def events(rng: random.Random, item: Item, times: int) -> QA:
    """How often an item appears."""
    question = rng.choice((f"How many times does the {item.name} appear?", f"How often does the {item.name} appear?"))
    return question, f"The {item.name} appears {TIMES[times]}."


def quality(effects: Sequence[int], asked: int) -> QA:
    """Which of several images is the darkest, blurriest or noisiest. An effect of -1 is none."""
    word = EFFECTS[asked]
    return f"Which image is the {word}?", f"Image {list(effects).index(asked) + 1} is the {word}."


def reading(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What the one sign says."""
    question = rng.choice((f"What is written{where}?", f"What does the sign{where} say?"))
    return question, f"It says {scene.signs[0].text}."


def which_sign(rng: random.Random, scenes: Sequence[Scene]) -> QA | None:
    """Which image's sign says something."""
    texts = [scene.signs[0].text for scene in scenes]
    index = rng.randrange(len(scenes))
    if texts.count(texts[index]) > 1:
        return None
    return f"Which image says {texts[index]}?", f"Image {index + 1} says {texts[index]}."


def fine_print(rng: random.Random, whole: Scene) -> QA:
    """What one corner of a large picture holds."""
    parts: list[Item | Sign] = [*whole.items, *whole.signs]
    part = rng.choice(parts)
    corner = f"{'top' if part.y < 0.5 else 'bottom'} {'left' if part.x < 0.5 else 'right'}"
    if isinstance(part, Sign):
        return f"What is written at the {corner}?", f"It says {part.text}."
    return f"What is at the {corner}?", f"There is {article(part.name)} at the {corner}."


def puzzle(group: Group) -> QA:
    """What the missing object is."""
    assert group.after is not None
    return "What completes the puzzle?", f"{article(group.after.name).capitalize()} completes the puzzle."


def puzzle_choices(rng: random.Random, group: Group) -> tuple[str, str, list[str]]:
    """The same as a choice of four: question, the right letter, the choices."""
    assert group.after is not None
    names = sorted({item.name for item in group.scenes[0].items} - {group.after.name})
    near = [name for name in names if group.after.colour in name or group.after.shape in name]
    others = rng.sample(near, min(2, len(near)))
    others += rng.sample([name for name in names if name not in others], 3 - len(others))
    choices = [group.after.name, *others]
    rng.shuffle(choices)
    letter = LETTERS[choices.index(group.after.name)]
    listed = " ".join(f"{mark}: {name}" for mark, name in zip(LETTERS, choices, strict=True))
    return f"What completes the puzzle? {listed}", letter, choices


def hidden(rng: random.Random, group: Group) -> QA:
    """What one of two views does not show."""
    assert group.before is not None
    where = f"in image {group.hidden_in + 1}"
    return rng.choice((f"What is hidden {where}?", f"Which object is hidden {where}?")), (
        f"The {group.before.name} is hidden {where}."
    )


def camera(rng: random.Random, group: Group) -> QA:
    """Where the camera went."""
    question = rng.choice(("Where did the camera go?", "Which way did the camera move?"))
    return question, f"The camera moved to the {group.direction}."


def in_all(rng: random.Random, group: Group) -> QA:
    """How many things two views show in all."""
    number = len(group.scenes[0].items)
    return rng.choice(("How many objects are there in all?", "Count all objects.")), (
        f"There are {NUMBERS[number]} objects in all."
    )


def _happened(change: Change) -> str:
    before, after = change.before, change.after
    if before is None:
        assert after is not None
        return f"{article(after.name)} appears at the {after.place}"
    if after is None:
        return f"the {before.name} disappears"
    if change.kind == "move":
        return f"the {before.name} moves to the {after.place}"
    if change.kind == "recolour":
        return f"the {before.name} becomes {after.colour}"
    return f"the {before.name} becomes {article(after.shape)}"
