"""Clips for a live window, with questions that are asked after earlier frames were evicted.

A question that names no frame is about the latest one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from edge_interleave.world import group_questions, groups
from edge_interleave.world.samples import Sample
from edge_interleave.world.scene import Scene, random_scene
from edge_interleave.world.scene_questions import SCENE_QUESTIONS

TASKS = ("describe", "colour", "place", "count", "is there", "what changed", "direction", "appearance")


def draw_clip(task: str, rng: random.Random, window: int) -> Sample:
    """A clip of a task of TASKS, for a window of `window` frames (2 or more).

    At least one frame is evicted before the question. Frames are numbered from 1.
    """
    before = rng.randint(1, window + 2)
    while True:
        if task in SCENE_QUESTIONS:
            scene = random_scene(rng)
            shown: Sequence[Scene] = [scene] * rng.randint(1, window)
            qa = SCENE_QUESTIONS[task](rng, scene)
            before = max(before, window + 1 - len(shown))
        elif task == "direction":
            group = groups.motion(rng, max(3, rng.randint(2, window)))
            shown, qa = group.scenes, group_questions.direction(rng, group)
            before = max(before, window + 1 - len(shown))
        elif task in ("what changed", "appearance"):
            group = groups.change_pair(rng)
            if task == "appearance" and group.change != "appear":
                continue
            later = rng.randint(1, window - 1)
            shown = [group.scenes[0]] * (window - later) + [group.scenes[1]] * later
            if task == "what changed":
                qa = group_questions.changed(rng, group)
            else:
                assert group.after is not None
                qa = group_questions.appearance(rng, group.after, before + window - later + 1)
        else:
            raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
        if qa is not None:
            break
    earlier = [random_scene(rng, rng.choice((1, 2, 3))) for _ in range(before)]
    return Sample(task, (*earlier, *shown), *qa)
