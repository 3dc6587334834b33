"""Make the embedded model: draw the world, teach the tower, teach the decoder to answer, save the checkpoint.

    python examples/embedded_model/train.py --runs runs/embedded --out examples/embedded_model/checkpoint

Stops and goes on: every stage keeps its state under --runs. Needs the `oracle` extra (PyTorch, transformers).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import answering
import build
import pool
import teach_tower

POOL = {
    "single": 30000, "change": 14000, "twins": 5000, "motion": 3500, "arrivals": 3000, "story": 3000,
    "quality": 2500, "sign": 14000, "puzzle": 6000, "views": 7000, "patches": 3500,
}  # fmt: skip


def main() -> None:
    """Run the stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/embedded"), help="where drawings and states are kept")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--tower-steps", type=int, default=2000, help="steps of the first stage in all; 0: none")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the second stage in all")
    arguments = parser.parse_args()

    began = time.monotonic()
    drawn = pool.load_pool(arguments.runs / "pool", POOL, seed=1)
    tokenizer = build.load_tokenizer()
    start = arguments.start
    model = build.load_checkpoint(start, tokenizer) if start else build.build_model(tokenizer)
    if arguments.tower_steps:
        teach_tower.teach(
            model,
            tokenizer,
            drawn,
            arguments.tower_steps,
            arguments.runs / "tower.pt",
            rate=1e-3 if start else 2e-3,
        )
    model.model.vision_tower.requires_grad_(False)
    features = teach_tower.stored_features(model, drawn.pixels, arguments.runs / "features.pt")
    print(f"tower and features ready after {time.monotonic() - began:.0f} s", flush=True)
    answering.train(
        model,
        tokenizer,
        drawn,
        features,
        arguments.steps,
        arguments.runs / "answers.pt",
        easy_steps=0 if start else 300,
    )
    build.save_checkpoint(model, tokenizer, arguments.out)
    print(f"saved {arguments.out} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
