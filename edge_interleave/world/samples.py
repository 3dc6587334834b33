"""Samples of the M4 tasks: scenes, a question about them and the right answer, in the four scenarios of M4."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_interleave.world import group_questions as asked
from edge_interleave.world import groups
from edge_interleave.world.group_questions import in_image, true_or_false, which_image
from edge_interleave.world.phrases import QA
from edge_interleave.world.scene import Scene, random_scene
from edge_interleave.world.scene_questions import SCENE_QUESTIONS, ask
from edge_interleave.world.vocabulary import SHAPES_ALONE, Split


@dataclass(frozen=True)
class Task:
    """A kind of question, grouped as LLaVA-Interleave Bench groups them."""

    scenario: str
    """`multi-image`, `multi-frame`, `multi-view`, `multi-patch`, `single-image` or `everyday`."""
    category: str
    """The nearest category of LLaVA-Interleave Bench."""
    held_out: tuple[str, ...] = ("combination", "style")
    """Which keys of `vocabulary.SPLITS` its test samples draw, besides ""."""


TASKS = {
    "describe": Task("single-image", "single-image VQA"),
    "colour": Task("single-image", "single-image VQA"),
    "place": Task("single-image", "single-image VQA"),
    "count": Task("single-image", "single-image VQA"),
    "is there": Task("single-image", "single-image VQA"),
    "which image": Task("multi-image", "multi-image VQA"),
    "in image": Task("multi-image", "multi-image VQA"),
    "true or false": Task("multi-image", "NLVR2"),
    "what changed": Task("multi-image", "spot the difference"),
    "edit": Task("multi-image", "image edit instruction"),
    "story": Task("multi-image", "visual story telling"),
    "reading": Task("multi-image", "text-rich VQA"),
    "which sign": Task("multi-image", "text-rich VQA"),
    "puzzle": Task("multi-image", "puzzle", ()),
    "quality": Task("multi-image", "low-level comparison", ()),
    "direction": Task("multi-frame", "direction"),
    "appearance": Task("multi-frame", "appearance"),
    "order": Task("multi-frame", "order"),
    "events": Task("multi-frame", "counting events"),
    "hidden": Task("multi-view", "hidden"),
    "camera": Task("multi-view", "camera", ()),
    "in all": Task("multi-view", "counting", ()),
    "fine print": Task("multi-patch", "fine print"),
}


@dataclass(frozen=True)
class Sample:
    """Scenes, a question about them and its right answer."""

    task: str
    scenes: tuple[Scene, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    """What A, B, ... stand for, if the question is multiple-choice."""
    judge: str = ""
    """The rule of `judging.JUDGES` for answers that differ from `answer`; "" counts them as wrong."""


def draw_sample(task: str, rng: random.Random, split: Split = SHAPES_ALONE) -> Sample:
    """A sample of a task of TASKS. Raises ValueError for another task."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
    while True:
        sample = _draw(task, rng, split)
        if sample is not None:
            return sample


def blinking(rng: random.Random, times: int, frames: int) -> list[int]:
    """For each frame 1 if an item that appears `times` times is shown, else 0; the first frame does not show it."""
    while True:
        states = [0, *(rng.randint(0, 1) for _ in range(frames - 1))]
        if sum(b > a for a, b in itertools.pairwise(states)) == times:
            return states


def lasting(rng: random.Random, states: int, frames: int) -> list[int]:
    """For each frame the index of the state it shows: `states` states in order, each for at least one frame."""
    cuts = sorted(rng.sample(range(1, frames), states - 1))
    return [sum(frame >= cut for cut in cuts) for frame in range(frames)]


def _draw(task: str, rng: random.Random, split: Split) -> Sample | None:
    if task in SCENE_QUESTIONS:
        scene = random_scene(rng, split=split)
        return _sample(task, [scene], ask(task, rng, scene, split=split))
    if task in ("which image", "in image"):
        scenes = [random_scene(rng, rng.choice((1, 2, 3)), split) for _ in range(rng.randint(2, 6))]
        return _sample(task, scenes, which_image(rng, scenes) if task == "which image" else in_image(rng, scenes))
    if task == "true or false":
        group = groups.twin_pair(rng, split)
        return _sample(task, group.scenes, true_or_false(rng, group.scenes, split))
    if task in _OF_GROUPS:
        make, question = _OF_GROUPS[task]
        group = make(rng, split=split)
        return _sample(task, group.scenes, question(rng, group))
    return _OTHERS[task](task, rng, split)


def _of_appearance(task: str, rng: random.Random, split: Split) -> Sample | None:
    while (group := groups.change_pair(rng, split)).change != "appear":
        pass
    assert group.after is not None
    if task == "appearance":
        frames = rng.randint(3, 6)
        frame = rng.randint(2, frames)
        scenes = [group.scenes[0]] * (frame - 1) + [group.scenes[1]] * (frames - frame + 1)
        return _sample(task, scenes, asked.appearance(rng, group.after, frame))
    if group.after.name in {item.name for item in group.scenes[0].items}:
        return None
    times = rng.randint(1, 3)
    states = blinking(rng, times, rng.randint(2 * times, 8))
    return _sample(task, [group.scenes[state] for state in states], asked.events(rng, group.after, times))


def _of_arrivals(task: str, rng: random.Random, split: Split) -> Sample | None:
    group = groups.arrivals(rng, split)
    states = lasting(rng, len(group.scenes), rng.randint(len(group.scenes), 8))
    return _sample(task, [group.scenes[state] for state in states], asked.order(rng, group))


def _of_signs(task: str, rng: random.Random, split: Split) -> Sample | None:
    count = rng.choice((1, 2, 3) if task == "reading" else (2, 3, 4))
    scenes = [groups.sign(rng, split).scenes[0] for _ in range(count)]
    if task == "which sign":
        return _sample(task, scenes, asked.which_sign(rng, scenes))
    index = rng.randrange(count)
    return _sample(task, scenes, asked.reading(rng, scenes[index], f" in image {index + 1}" if count > 1 else ""))


def _of_quality(task: str, rng: random.Random, split: Split) -> Sample | None:
    group = groups.quality(rng, split)
    effect = rng.randrange(3)
    shown = [effect, *rng.sample([e for e in (-1, 0, 1, 2) if e != effect], rng.choice((1, 2)))]
    rng.shuffle(shown)
    return _sample(task, [group.scenes[e + 1] for e in shown], asked.quality(shown, effect))


def _of_puzzles(task: str, rng: random.Random, split: Split) -> Sample | None:
    group = groups.puzzle(rng, split)
    question, letter, choices = asked.puzzle_choices(rng, group)
    return Sample(task, group.scenes, question, letter, tuple(choices))


def _sample(task: str, scenes: Sequence[Scene], qa: QA | None) -> Sample | None:
    return None if qa is None else Sample(task, tuple(scenes), *qa)


_OF_GROUPS: dict[str, tuple[Callable[..., groups.Group], Callable[[random.Random, groups.Group], QA]]] = {
    "what changed": (groups.change_pair, asked.changed),
    "edit": (groups.change_pair, asked.edit),
    "direction": (groups.motion, asked.direction),
    "story": (groups.story, asked.story),
    "hidden": (groups.views, asked.hidden),
    "camera": (groups.views, asked.camera),
    "in all": (groups.views, asked.in_all),
    "fine print": (groups.patches, lambda rng, group: asked.fine_print(rng, group.scenes[0])),
}
_OTHERS: dict[str, Callable[[str, random.Random, Split], Sample | None]] = {
    "appearance": _of_appearance,
    "events": _of_appearance,
    "order": _of_arrivals,
    "reading": _of_signs,
    "which sign": _of_signs,
    "quality": _of_quality,
    "puzzle": _of_puzzles,
}
