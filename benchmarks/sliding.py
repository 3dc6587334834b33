"""Measures how many right answers a sliding window costs: the same clips in `sliding` and in `exact` mode.

    python benchmarks/sliding.py                    # the embedded model, windows 2, 4 and 8
    python benchmarks/sliding.py --clips 500 --pool 2 --json

Every clip is longer than the window, so the oldest frames have left when the question comes. Needs only the package.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

import edge_interleave as ei
from edge_interleave.evaluation.intervals import normal_half_width
from edge_interleave.world.drawing import draw

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "embedded_model"))

import clips

SEED = 707
MODES = ("sliding", "exact")


@dataclass(frozen=True)
class Gap:
    """The result of one task at one window size."""

    task: str
    window: int
    clips: int
    sliding: float
    """Share of clips answered correctly, word for word."""
    exact: float
    same: float
    """Share of clips with the same answer in both modes."""
    half: float
    """Half the width of the 95 % interval of the paired difference `sliding` - `exact`."""


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle folder (default: the embedded model)")
    parser.add_argument("--clips", type=int, default=500, help="clips per task and window")
    parser.add_argument("--windows", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--pool", type=int, default=2, help="pooling stride")
    parser.add_argument("--tasks", nargs="+", choices=clips.TASKS, default=list(clips.TASKS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    work = [(task, window) for window in arguments.windows for task in arguments.tasks]
    with ei.load(arguments.bundle, threads=1) as model:
        gaps = [
            measure(model, task, window, arguments.clips, arguments.pool)
            for task, window in track(work, "clips", console=Console(stderr=True))
        ]
    if arguments.json:
        print(json.dumps([asdict(gap) for gap in gaps]))
    else:
        show(gaps)


def measure(model: ei.Model, task: str, window: int, count: int, pool: int) -> Gap:
    """Run both modes on `count` new clips."""
    right: dict[str, list[bool]] = {mode: [] for mode in MODES}
    same = 0
    for number in range(count):
        clip = clips.draw_clip(task, random.Random(f"{SEED}/{task}/{window}/{number}"), window)
        pictures = [draw(scene) for scene in clip.scenes]
        answers = []
        for mode in MODES:
            with model.live(window, pool, mode=mode) as live:
                for picture in pictures:
                    live.add(picture)
                answers.append(live.ask(clip.question, max_tokens=64).text.strip())
            right[mode].append(answers[-1] == clip.answer)
        same += answers[0] == answers[1]
    differences = [a - b for a, b in zip(*right.values(), strict=True)]
    shares = {mode: sum(given) / count for mode, given in right.items()}
    half = normal_half_width(differences) or 0.0
    return Gap(task, window, count, shares["sliding"], shares["exact"], same / count, half)


def show(gaps: Sequence[Gap]) -> None:
    """Print the table."""
    table = Table("task", "window", "clips", "sliding", "exact", "gap, points", "same answer")
    for gap in gaps:
        table.add_row(
            gap.task, str(gap.window), str(gap.clips), f"{gap.sliding:.3f}", f"{gap.exact:.3f}",
            f"{100 * (gap.sliding - gap.exact):+.1f} ± {100 * gap.half:.1f}", f"{gap.same:.3f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
