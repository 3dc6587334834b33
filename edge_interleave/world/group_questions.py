"""Questions about several scenes: which one shows something, what changed, moved, appeared or is hidden.

Every function returns a question and its one right answer, or None if the scenes do not allow the question.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from edge_interleave.world.groups import EFFECTS, Change, Group
from edge_interleave.world.phrases import NUMBERS, QA, article, join
from edge_interleave.world.scene import Item, Scene, Sign
from edge_interleave.world.scene_questions import has_natural, names_of
from edge_interleave.world.vocabulary import COLOURS, SHAPES, SHAPES_ALONE, Split

LETTERS = "ABCD"
TIMES = ("", "once", "twice", "three times")


def which_image(rng: random.Random, scenes: Sequence[Scene]) -> QA | None:
    """Which image alone shows an item, named by colour and shape or by one of them."""
    order = list(range(len(scenes)))
    rng.shuffle(order)
    for index in order:
        item = rng.choice(scenes[index].items)
        others = [other for i, scene in enumerate(scenes) if i != index for other in scene.items]
        natural = any(map(has_natural, scenes))
        names = [n for n in names_of(item, natural) if not any(n in names_of(other, natural) for other in others)]
        if names:
            name = rng.choice(names)
            question = rng.choice(
                (f"Which image contains {article(name)}?", f"In which image is there {article(name)}?")
            )
            return question, f"Image {index + 1} contains {article(name)}."
    return None


def in_image(rng: random.Random, scenes: Sequence[Scene]) -> QA:
    """What one of several images shows, in reading order."""
    index = rng.randrange(len(scenes))
    question = rng.choice((f"What is in image {index + 1}?", f"What does image {index + 1} show?"))
    return question, f"Image {index + 1} contains {join([article(item.name) for item in scenes[index].items])}."


def true_or_false(rng: random.Random, scenes: Sequence[Scene], split: Split = SHAPES_ALONE) -> QA | None:
    """A statement about two images: both show an item, or each shows one. The answer gives its reasons first."""
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
                one = _absent(rng, first, second, split)
            else:
                two = _absent(rng, second, first, split)
        statement = f"image 1 contains {article(one)} and image 2 contains {article(two)}"
    found = [article(name) if name in names else f"no {name}" for name, names in ((one, first), (two, second))]
    verdict = "True." if truth else "False."
    return f"True or false: {statement}.", f"Image 1 contains {found[0]} and image 2 contains {found[1]}. {verdict}"


def same(rng: random.Random, different: bool) -> QA:
    """Whether two pictures are the same."""
    return "Are the two images the same?", "No." if different else "Yes."


def compare(rng: random.Random, scenes: Sequence[Scene], group: Group | None = None) -> QA:
    """How two pictures differ: what changed, what each contains, or that they are the same."""
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


def changed(rng: random.Random, group: Group) -> QA:
    """What changed between two images."""
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
    """The instruction that turns the first image into the second."""
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
    """The story of three images."""
    first = join([article(item.name) for item in group.scenes[0].items])
    told = " ".join(f"Then {_happened(change)}." for change in group.story)
    return rng.choice(
        ("Tell the story of the images.", "What happens in the images?")
    ), f"First there is {first}. {told}"


def direction(rng: random.Random, group: Group) -> QA:
    """Which way the moving item moves."""
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
    """In which frame, counted from 1, an item first appears."""
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
    """Which image is the darkest, blurriest or noisiest. `effects`: index into EFFECTS of each image, -1 for none."""
    word = EFFECTS[asked]
    return f"Which image is the {word}?", f"Image {list(effects).index(asked) + 1} is the {word}."


def reading(rng: random.Random, scene: Scene, where: str = "") -> QA:
    """What the one sign says."""
    question = rng.choice((f"What is written{where}?", f"What does the sign{where} say?"))
    return question, f"It says {scene.signs[0].text}."


def which_sign(rng: random.Random, scenes: Sequence[Scene]) -> QA | None:
    """Which image's sign says a text."""
    texts = [scene.signs[0].text for scene in scenes]
    index = rng.randrange(len(scenes))
    if texts.count(texts[index]) > 1:
        return None
    return f"Which image says {texts[index]}?", f"Image {index + 1} says {texts[index]}."


def fine_print(rng: random.Random, whole: Scene) -> QA:
    """What is in one corner of a large picture."""
    parts: list[Item | Sign] = [*whole.items, *whole.signs]
    part = rng.choice(parts)
    corner = f"{'top' if part.y < 0.5 else 'bottom'} {'left' if part.x < 0.5 else 'right'}"
    if isinstance(part, Sign):
        return f"What is written at the {corner}?", f"It says {part.text}."
    return f"What is at the {corner}?", f"There is {article(part.name)} at the {corner}."


def puzzle(group: Group) -> QA:
    """Which object completes the matrix."""
    assert group.after is not None
    return "What completes the puzzle?", f"{article(group.after.name).capitalize()} completes the puzzle."


def puzzle_choices(rng: random.Random, group: Group) -> tuple[str, str, list[str]]:
    """The same as multiple choice: the question, the right letter, the four choices."""
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
    """What one of two views hides."""
    assert group.before is not None
    where = f"in image {group.hidden_in + 1}"
    return rng.choice((f"What is hidden {where}?", f"Which object is hidden {where}?")), (
        f"The {group.before.name} is hidden {where}."
    )


def camera(rng: random.Random, group: Group) -> QA:
    """Where the camera moved."""
    question = rng.choice(("Where did the camera go?", "Which way did the camera move?"))
    return question, f"The camera moved to the {group.direction}."


def in_all(rng: random.Random, group: Group) -> QA:
    """How many things the two views show together."""
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


def _absent(rng: random.Random, here: set[str], there: set[str], split: Split) -> str:
    """A name that is not `here`; half of the time one from the other image."""
    swapped = sorted(there - here)
    if swapped and rng.random() < 0.5:
        return rng.choice(swapped)
    while (name := split.name(rng) if split.things else f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}") in here:
        pass
    return name
