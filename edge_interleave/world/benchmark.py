"""The world as a benchmark: a file in M4-Instruct's format, and its pictures.

The seed determines the samples: the same call writes the same benchmark. Training uses other seeds (`train/...`).
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
from edge_interleave.world.drawing import draw
from edge_interleave.world.everyday_samples import EVERYDAY, draw_everyday
from edge_interleave.world.samples import TASKS, Sample, draw_sample
from edge_interleave.world.vocabulary import SPLITS

NAME = "world.json"
ALL_TASKS = {**TASKS, **EVERYDAY}
"""The default tasks."""
_SETTINGS = "settings.json"
CHANCE_SAMPLES = 200
"""Number of samples that estimate a task's chance."""


def write_benchmark(
    folder: Path,
    *,
    seed: int = 0,
    per_task: int = 100,
    tasks: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Path:
    """Write `world.json` and its pictures into a new folder; returns the file's path.

    A folder with the same benchmark is kept. The folder is written as a temporary sibling, then renamed. If several
    processes start together (the shards of one evaluation), one draws and the others wait.
    A third of a task's samples hold something out, where the task allows it: `metadata.held_out` says what.
    Raises ValueError for an unknown task, FileExistsError if the folder holds something else.
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
            # After a wait, the other process's folder is there.
            if ours and not folder.exists():
                for left in partial.iterdir():
                    left.unlink()
                with writing(partial):
                    _write(partial, settings, progress)
                os.rename(partial, folder)
    stamp = folder / _SETTINGS
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == settings:
        return folder / NAME
    raise FileExistsError(f"{folder} holds another benchmark; give another folder, or remove it")


def benchmark_samples(task: str, seed: int, count: int) -> Iterator[tuple[str, Sample]]:
    """The first `count` test samples of a task, each with what it holds out: a key of `vocabulary.SPLITS`."""
    kinds = ("", "", "", "", *ALL_TASKS[task].held_out)
    for index in range(count):
        held_out = kinds[index % len(kinds)]
        yield held_out, draw_any(task, random.Random(f"bench/{seed}/{task}/{index}"), held_out)


def draw_any(task: str, rng: random.Random, held_out: str = "") -> Sample:
    """A sample of a task of ALL_TASKS. `held_out`: a key of `vocabulary.SPLITS`; everyday tasks ignore it."""
    return draw_everyday(task, rng) if task in EVERYDAY else draw_sample(task, rng, SPLITS[held_out])


def chance_of(task: str) -> float:
    """The share of right answers that always giving the commonest answer gets, 0 to 1.

    Estimated on CHANCE_SAMPLES samples with separate seeds. Answers are compared without the words of their question.
    """
    samples = [draw_any(task, random.Random(f"chance/{task}/{i}")) for i in range(CHANCE_SAMPLES)]
    counts: dict[tuple[str, ...], int] = {}
    for sample in samples:
        known = set(sample.question.lower().rstrip("?.").split())
        words = tuple(word for word in sample.answer.lower().rstrip(".").split() if word not in known)
        counts[words] = counts.get(words, 0) + 1
    return max(counts.values()) / len(samples)


def _write(folder: Path, settings: dict[str, Any], progress: Callable[[str, int, int], None]) -> None:
    rows: list[dict[str, Any]] = []
    total = settings["per_task"] * len(settings["tasks"])
    for task in settings["tasks"]:
        chance = chance_of(task)
        for index, (held_out, sample) in enumerate(benchmark_samples(task, settings["seed"], settings["per_task"])):
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
