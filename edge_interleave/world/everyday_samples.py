"""Samples of everyday tasks: other wordings, counts by number, things anywhere, unknown pictures and questions.

A sample is determined by its random source. The held-out wordings of each kind of question are a task.
"""

from __future__ import annotations

import random
from collections import Counter

from edge_interleave.world import group_questions, groups
from edge_interleave.world.phrases import EMPTY, NO_PICTURE, NUMBERS, UNKNOWN_PICTURE, UNKNOWN_QUESTION, article, plural
from edge_interleave.world.samples import TASKS, Sample, Task, draw_sample
from edge_interleave.world.scene import SAME_MAX, Scene, blank_scene, free_look, free_scene
from edge_interleave.world.scene_questions import EVERYDAY_QUESTIONS, ask
from edge_interleave.world.unknown_pictures import HELD_OUT, UNKNOWN_KINDS
from edge_interleave.world.unknown_questions import unknown_question
from edge_interleave.world.vocabulary import SHAPES, THINGS, TRAIN
from edge_interleave.world.wordings import reworded

WORDED = "worded"
"""The task that mixes all kinds of questions, in wordings of training."""
_NEW = "new words: "
_DESCRIBE = ("Describe the image.", "What is in the picture?", "Describe what you see.")
_PAIRS = ("same", "compare")
_KINDS = (*TASKS, *EVERYDAY_QUESTIONS, *_PAIRS)
_COUNTS = {f"count {NUMBERS[number]}": number for number in range(SAME_MAX + 1)}

EVERYDAY: dict[str, Task] = {
    WORDED: Task("everyday", "wordings of training", ()),
    **{f"{_NEW}{kind}": Task("everyday", "held-out wordings", ()) for kind in _KINDS},
    **{name: Task("everyday", "counting", ()) for name in _COUNTS},
    "free names": Task("everyday", "free places", ()),
    "free name": Task("everyday", "free places", ()),
    "free colour": Task("everyday", "free places", ()),
    **{f"unknown {kind}": Task("everyday", "not known", ()) for kind in UNKNOWN_KINDS},
    "unknown film": Task("everyday", "not known", ()),
    "unknown question": Task("everyday", "not known", ()),
    "no picture": Task("everyday", "not known", ()),
    "empty picture": Task("everyday", "not known", ()),
}
"""The tasks, as `samples.TASKS`."""


def draw_everyday(task: str, rng: random.Random) -> Sample:
    """A sample of a task of EVERYDAY. Its `judge` says how an answer is judged. Raises ValueError for another task."""
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
        scene = free_scene(rng, TRAIN)
        qa = ask("describe", rng, scene)
        return None if qa is None else Sample(task, (scene,), *qa, judge="names")
    if task == "free name":
        return _free_name(task, rng)
    if task == "free colour":
        scene = free_scene(rng, TRAIN)
        qa = ask("colour", rng, scene)
        return None if qa is None else Sample(task, (scene,), *qa, judge="words")
    if task == "empty picture":
        scene = blank_scene(rng)
        return Sample(task, (scene,), reworded(rng, rng.choice(_DESCRIBE)), EMPTY, judge="words")
    asked = _about_something(rng)
    if task == "unknown question":
        shown = () if rng.random() < 0.4 else (free_scene(rng, TRAIN),)
        return Sample(task, shown, unknown_question(rng, held_out=True), UNKNOWN_QUESTION, judge="unknown")
    if task == "no picture":
        return Sample(task, (), asked, NO_PICTURE, judge="unknown")
    if task == "unknown film":
        return Sample(task, _unknown_film(rng), asked, UNKNOWN_PICTURE, judge="unknown")
    kind = task.removeprefix("unknown ")
    return Sample(task, (Scene((), free_look(rng), unknown=HELD_OUT + kind),), asked, UNKNOWN_PICTURE, judge="unknown")


def _unknown_film(rng: random.Random) -> tuple[Scene, ...]:
    """Two to eight pictures of one held-out kind: half of the time one that stays."""
    kind, count = rng.choice(UNKNOWN_KINDS), rng.randint(2, 8)
    frames = [Scene((), free_look(rng), unknown=HELD_OUT + kind) for _ in range(count)]
    return tuple(frames if rng.random() < 0.5 else frames[:1] * count)


def _about_something(rng: random.Random) -> str:
    """A question about some picture; half of the time, to describe it."""
    if rng.random() < 0.5:
        return reworded(rng, rng.choice(_DESCRIBE))
    qa = None
    while qa is None:
        scene = free_scene(rng, TRAIN)
        qa = ask(rng.choice(("colour", "place", "count", "is there", "at_place")), rng, scene)
    return reworded(rng, qa[0])


def _worded(task: str, kind: str, rng: random.Random, *, held_out: bool) -> Sample | None:
    if kind in TASKS:
        sample = draw_sample(kind, rng, TRAIN)
        scenes, question, answer, choices = sample.scenes, sample.question, sample.answer, sample.choices
    elif kind in _PAIRS:
        scenes, question, answer = _pair(kind, rng)
        choices = ()
    else:
        scene = (groups.sizes if kind == "bigger" else groups.free)(rng, TRAIN).scenes[0]
        qa = ask(kind, rng, scene, split=TRAIN)
        if qa is None:
            return None
        scenes, choices = (scene,), ()
        question, answer = qa
    return Sample(task, tuple(scenes), reworded(rng, question, held_out), answer, choices, judge="words")


def _pair(kind: str, rng: random.Random) -> tuple[tuple[Scene, ...], str, str]:
    group = groups.change_pair(rng, TRAIN)
    different = rng.random() < 0.5
    scenes = group.scenes if different else (group.scenes[0], group.scenes[0])
    if kind == "same":
        return scenes, *group_questions.same(rng, different)
    return scenes, *group_questions.compare(rng, scenes, group if different else None)


def _free_name(task: str, rng: random.Random) -> Sample | None:
    """What lies alone at a place."""
    scene = free_scene(rng, TRAIN)
    places = Counter(item.place for item in scene.items)
    alone = [item for item in scene.items if places[item.place] == 1]
    if not alone:
        return None
    item = rng.choice(alone)
    question, answer = f"What is at the {item.place}?", f"There is {article(item.name)} at the {item.place}."
    return Sample(task, (scene,), question, answer, judge="words")


def _count(task: str, number: int, rng: random.Random) -> Sample | None:
    """A count of a kind that the scene holds exactly `number` times."""
    scene = free_scene(rng, TRAIN, same=max(number, 1))
    counts = {kind: sum(item.shape == kind for item in scene.items) for kind in (*SHAPES, *THINGS)}
    kinds = [kind for kind, count in counts.items() if count == number]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    nouns = plural(kind)
    question = rng.choice((f"How many {nouns} are there?", f"Count the {nouns}."))
    verb, shown = ("is", kind) if number == 1 else ("are", nouns)
    return Sample(task, (scene,), question, f"There {verb} {NUMBERS[number]} {shown}.", judge="words")
