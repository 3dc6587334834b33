"""Cost and accuracy of the int8 tower at the released tower's width, compared with one scale per tensor.

    python benchmarks/tower.py [--blocks 4] [--threads 1] [--rounds 10] [--json]

A random tower of so400m's width (1152 x 4304, 729 tokens) with some of its 26 blocks, and the same tower with massive
activations planted in a middle block: three tokens with 100 to 1,000 times the median in two channels. Each in fp32, in
int8 as `convert` makes it, and as ONNX Runtime's `quantize_dynamic` does (one scale for each tensor of activations and
for each output of a matrix). Cosines compare tokens with fp32: minimum and mean. Seconds are the median CPU time over
pictures, with the towers in turn; ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import quantization
from random_checkpoint import model_config, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from edge_interleave.bundle.manifest import VisionInfo
from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.reader import open_checkpoint
from edge_interleave.converters.onnx.probe import VisionProbe
from edge_interleave.converters.onnx.probe_pictures import probe_pictures
from edge_interleave.converters.onnx.vision import write_vision_onnx
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tower import VisionTower

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.planted_outliers import Planted, massive_tokens

PICTURES = 4


def measure(checkpoint: Any, folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each version of the tower."""
    folder.mkdir()
    info = read_vision_info(checkpoint.folder, checkpoint.config, 0)
    found = VisionProbe(checkpoint).found("int8")
    write_vision_onnx(checkpoint, folder / "fp32.onnx", "fp32")
    write_vision_onnx(checkpoint, folder / "int8.onnx", "int8", balances=found.balances)
    quantization.quantize_dynamic(
        folder / "fp32.onnx",
        folder / "tensor.onnx",
        ["MatMul"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )
    names = {"fp32": "fp32", "tensor": "int8, a scale for a tensor", "int8": "int8, as convert makes it"}
    towers = {names[file]: VisionTower(folder / f"{file}.onnx", info, threads) for file in names}
    tokens, seconds = run(towers, info, rounds)
    pairs = list(zip(seconds[names["int8"]], seconds[names["tensor"]], strict=True))
    rows = []
    for name in towers:
        a, b = tokens["fp32"].astype(np.float64), tokens[name].astype(np.float64)
        cosine = (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        rows.append(
            {
                "tower": name,
                "least_cosine": float(cosine.min()),
                "mean_cosine": float(cosine.mean()),
                "seconds": statistics.median(seconds[name]),
                "ratio": statistics.median(ours / theirs for ours, theirs in pairs) if name == names["int8"] else None,
                "channels_apart": sum(len(balance.apart) for balance in found.balances.values()),
            }
        )
    return rows


def run(
    towers: dict[str, VisionTower], info: VisionInfo, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """The visual tokens of some pictures by each tower, and CPU seconds for one picture, with the towers in turn."""
    pixels = np.stack([preprocess(picture, info) for picture in probe_pictures(info.image_size)[::-1][:PICTURES]])
    tokens = {name: tower.encode(pixels) for name, tower in towers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in towers}
    for _ in range(rounds):
        for name, tower in towers.items():
            started = time.process_time()
            tower.encode(pixels[:1])
            seconds[name].append(time.process_time() - started)
    return tokens, seconds


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=4, help="how many of the tower's 26 blocks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = model_config("tiny")
    vision = replace(model_config("0.5b").vision, layers=given.blocks)
    with tempfile.TemporaryDirectory() as place:
        folder = write_random_checkpoint(Path(place) / "checkpoint", replace(config, vision=vision))
        rows = []
        with open_checkpoint(folder) as checkpoint:
            planted = Planted(checkpoint, massive_tokens(checkpoint, given.blocks // 2, 2000, projected=False))
            for weights, source in (("random", checkpoint), ("planted", planted)):
                for row in measure(source, Path(place) / weights, given.threads, given.rounds):
                    rows.append({"weights": weights, **row})
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("weights", "tower", "least cosine", "mean cosine", "seconds", "ratio", "channels apart")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        cosines = (f"{row[name]:.4f}" for name in ("least_cosine", "mean_cosine"))
        table.add_row(
            row["weights"], row["tower"], *cosines, f"{row['seconds']:.3f}", ratio, str(row["channels_apart"])
        )
    Console().print(table)


if __name__ == "__main__":
    main()
