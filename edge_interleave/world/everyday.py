"""Everyday questions as samples: other wordings, counts by number, things anywhere, and what nobody could know.

As `samples.py` otherwise: every sample follows from its random source. Of each kind of question the wordings that
training never saw are a task of their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from edge_interleave.world import groups, more_questions
from edge_interleave.world.cast import SEEN, SHAPES, THINGS, Cast
from edge_interleave.world.foreign_questions import foreign
from edge_interleave.world.more_questions import MORE_QUESTIONS, NO_PICTURE, UNKNOWN_PICTURE, UNKNOWN_QUESTION
from edge_interleave.world.questions import EMPTY, NUMBERS, SCENE_QUESTIONS, plural
from edge_interleave.world.samples import TASKS, Sample, Task, draw_sample
from edge_interleave.world.scene import SAME_MAX, Scene, blank_scene, free_look, free_scene
from edge_interleave.world.strangers import HELD_OUT, STRANGE
from edge_interleave.world.wordings import reworded

WORDED = "worded"
"""The task of all kinds of questions in wordings of training."""
_NEW = "new words: "
_OF_CAST = ("absent", "nearly there", "count of a kind")
_PAIRS = ("same", "compare")
_KINDS = (*TASKS, *MORE_QUESTIONS, *_PAIRS)
_COUNTS = {f"count {NUMBERS[number]}": number for number in range(SAME_MAX + 1)}

EVERYDAY: dict[str, Task] = {
    WORDED: Task("everyday", "wordings of training", ()),
    **{f"{_NEW}{kind}": Task("everyday", "held-out wordings", ()) for kind in _KINDS},
    **{name: Task("everyday", "counting", ()) for name in _COUNTS},
    "free names": Task("everyday", "free places", ()),
    "free colour": Task("everyday", "free places", ()),
    **{f"unknown {kind}": Task("everyday", "not known", ()) for kind in STRANGE},
    "unknown question": Task("everyday", "not known", ()),
    "no picture": Task("everyday", "not known", ()),
    "empty picture": Task("everyday", "not known", ()),
}
"""The tasks, by scenario and category as samples.TASKS."""


def draw_everyday(task: str, rng: random.Random) -> Sample:
    """A fresh sample of a task, one of EVERYDAY; `judge` says how its answer is judged."""
    if task not in EVERYDAY:
        raise ValueError(f"unknown task {task!r}; one of {', '.join(EVERYDAY)}")
    while True:
        sample = _draw(task, rng)
        if sample is not None:
            return sample


def _draw(task: str, rng: random.Random) -> Sample | None:
    if task == WORDED:
        return _worded(task, rng.choice(_KINDS), rng, held_out=False)
    if task.startswith(_NEW):
        return _worded(task, task.removeprefix(_NEW), rng, held_out=True)
    if task in _COUNTS:
        return _count(task, _COUNTS[task], rng)
    if task == "free names":
        scene = free_scene(rng, SEEN)
        qa = SCENE_QUESTIONS["describe"](rng, scene)
        return None if qa is None else Sample(task, (scene,), *qa, judge="names")
    if task == "free colour":
        scene = free_scene(rng, SEEN)
        qa = SCENE_QUESTIONS["colour"](rng, scene)
        return None if qa is None else Sample(task, (scene,), *qa, judge="words")
    if task == "empty picture":
        scene = blank_scene(rng)
        return Sample(task, (scene,), reworded(rng, rng.choice(_DESCRIBE)), EMPTY, judge="words")
    asked = _about_something(rng)
    if task == "unknown question":
        shown = () if rng.random() < 0.4 else (free_scene(rng, SEEN),)
        return Sample(task, shown, foreign(rng, held_out=True), UNKNOWN_QUESTION, judge="unknown")
    if task == "no picture":
        return Sample(task, (), asked, NO_PICTURE, judge="unknown")
    kind = task.removeprefix("unknown ")
    return Sample(task, (Scene((), free_look(rng), strange=HELD_OUT + kind),), asked, UNKNOWN_PICTURE, judge="unknown")


_DESCRIBE = ("Describe the image.", "What is in the picture?", "Describe what you see.")


def _about_something(rng: random.Random) -> str:
    """A question about a picture, half of the time to describe it."""
    if rng.random() < 0.5:
        return reworded(rng, rng.choice(_DESCRIBE))
    qa = None
    while qa is None:
        scene = free_scene(rng, SEEN)
        qa = SCENE_QUESTIONS[rng.choice(("colour", "place", "count", "is there", "at_place"))](rng, scene)
    return reworded(rng, qa[0])


def _worded(task: str, kind: str, rng: random.Random, *, held_out: bool) -> Sample | None:
    if kind in TASKS:
        sample = draw_sample(kind, rng, SEEN)
        scenes, question, answer, choices = sample.scenes, sample.question, sample.answer, sample.choices
    elif kind in _PAIRS:
        scenes, question, answer = _pair(kind, rng)
        choices = ()
    else:
        scene = (groups.sizes if kind == "bigger" else groups.free)(rng, SEEN).scenes[0]
        ask: Callable[..., tuple[str, str] | None] = MORE_QUESTIONS[kind]
        more: dict[str, Cast] = {"cast": SEEN} if kind in _OF_CAST else {}
        qa = ask(rng, scene, **more)
        if qa is None:
            return None
        scenes, choices = (scene,), ()
        question, answer = qa
    return Sample(task, tuple(scenes), reworded(rng, question, held_out), answer, choices, judge="words")


def _pair(kind: str, rng: random.Random) -> tuple[tuple[Scene, ...], str, str]:
    group = groups.change_pair(rng, SEEN)
    different = rng.random() < 0.5
    scenes = group.scenes if different else (group.scenes[0], group.scenes[0])
    if kind == "same":
        return scenes, *more_questions.same(rng, different)
    return scenes, *more_questions.compare(rng, scenes, group if different else None)


def _count(task: str, number: int, rng: random.Random) -> Sample | None:
    """A count of a kind that is there so many times."""
    scene = free_scene(rng, SEEN, same=max(number, 1))
    counts = {kind: sum(item.shape == kind for item in scene.items) for kind in (*SHAPES, *THINGS)}
    kinds = [kind for kind, count in counts.items() if count == number]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    nouns = plural(kind)
    question = rng.choice((f"How many {nouns} are there?", f"Count the {nouns}."))
    verb, shown = ("is", kind) if number == 1 else ("are", nouns)
    return Sample(task, (scene,), question, f"There {verb} {NUMBERS[number]} {shown}.", judge="words")
