"""The world as a benchmark: a file in M4-Instruct's format, and the pictures that it names.

Samples follow from the seed, so the same call writes the same bench. Training never uses test seeds: its scenes come
from other random sources (`train/...`). Knows nothing about models.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edge_interleave.util.directory_lock import locked_folder
from edge_interleave.util.disk_space import writing
from edge_interleave.world.cast import CASTS
from edge_interleave.world.drawing import draw
from edge_interleave.world.everyday import EVERYDAY, draw_everyday
from edge_interleave.world.samples import TASKS, Sample, draw_sample

NAME = "world.json"
ALL_TASKS = {**TASKS, **EVERYDAY}
"""What a bench asks, unless it is told."""
_SETTINGS = "settings.json"
CHANCE_SAMPLES = 200
"""From so many right answers of other samples a task's chance is estimated."""


def write_bench(
    folder: Path,
    *,
    seed: int = 0,
    per_task: int = 100,
    tasks: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Path:
    """Write `world.json` and its pictures into a new folder, and give the file's path.

    A folder that holds the very same bench is kept. It is built beside its place and renamed when it is whole; of
    processes that begin at once (the parts of one evaluation) one draws and the others wait for it.
    A third of a task's samples have something held out, where the task allows it: `metadata.held_out` says what.
    Raises ValueError for a task that is unknown, FileExistsError where the folder holds something else.
    """
    names = list(ALL_TASKS) if tasks is None else list(tasks)
    unknown = [name for name in names if name not in ALL_TASKS]
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r}; one of {', '.join(ALL_TASKS)}")
    settings = {"seed": seed, "per_task": per_task, "tasks": names}
    partial = folder.with_name(f".{folder.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    while not folder.exists():
        with locked_folder(partial, wait=True) as ours:
            # Whoever had to wait for another process finds its bench.
            if ours and not folder.exists():
                for left in partial.iterdir():
                    left.unlink()
                with writing(partial):
                    _write(partial, settings, progress)
                os.rename(partial, folder)
    stamp = folder / _SETTINGS
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == settings:
        return folder / NAME
    raise FileExistsError(f"{folder} holds another bench; give another folder, or remove it")


def bench_samples(task: str, seed: int, count: int) -> Iterator[tuple[str, Sample]]:
    """What is held out ("" for nothing; of cast.CASTS) and a sample, `count` times; the first of a longer run."""
    kinds = ("", "", "", "", *ALL_TASKS[task].held_out)
    for index in range(count):
        held_out = kinds[index % len(kinds)]
        yield held_out, _drawn(task, random.Random(f"bench/{seed}/{task}/{index}"), held_out)


def chance_of(task: str) -> float:
    """How often the most frequent of the right answers is right, over samples of a seed of its own.

    It knows the question, as far as it names what the answer must name: answers are compared after the words of the
    question are struck out of them.
    """
    samples = [_drawn(task, random.Random(f"chance/{task}/{i}"), "") for i in range(CHANCE_SAMPLES)]
    counts: dict[tuple[str, ...], int] = {}
    for sample in samples:
        known = set(sample.question.lower().rstrip("?.").split())
        words = tuple(word for word in sample.answer.lower().rstrip(".").split() if word not in known)
        counts[words] = counts.get(words, 0) + 1
    return max(counts.values()) / len(samples)


def _drawn(task: str, rng: random.Random, held_out: str) -> Sample:
    return draw_everyday(task, rng) if task in EVERYDAY else draw_sample(task, rng, CASTS[held_out])


def _write(folder: Path, settings: dict[str, Any], progress: Callable[[str, int, int], None]) -> None:
    rows: list[dict[str, Any]] = []
    total = settings["per_task"] * len(settings["tasks"])
    for task in settings["tasks"]:
        chance = chance_of(task)
        for index, (held_out, sample) in enumerate(bench_samples(task, settings["seed"], settings["per_task"])):
            identity = f"{task.replace(' ', '-')}-{index:05}"
            rows.append(_row(folder, identity, sample, held_out, chance))
            progress("drawing", len(rows), total)
    (folder / NAME).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (folder / _SETTINGS).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def _row(folder: Path, identity: str, sample: Sample, held_out: str, chance: float) -> dict[str, Any]:
    task = ALL_TASKS[sample.task]
    images: list[str] = []
    written: dict[int, str] = {}
    for number, scene in enumerate(sample.scenes):
        name = written.get(id(scene))
        if name is None:
            name = written[id(scene)] = f"{identity}-{number + 1}.png"
            draw(scene).save(folder / name)
        images.append(name)
    question = "<image>" * len(images) + sample.question
    row: dict[str, Any] = {
        "sample_id": identity,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": sample.answer}],
        "image": images,
        "metadata": {
            "dataset": sample.task,
            "question_type": "multi-choice" if sample.choices else "open-ended",
            "category": task.category,
            "scenario": task.scenario,
            "chance": chance,
        },
    }
    if task.held_out:
        row["metadata"]["held_out"] = held_out
    if sample.judge:
        row["metadata"]["judge"] = sample.judge
    if sample.choices:
        row["choice_list"] = list(sample.choices)
    return row
