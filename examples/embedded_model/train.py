"""Trains the embedded model: draws the world, trains the tower, then the whole model, and saves the checkpoint.

    python examples/embedded_model/train.py --runs runs/embedded --out examples/embedded_model/checkpoint

Uses a GPU if there is one. An interrupted run resumes: each stage saves its state under --runs, and the last stage
writes --out once a minute. --seconds limits the time on any machine: about half for drawing and the tower, which run
together, the rest for the answers. Needs the `oracle` extra (PyTorch, transformers) and scikit-image.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import answering
import build
import evaluate_in_torch
import pool
import teach_tower
from composed import Composer
from lessons import Packer
from packing import Packed
from pipeline import Pipeline
from precision import DEVICE
from progress import Length
from stored_pictures import Pictures

from edge_interleave.world.samples import TASKS

POOL = {
    "single": 12000, "change": 5500, "twins": 2000, "motion": 1300, "arrivals": 1300, "story": 1300, "quality": 800,
    "sign": 5000, "puzzle": 2000, "views": 2500, "patches": 1000, "free": 100000, "crowd": 60000,
    "sizes": 5000, "blank": 900, "strange": 14000,
}  # fmt: skip
DRAWING, TOWER = 0.3, 0.47
"""Shares of --seconds for drawing, and for the tower, which trains meanwhile and longer."""


def main() -> None:
    """Run the stages that are not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/embedded"), help="folder of drawings and states")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--start", type=Path, help="a checkpoint to start from; it may be a smaller model")
    parser.add_argument(
        "--tower-steps", type=int, default=2000, help="total steps of the first stage; 0 freezes the tower"
    )
    parser.add_argument("--steps", type=int, default=3000, help="total steps of the second stage")
    parser.add_argument("--seconds", type=float, help="time limit, instead of steps")
    parser.add_argument("--positions", type=int, default=5600, help="positions in a step of the second stage")
    parser.add_argument("--pictures", type=int, default=128, help="pictures in a step of the first stage")
    parser.add_argument("--pool", type=float, default=1.0, help="share of the pool to draw")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="worker processes that draw and pack")
    parser.add_argument("--rate", type=float, default=1.8e-3, help="peak learning rate of the second stage")
    parser.add_argument("--exam", type=int, default=40, help="fresh samples of each task for the final evaluation")
    arguments = parser.parse_args()

    began = time.monotonic()
    seconds = arguments.seconds
    counts = {kind: max(arguments.workers * 8, round(count * arguments.pool)) for kind, count in POOL.items()}
    tokenizer = build.load_tokenizer()

    def make_packer(share: pool.Share, rng: random.Random) -> Callable[[], Packed]:
        packer = Packer(share, tokenizer, rng)
        return lambda: packer.batch(arguments.positions)

    with Pipeline(
        arguments.runs / "pool",
        counts,
        1,
        arguments.workers,
        make_packer,
        draw_seconds=None if seconds is None else DRAWING * seconds,
    ) as pipeline:
        start = arguments.start
        model = (build.load_checkpoint(start, tokenizer) if start else build.build_model(tokenizer)).to(DEVICE)
        teacher = teach_tower.Teacher(model.config.text_config.hidden_size, tokenizer).to(DEVICE)
        pictures = Pictures(pipeline)
        # A CPU draws as fast as it composes.
        composer = None if DEVICE.type == "cpu" else Composer()
        print(f"{pipeline.images} pictures to draw; ready after {time.monotonic() - began:.0f} s", flush=True)
        if seconds is None:
            lengths = Length(steps=arguments.tower_steps), Length(steps=arguments.steps)
        else:
            lengths = (Length(seconds=began + TOWER * seconds - time.monotonic()),) * 2
        if arguments.tower_steps:
            state = arguments.runs / "tower.pt"
            teach_tower.teach(
                model, teacher, pictures, lengths[0], state, batch=arguments.pictures, rate=2e-3, composer=composer
            )
        while not pipeline.all_drawn():
            time.sleep(0.2)
        print(f"{pictures.refresh()} pictures and the tower after {time.monotonic() - began:.0f} s", flush=True)

        def save() -> None:
            beside = arguments.out.with_name(f"{arguments.out.name}.partial")
            shutil.rmtree(beside, ignore_errors=True)
            build.save_checkpoint(model, tokenizer, beside)
            shutil.rmtree(arguments.out, ignore_errors=True)
            beside.rename(arguments.out)
            print(f"saved {arguments.out} after {time.monotonic() - began:.0f} s", flush=True)

        exam = None
        if arguments.exam:
            exam = evaluate_in_torch.Exam(model, tokenizer, seed=77, count=arguments.exam, tasks=tuple(TASKS))
        length = lengths[1] if seconds is None else Length(seconds=began + seconds - time.monotonic())
        state = arguments.runs / "answers.pt"
        answering.train(
            model,
            tokenizer,
            teacher,
            pictures,
            pipeline.batch,
            length,
            state,
            saved=save,
            exam=exam,
            rate=arguments.rate,
            tower_slowness=0.25 if arguments.tower_steps else 0.0,
            composer=composer,
        )


if __name__ == "__main__":
    main()
