"""Long clips and questions about them: what of it a model sees depends on how many frames are taken.

The right answer is that of the whole clip, whatever the frames taken of it show. Knows nothing about models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_interleave.world import group_questions as asked
from edge_interleave.world import groups
from edge_interleave.world.cast import Cast
from edge_interleave.world.groups import LONG_CLIP, Group
from edge_interleave.world.questions import QA
from edge_interleave.world.samples import Sample, lasting

T = TypeVar("T")
KINDS = {"direction": "glide", "order": "arrivals", "events": "change"}
"""Task to the kind of group (groups.MAKERS) that its clips are of."""


def draw_video(task: str, rng: random.Random, cast: Cast) -> Sample:
    """A fresh clip of a task (one of KINDS), of LONG_CLIP frames."""
    make: Callable[..., Group] = groups.MAKERS[KINDS[task]]
    while not suits(task, group := make(rng, cast=cast)):
        pass
    states, (question, answer) = film(task, rng, group)
    return Sample(task, tuple(group.scenes[state] for state in states), question, answer)


def suits(task: str, group: Group) -> bool:
    """Whether a clip of the task can be made of the group."""
    if task != "events":
        return True
    there = {item.name for item in group.scenes[0].items}
    return group.after is not None and group.change == "appear" and group.after.name not in there


def film(task: str, rng: random.Random, group: Group) -> tuple[list[int], QA]:
    """Which of the group's scenes each frame of a long clip shows, and a question with its answer."""
    if task == "direction":
        return list(range(LONG_CLIP)), asked.direction(rng, group)
    if task == "order":
        return lasting(rng, len(group.scenes), LONG_CLIP), asked.order(rng, group)
    assert group.after is not None
    times = rng.randint(1, 3)
    changes = lasting(rng, 2 * times + rng.randint(0, 1), LONG_CLIP)
    return [change % 2 for change in changes], asked.events(rng, group.after, times)


def taken(frames: Sequence[T], count: int) -> list[T]:
    """So many of the frames, at even distances: the middle of each of `count` equal parts."""
    return [frames[int((number + 0.5) * len(frames) / count)] for number in range(count)]
