"""The precision ablation: one checkpoint as bundles of several precisions, each evaluated on the drawn world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

import edge_interleave as ei
from edge_interleave import evaluation as benchmark
from edge_interleave.bundle.manifest import MANIFEST_NAME
from edge_interleave.converters.convert import convert
from edge_interleave.evaluation.intervals import normal_half_width, wilson_interval
from edge_interleave.evaluation.results import read_results
from edge_interleave.world.benchmark import write_benchmark
from edge_interleave.world.samples import TASKS

SEED = 0
ALL = "all"
"""The row of all tasks together."""


@dataclass(frozen=True)
class Precision:
    """The precisions of one conversion."""

    name: str
    backend: str
    quantization: str
    tower: str


PRECISIONS = (
    Precision("f16, tower fp32", "llama-cpp", "f16", "fp32"),
    Precision("f16", "llama-cpp", "f16", "int8"),
    Precision("q8_0", "llama-cpp", "q8_0", "int8"),
    Precision("q4_k_m", "llama-cpp", "q4_k_m", "int8"),
    Precision("MLX 4bit", "mlx", "4bit", "int8"),
)
"""The others are compared with the first. The tower is int8 unless the name says otherwise."""


@dataclass(frozen=True)
class Cell:
    """One bundle's result on one task."""

    bundle: str
    task: str
    """ALL for all tasks."""
    answers: int
    right: float
    """Share of right answers."""
    interval: tuple[float, float]
    """95 % interval of `right` (Wilson)."""
    difference: float | None
    """Paired difference to the first bundle; None for the first."""
    half: float | None
    """Half the width of the 95 % interval of `difference`."""


def measure_precision(checkpoint: Path, out: Path, samples: int, *, mlx: bool) -> list[Cell]:
    """Convert, ask and compare; stored answers are reused."""
    world = benchmark.World(SEED, samples)
    file = write_benchmark(out / f"world-{samples}", seed=SEED, per_task=samples, tasks=list(TASKS))
    cells: list[Cell] = []
    first: dict[str, dict[int, bool]] = {}
    chosen = [precision for precision in PRECISIONS if mlx or precision.backend != "mlx"]
    for number, precision in enumerate(track(chosen, "asking", console=Console(stderr=True))):
        folder = _bundle(checkpoint, out, precision)
        answers = out / f"answers-{samples}" / folder.name
        with ei.load(folder, backend=precision.backend, threads=1) as model:
            benchmark.run(file, model, answers, world=world, settings=benchmark.Settings(max_tokens=100))
        right = _right(answers)
        right[ALL] = {index: told for task in right.values() for index, told in task.items()}
        first = first if number else right
        cells += [_cell(precision.name, task, right[task], first[task] if number else None) for task in right]
    return cells


def _bundle(checkpoint: Path, out: Path, precision: Precision) -> Path:
    folder = out / "bundles" / f"{precision.quantization}-{precision.tower}"
    if not (folder / MANIFEST_NAME).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        option = "mlx_quantization" if precision.backend == "mlx" else "quantization"
        convert(
            checkpoint,
            folder,
            backends=[precision.backend],
            vision_precision=precision.tower,
            **{option: precision.quantization},
        )
    return folder


def _right(answers: Path) -> dict[str, dict[int, bool]]:
    """For each task, whether each sample was answered right, by index in the file."""
    right: dict[str, dict[int, bool]] = {}
    for lines in read_results(answers, shards=1):
        line = lines[0]
        right.setdefault(line["dataset"], {})[line["index"]] = line.get("exact") is True
    return right


def _cell(name: str, task: str, right: dict[int, bool], first: dict[int, bool] | None) -> Cell:
    count, hits = len(right), sum(right.values())
    interval = wilson_interval(hits, count) or (0.0, 1.0)
    if first is None:
        return Cell(name, task, count, hits / count, interval, None, None)
    differences = [float(right[index]) - first[index] for index in right]
    return Cell(name, task, count, hits / count, interval, sum(differences) / count, normal_half_width(differences))
