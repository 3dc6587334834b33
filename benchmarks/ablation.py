"""The cost in right answers of precision, pooling and sliding windows: small ablations on the drawn world.

    python benchmarks/ablation.py --out runs/ablation                                  # all tables; some hours
    python benchmarks/ablation.py --out runs/ablation --tables precision --samples 50
    python benchmarks/ablation.py --out runs/ablation --json                           # finished parts are not repeated

`precision`: the embedded model as f16, q8_0, q4_k_m and MLX 4bit, with the tower in fp32 and int8, on each task of the
world (`edge-interleave eval --world`), compared with f16 and an fp32 tower. `sliding`: a sliding live window, compared
with one that is recomputed. `pooling`: after the paper's table 1 (arXiv 2407.07895), variants of the model trained on
few unpooled frames or on four times as many pooled ones, each asked about long clips with equal visual tokens and with
more frames than in training. Only `pooling` needs the `oracle` extra, to train the two variants.

Intervals are 95 %. All answers are stored under --out, and an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ablation_pooling import Clips, measure_pooling
from ablation_precision import ALL, Cell, measure_precision
from golden_prompts import CHECKPOINT
from rich.console import Console
from rich.table import Table
from sliding import Gap, clips, measure

import edge_interleave as ei

TABLES = ("precision", "sliding", "pooling")
WINDOW = 4


def main() -> None:
    """Print the tables, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles and answers")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--samples", type=int, default=200, help="samples of each task")
    parser.add_argument("--without-mlx", action="store_true", help="leave MLX out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    told: dict[str, object] = {}
    if "precision" in arguments.tables:
        cells = measure_precision(arguments.checkpoint, arguments.out, arguments.samples, mlx=not arguments.without_mlx)
        told["precision"] = [asdict(cell) for cell in cells]
        if not arguments.json:
            show_precision(cells)
    if "sliding" in arguments.tables:
        with ei.load(None, threads=1) as model:
            gaps = [measure(model, task, WINDOW, arguments.samples, pool=2) for task in clips.TASKS]
        told["sliding"] = [asdict(gap) for gap in gaps]
        if not arguments.json:
            show_sliding(gaps)
    if "pooling" in arguments.tables:
        rows = measure_pooling(arguments.checkpoint, arguments.out, arguments.samples)
        told["pooling"] = [asdict(row) for row in rows]
        if not arguments.json:
            show_pooling(rows)
    if arguments.json:
        print(json.dumps(told, indent=1))


def show_precision(cells: Sequence[Cell]) -> None:
    """A row for each task, a column for each bundle: right answers, and significant differences to the first bundle."""
    names = list(dict.fromkeys(cell.bundle for cell in cells))
    table = Table("task", *names, title="right answers, by precision")
    for task in dict.fromkeys(cell.task for cell in cells):
        of_task = {cell.bundle: cell for cell in cells if cell.task == task}
        table.add_row(task, *(_cell(of_task[name]) for name in names))
    Console().print(table)


def show_sliding(gaps: Sequence[Gap]) -> None:
    """A row for each task."""
    table = Table("task", "sliding", "exact", "difference", title=f"right answers of a live window of {WINDOW}")
    for gap in gaps:
        difference = f"{100 * (gap.sliding - gap.exact):+.1f} ± {100 * gap.half:.1f}"
        table.add_row(gap.task, f"{gap.sliding:.3f}", f"{gap.exact:.3f}", difference)
    Console().print(table)


def show_pooling(rows: Sequence[Clips]) -> None:
    """A row for each variant and number of frames, a column for each task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    table = Table("trained on", "asked with", "visual tokens", *tasks, title="right answers about clips of 24 frames")
    for trained, frames, stride in dict.fromkeys((row.trained, row.frames, row.stride) for row in rows):
        of_row = {row.task: row for row in rows if (row.trained, row.frames, row.stride) == (trained, frames, stride)}
        some = next(iter(of_row.values()))
        shares = [_share(of_row[task].right, of_row[task].interval) for task in tasks]
        table.add_row(trained, f"{frames} frames, stride {stride}", str(some.visual_tokens), *shares)
    Console().print(table)


def _cell(cell: Cell) -> str:
    if cell.difference is None:
        return _share(cell.right, cell.interval)
    share, half = f"{cell.right:.3f}", cell.half or 0.0
    if abs(cell.difference) <= half and cell.task != ALL:
        return share
    return f"{share} ({100 * cell.difference:+.1f} ± {100 * half:.1f})"


def _share(right: float, interval: tuple[float, float]) -> str:
    return f"{right:.3f} ({interval[0]:.2f} to {interval[1]:.2f})"


if __name__ == "__main__":
    main()
