"""Trains a variant for the pooling ablation: the embedded model, trained further on long clips with few or many frames.

    python examples/embedded_model/train_on_videos.py --runs runs/videos --frames 4 --stride 1 --out runs/unpooled
    python examples/embedded_model/train_on_videos.py --runs runs/videos --frames 16 --stride 2 --out runs/pooled

Both variants see the same number of visual tokens for each clip. `benchmarks/ablation.py` runs this script and scores
the results. An interrupted run resumes. Needs the `oracle` extra (PyTorch, transformers).
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import answering
import build
import pool
import teach_tower
from packing import Conversation, Names, Packed, length, pack
from pipeline import Pipeline
from precision import DEVICE
from progress import Length
from stored_pictures import Pictures
from tokenizers import Tokenizer

from edge_interleave.world import long_clips

POOL = {"glide": 1500, "arrivals": 2500, "change": 8000}
CHECKPOINT = Path(__file__).with_name("checkpoint")
GROUP_KINDS = {"direction": "motion", "order": "arrivals", "events": "change"}
"""Task to the kind of its groups."""


class VideoPacker:
    """Draws questions about long clips, each shown as a fixed number of frames."""

    def __init__(self, share: pool.Share, tokenizer: Tokenizer, rng: random.Random, frames: int, stride: int) -> None:
        self.share, self.tokenizer, self.rng, self.names = share, tokenizer, rng, Names(tokenizer)
        self.frames, self.stride = frames, stride
        groups = {
            task: [i for i, group in enumerate(share.groups) if group.kind == kind and long_clips.suits(task, group)]
            for task, kind in GROUP_KINDS.items()
        }
        self.of_task = {task: found for task, found in groups.items() if found}

    def batch(self, positions: int) -> Packed:
        """A batch of one task, of about `positions` positions in all."""
        task = self.rng.choice(tuple(self.of_task))
        conversations, room = [], positions
        while room > 0:
            conversations.append(self._clip(task))
            room -= length(conversations[-1], self.tokenizer, self.stride)
        return pack(conversations, self.tokenizer, self.names, self.rng, self.stride)

    def _clip(self, task: str) -> Conversation:
        index = self.rng.choice(self.of_task[task])
        states, qa = long_clips.frames_of(task, self.rng, self.share.groups[index])
        first = self.share.first_image[index]
        return Conversation(tuple(first + state for state in long_clips.sampled(states, self.frames)), (qa,))


def main() -> None:
    """Train the variant, or resume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of drawings, shared by all variants")
    parser.add_argument("--frames", type=int, required=True, help="frames sampled from each clip")
    parser.add_argument("--stride", type=int, required=True, help="pooling stride")
    parser.add_argument("--out", type=Path, required=True, help="the variant's folder")
    parser.add_argument("--start", type=Path, default=CHECKPOINT, help="a checkpoint to start from")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--positions", type=int, default=5600, help="positions in a step")
    parser.add_argument("--pool", type=float, default=1.0, help="share of the pool to draw")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, help="worker processes that draw and pack")
    arguments = parser.parse_args()
    tokenizer = build.load_tokenizer()
    counts = {kind: max(arguments.workers * 8, round(count * arguments.pool)) for kind, count in POOL.items()}

    def make_packer(share: pool.Share, rng: random.Random) -> Callable[[], Packed]:
        packer = VideoPacker(share, tokenizer, rng, arguments.frames, arguments.stride)
        return lambda: packer.batch(arguments.positions)

    with Pipeline(arguments.runs / "pool", counts, 2, arguments.workers, make_packer) as pipeline:
        model = build.load_checkpoint(arguments.start, tokenizer).to(DEVICE)
        teacher = teach_tower.Teacher(model.config.text_config.hidden_size, tokenizer).to(DEVICE)
        while not pipeline.all_drawn():
            time.sleep(0.2)
        arguments.out.mkdir(parents=True, exist_ok=True)
        answering.train(
            model,
            tokenizer,
            teacher,
            Pictures(pipeline),
            pipeline.batch,
            Length(steps=arguments.steps),
            arguments.out / "answers.pt",
            rate=8e-4,
            tower_slowness=0.0,
        )
        build.save_checkpoint(model, tokenizer, arguments.out / "checkpoint")


if __name__ == "__main__":
    main()
