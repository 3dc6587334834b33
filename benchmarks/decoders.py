"""Two backends' decoders in turns on the same machine, at the 0.5B model's dimensions: rows and tokens a second.

    python benchmarks/decoders.py [--backends onnx llama-cpp] [--pairs 5] [--busy] [--folder FOLDER] [--json]

Random weights: speed alone. Each case is tried with one backend, then with the other, and so on; a ratio is the median
over those pairs, so that what else the machine does falls on both alike. `--busy`: beside a process that keeps one core
busy, and alone, in turns; prints how many times slower each backend is. `--folder` keeps the bundle for the next run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from random_checkpoint import Options, model_config, write_random_checkpoint
from rich.console import Console
from rich.table import Table

from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.decoder import Decoder, DecoderOptions
from edge_interleave.decoding.registry import find_backend

CONTEXT = 2048
CASES = ((169, 0), (169, 1352), (32, 1500), (12, 1500), (1, 10), (1, 1500))
"""Rows to compute, and KV entries before them. 169 rows are a frame at stride 2."""
TOKENS = 8
"""Tokens of a trial where one row is computed at a time."""


@dataclass(frozen=True)
class Case:
    """One case: both backends' medians, and the median of their ratios."""

    rows: int
    before: int
    rows_per_second: tuple[float, float]
    ratio: float


def main() -> None:
    """Print a table, or JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs=2, default=["onnx", "llama-cpp"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = make_bundle(given.folder or Path(temporary), given.backends)
        if given.busy:
            print_busy(bundle, given.backends, given.pairs, given.threads)
            return
        cases = measure(bundle, given.backends, given.pairs, given.threads)
    if given.json:
        print(json.dumps([asdict(case) for case in cases], indent=1))
        return
    table = Table("rows", "before", *given.backends, "ratio")
    for case in cases:
        speeds = (f"{speed:.1f}" for speed in case.rows_per_second)
        table.add_row(str(case.rows), f"{case.before:,}", *speeds, f"{case.ratio:.2f}")
    Console().print(table)


def make_bundle(folder: Path, backends: list[str]) -> Bundle:
    """A bundle of the 0.5B model's decoder for these backends, and a tiny tower, which nothing here runs."""
    out = folder / "bundle"
    if not out.exists():
        config = model_config("0.5b")
        small = model_config("tiny")
        checkpoint = write_random_checkpoint(
            folder / "checkpoint", type(config)(**{**vars(config), "vision": small.vision}), Options(vocabulary="full")
        )
        convert(checkpoint, out, backends=backends)
    return open_bundle(out)


def measure(bundle: Bundle, backends: list[str], pairs: int, threads: int | None) -> list[Case]:
    """All cases."""
    options = DecoderOptions(context=CONTEXT, threads=threads)
    decoders = [find_backend(name).open(bundle, options) for name in backends]
    cases = []
    for rows, before in CASES:
        for decoder in decoders:
            fill(decoder, before)
            trial(decoder, rows)
        trials = [[rows / trial(decoder, rows) for decoder in decoders] for _ in range(pairs)]
        first, second = zip(*trials, strict=True)
        ratio = statistics.median(a / b for a, b in trials)
        cases.append(Case(rows, before, (statistics.median(first), statistics.median(second)), ratio))
    for decoder in decoders:
        decoder.close()
    return cases


def fill(decoder: Decoder, count: int) -> None:
    """Have so many entries in the timeline."""
    decoder.truncate(0)
    if count:
        decoder.append_embeddings(embeddings(decoder, count))


def trial(decoder: Decoder, rows: int) -> float:
    """Seconds that so many rows take behind the timeline, which is as it was afterwards; for one row, of a token."""
    end = decoder.position
    values = embeddings(decoder, rows)
    start = time.perf_counter()
    if rows == 1:
        for token in range(TOKENS):
            decoder.append_tokens([token])
    else:
        decoder.append_embeddings(values)
    seconds = time.perf_counter() - start
    decoder.truncate(end)
    return seconds / (TOKENS if rows == 1 else 1)


def embeddings(decoder: Decoder, count: int) -> np.ndarray:
    """Rows of about the size of visual tokens."""
    return np.random.default_rng(count).standard_normal((count, decoder.facts.hidden_size), np.float32)


def print_busy(bundle: Bundle, backends: list[str], pairs: int, threads: int | None) -> None:
    """How many times slower a frame's prefill is beside one busy process."""
    for name in backends:
        decoder = find_backend(name).open(bundle, DecoderOptions(context=CONTEXT, threads=threads))
        fill(decoder, 1352)
        trial(decoder, 169)
        alone, beside = [], []
        for _ in range(pairs):
            alone.append(trial(decoder, 169))
            with busy():
                beside.append(trial(decoder, 169))
        decoder.close()
        print(f"{name}: {statistics.median(beside) / statistics.median(alone):.2f} times slower beside a busy process")


@contextmanager
def busy() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(1)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
