"""Long clips and questions about them, to compare numbers of sampled frames.

The right answer is that of the whole clip, whichever frames are sampled.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_interleave.world import group_questions as asked
from edge_interleave.world import groups
from edge_interleave.world.groups import LONG_CLIP, Group
from edge_interleave.world.phrases import QA
from edge_interleave.world.samples import Sample, lasting
from edge_interleave.world.vocabulary import Split

T = TypeVar("T")
KINDS = {"direction": "glide", "order": "arrivals", "events": "change"}
"""Task to the kind of group (`groups.MAKERS`) of its clips."""


def draw_video(task: str, rng: random.Random, split: Split) -> Sample:
    """A clip of LONG_CLIP frames, of a task of KINDS."""
    make: Callable[..., Group] = groups.MAKERS[KINDS[task]]
    while not suits(task, group := make(rng, split=split)):
        pass
    states, (question, answer) = frames_of(task, rng, group)
    return Sample(task, tuple(group.scenes[state] for state in states), question, answer)


def suits(task: str, group: Group) -> bool:
    """Whether the group can become a clip of the task."""
    if task != "events":
        return True
    there = {item.name for item in group.scenes[0].items}
    return group.after is not None and group.change == "appear" and group.after.name not in there


def frames_of(task: str, rng: random.Random, group: Group) -> tuple[list[int], QA]:
    """The index of the group's scene that each frame shows, and a question with its answer."""
    if task == "direction":
        return list(range(LONG_CLIP)), asked.direction(rng, group)
    if task == "order":
        return lasting(rng, len(group.scenes), LONG_CLIP), asked.order(rng, group)
    assert group.after is not None
    times = rng.randint(1, 3)
    changes = lasting(rng, 2 * times + rng.randint(0, 1), LONG_CLIP)
    return [change % 2 for change in changes], asked.events(rng, group.after, times)


def sampled(frames: Sequence[T], count: int) -> list[T]:
    """`count` evenly spaced frames: the middle of each of `count` equal parts."""
    return [frames[int((number + 0.5) * len(frames) / count)] for number in range(count)]
