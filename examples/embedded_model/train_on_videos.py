"""A variant for the ablation of pooling: the embedded model, trained on with long clips at one number of frames.

    python examples/embedded_model/train_on_videos.py --runs runs/videos --frames 4 --stride 1 --out runs/unpooled
    python examples/embedded_model/train_on_videos.py --runs runs/videos --frames 16 --stride 2 --out runs/pooled

Both see as many visual tokens a clip. `benchmarks/ablation.py` runs it, and scores what comes out. Stops and goes on,
as `train.py` does. Needs the `oracle` extra (PyTorch, transformers).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import answering
import build
import pool
import teach_tower
from lessons import Packer
from packing import Conversation, Packed, length, pack
from tokenizers import Tokenizer

from edge_interleave.world import long_clips

POOL = {"glide": 1500, "arrivals": 2500, "change": 8000}
CHECKPOINT = Path(__file__).with_name("checkpoint")


class VideoPacker(Packer):
    """Draws questions about long clips, of which it takes so many frames."""

    def __init__(self, drawn: pool.Pool, tokenizer: Tokenizer, frames: int, stride: int) -> None:
        self.pool, self.tokenizer, self.rng = drawn, tokenizer, random.Random()
        self.frames, self.stride = frames, stride
        self.of_task = {
            task: [i for i, group in enumerate(drawn.groups) if group.kind == kind and long_clips.suits(task, group)]
            for task, kind in (("direction", "motion"), ("order", "arrivals"), ("events", "change"))
        }

    def batch(self, positions: int, strides: object = None, easy: bool = False) -> Packed:
        """A batch of one task, at the stride of this variant, of about so many positions in all."""
        task = self.rng.choice(tuple(self.of_task))
        conversations, room = [], positions
        while room > 0:
            conversations.append(self._clip(task))
            room -= length(conversations[-1], self.tokenizer, self.stride)
        return pack(conversations, self.tokenizer, self.rng, self.stride)

    def _clip(self, task: str) -> Conversation:
        index = self.rng.choice(self.of_task[task])
        states, qa = long_clips.frames_of(task, self.rng, self.pool.groups[index])
        first = self.pool.first_image[index]
        return Conversation(tuple(first + state for state in long_clips.sampled(states, self.frames)), (qa,))


def main() -> None:
    """Train the variant, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where drawings are kept, for all variants")
    parser.add_argument("--frames", type=int, required=True, help="taken of each clip")
    parser.add_argument("--stride", type=int, required=True, help="pooling stride")
    parser.add_argument("--out", type=Path, required=True, help="the variant's folder")
    parser.add_argument("--start", type=Path, default=CHECKPOINT, help="a checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    drawn = pool.load_pool(arguments.runs / "pool", POOL, seed=2)
    tokenizer = build.load_tokenizer()
    model = build.load_checkpoint(arguments.start, tokenizer)
    model.model.vision_tower.requires_grad_(False)
    features = teach_tower.stored_features(model, drawn.pixels, arguments.runs / "features.pt")
    packer = VideoPacker(drawn, tokenizer, arguments.frames, arguments.stride)
    arguments.out.mkdir(parents=True, exist_ok=True)
    answering.train(
        model,
        tokenizer,
        drawn,
        features,
        arguments.steps,
        arguments.out / "answers.pt",
        packer=packer,
        rate=8e-4,
        easy_steps=0,
    )
    build.save_checkpoint(model, tokenizer, arguments.out / "checkpoint")


if __name__ == "__main__":
    main()
