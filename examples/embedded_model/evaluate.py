"""How well a bundle answers freshly drawn samples: exact match of the whole answer, through the runtime.

    python examples/embedded_model/evaluate.py     # the embedded bundle, 500 samples a task and stride
    python examples/embedded_model/evaluate.py --bundle FOLDER --count 100 --json

The samples come from a seed that training never used. Needs the package alone, no PyTorch.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import edge_interleave as ei
from edge_interleave.world.drawing import draw
from edge_interleave.world.samples import FIRST, draw_sample

SEED = 20261
FLOORS = {
    "describe": 0.80,
    "colour": 0.90,
    "place": 0.85,
    "count": 0.95,
    "is there": 0.90,
    "which image": 0.85,
    "in image": 0.80,
    "true or false": 0.85,
    "what changed": 0.65,
    "direction": 0.90,
    "appearance": 0.75,
}


@dataclass(frozen=True)
class Score:
    """One task at one stride."""

    task: str
    stride: int
    samples: int
    accuracy: float
    floor: float
    by_items: dict[int, float]
    """Accuracy by the largest number of items in one picture."""
    wrong: tuple[str, ...]
    """A few wrong answers: question, answer, right answer."""


def main() -> None:
    """Evaluate and print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle folder (default: the embedded model)")
    parser.add_argument("--count", type=int, default=500, help="samples a task")
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 2], help="pooling strides")
    parser.add_argument("--tasks", nargs="+", default=list(FIRST), choices=FIRST)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    jobs = [(task, stride) for task in arguments.tasks for stride in arguments.strides]
    with ei.load(arguments.bundle) as model:
        scores = [
            score(model, task, stride, arguments.count)
            for task, stride in track(jobs, "asking", console=Console(stderr=True), transient=True)
        ]
    if arguments.json:
        print(json.dumps([asdict(s) for s in scores], indent=1))
        return
    table = Table("task", "stride", "samples", "exact match", "floor", "by objects in a picture")
    for s in scores:
        by_items = " ".join(f"{n}:{share:.2f}" for n, share in s.by_items.items())
        table.add_row(s.task, str(s.stride), str(s.samples), f"{s.accuracy:.3f}", f"{s.floor:.2f}", by_items)
    Console().print(table)


def score(model: ei.Model, task: str, stride: int, count: int) -> Score:
    """Ask `count` fresh samples of a task."""
    right: Counter[int] = Counter()
    total: Counter[int] = Counter()
    wrong = []
    for index in range(count):
        sample = draw_sample(task, random.Random(f"{SEED}/{task}/{index}"))
        answer = model.ask([*map(draw, sample.scenes), sample.question], pool=stride, max_tokens=100).text
        items = max(len(scene.items) for scene in sample.scenes)
        total[items] += 1
        right[items] += answer == sample.answer
        if answer != sample.answer and len(wrong) < 5:
            wrong.append(f"{sample.question} -> {answer} (right: {sample.answer})")
    by_items = {items: right[items] / total[items] for items in sorted(total)}
    return Score(task, stride, count, right.total() / count, FLOORS[task], by_items, tuple(wrong))


if __name__ == "__main__":
    main()
