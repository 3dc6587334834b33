"""Samples: scenes, a question about them and the right answer, task by task in the four scenarios of M4.

Knows nothing about tokens, models or files.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_interleave.world import group_questions as asked
from edge_interleave.world import groups
from edge_interleave.world.cast import SHAPES_ALONE, Cast
from edge_interleave.world.questions import QA, SCENE_QUESTIONS, in_image, true_or_false, which_image
from edge_interleave.world.scene import Scene, random_scene


@dataclass(frozen=True)
class Task:
    """A kind of question, as LLaVA-Interleave Bench sorts them."""

    scenario: str
    """`multi-image`, `multi-frame`, `multi-view`, `multi-patch` or `single-image`."""
    category: str
    """The benchmark's category that it is like."""
    held_out: tuple[str, ...] = ("combination", "style")
    """What can be held out in its scenes, of cast.CASTS."""


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
FIRST = (
    "describe", "colour", "place", "count", "is there", "which image", "in image",
    "true or false", "what changed", "direction", "appearance",
)  # fmt: skip
"""The tasks of the first version, which knew shapes alone."""


@dataclass(frozen=True)
class Sample:
    """Pictures, a question about them and the right answer."""

    task: str
    scenes: tuple[Scene, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    """Of a multiple choice, what A, B, ... stand for."""
    judge: str = ""
    """How an answer is judged that is not the right one word for word (`judging.JUDGES`); empty: it is wrong."""


def draw_sample(task: str, rng: random.Random, cast: Cast = SHAPES_ALONE) -> Sample:
    """A fresh sample of a task (one of TASKS; of FIRST where the cast is of shapes alone)."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
    while True:
        sample = _draw(task, rng, cast)
        if sample is not None:
            return sample


def blinking(rng: random.Random, times: int, frames: int) -> list[int]:
    """For each frame whether an item that appears `times` times is there (1) or not (0); it is not in the first."""
    while True:
        states = [0, *(rng.randint(0, 1) for _ in range(frames - 1))]
        if sum(b > a for a, b in itertools.pairwise(states)) == times:
            return states


def lasting(rng: random.Random, states: int, frames: int) -> list[int]:
    """For each frame which of so many states it shows, one after another, none left out."""
    cuts = sorted(rng.sample(range(1, frames), states - 1))
    return [sum(frame >= cut for cut in cuts) for frame in range(frames)]


def _draw(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    if task in SCENE_QUESTIONS:
        scene = random_scene(rng, cast=cast)
        more = {"cast": cast} if task in ("count", "is there") else {}
        return _sample(task, [scene], SCENE_QUESTIONS[task](rng, scene, **more))
    if task in ("which image", "in image"):
        scenes = [random_scene(rng, rng.choice((1, 2, 3)), cast) for _ in range(rng.randint(2, 6))]
        return _sample(task, scenes, which_image(rng, scenes) if task == "which image" else in_image(rng, scenes))
    if task == "true or false":
        group = groups.twin_pair(rng, cast)
        return _sample(task, group.scenes, true_or_false(rng, group.scenes, cast))
    if task in _OF_GROUPS:
        make, ask = _OF_GROUPS[task]
        group = make(rng, cast=cast)
        return _sample(task, group.scenes, ask(rng, group))
    return _OTHERS[task](task, rng, cast)


def _of_appearance(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    while (group := groups.change_pair(rng, cast)).change != "appear":
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


def _of_arrivals(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    group = groups.arrivals(rng, cast)
    states = lasting(rng, len(group.scenes), rng.randint(len(group.scenes), 8))
    return _sample(task, [group.scenes[state] for state in states], asked.order(rng, group))


def _of_signs(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    count = rng.choice((1, 2, 3) if task == "reading" else (2, 3, 4))
    scenes = [groups.sign(rng, cast).scenes[0] for _ in range(count)]
    if task == "which sign":
        return _sample(task, scenes, asked.which_sign(rng, scenes))
    index = rng.randrange(count)
    return _sample(task, scenes, asked.reading(rng, scenes[index], f" in image {index + 1}" if count > 1 else ""))


def _of_quality(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    group = groups.quality(rng, cast)
    effect = rng.randrange(3)
    shown = [effect, *rng.sample([e for e in (-1, 0, 1, 2) if e != effect], rng.choice((1, 2)))]
    rng.shuffle(shown)
    return _sample(task, [group.scenes[e + 1] for e in shown], asked.quality(shown, effect))


def _of_puzzles(task: str, rng: random.Random, cast: Cast) -> Sample | None:
    group = groups.puzzle(rng, cast)
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
_OTHERS: dict[str, Callable[[str, random.Random, Cast], Sample | None]] = {
    "appearance": _of_appearance,
    "events": _of_appearance,
    "order": _of_arrivals,
    "reading": _of_signs,
    "which sign": _of_signs,
    "quality": _of_quality,
    "puzzle": _of_puzzles,
}
