"""Draws 230 prompts that training never saw, and stores them in tests/golden/embedded with transformers' answers.

    python examples/embedded_model/make_golden.py

The tests and `benchmarks/parity.py` compare the runtime with these answers. Needs the `oracle` extra; run it again
whenever the checkpoint changes.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
from collections import Counter
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edge_interleave.world import samples
from edge_interleave.world.drawing import draw as draw_scene
from edge_interleave.world.scene import Scene
from edge_interleave.world.vocabulary import TRAIN

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import golden_prompts
from golden_prompts import CHECKPOINT, FOLDER, MAX_TOKENS, Golden, Prompt
from llava_oracle import Oracle

PROMPTS_A_TASK = 10
STRIDES = (1, 1, 1, 2)
"""Pooling strides, used in turn."""
IMAGES_MAX = 6
FEATURES = 8
"""Number of pictures whose visual tokens are stored."""
LOGITS_STEP = 19
"""The logits of every 19th prompt are stored: thirteen prompts of several tasks and both strides."""
GRAINY_SIDE_MAX = 128
"""Largest side of grainy pictures, because noise does not compress."""


def main() -> None:
    """Write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    oracle = Oracle(arguments.checkpoint)
    golden = make(oracle, golden_prompts.fingerprint(arguments.checkpoint))
    golden_prompts.save(golden, arguments.out)
    shown = Counter(len(prompt.pictures) for prompt in golden.prompts)
    print(f"{len(golden.prompts)} prompts, by number of images {dict(sorted(shown.items()))}")


def make(oracle: Oracle, checkpoint: str) -> Golden:
    """Draw the prompts and ask the oracle."""
    prompts: list[Prompt] = []
    pictures: dict[str, bytes] = {}
    logits = {}
    for task in samples.TASKS:
        for sample, stride in zip(draw(task), STRIDES * PROMPTS_A_TASK, strict=False):
            names = store(sample.scenes, pictures)
            images = [opened(pictures[name]) for name in names]
            answer = oracle.answer(images, sample.question, stride, MAX_TOKENS)
            if len(prompts) % LOGITS_STEP == 0:
                logits[len(prompts)] = answer.logits
            prompts.append(Prompt(task, names, sample.question, stride, answer.text, answer.prompt_tokens))
    some = list(pictures)[:: len(pictures) // FEATURES][:FEATURES]
    features = {name: oracle.features(opened(pictures[name])).astype(np.float16) for name in some}
    return Golden(checkpoint, tuple(prompts), pictures, features, logits)


def draw(task: str) -> list[samples.Sample]:
    """Fresh samples of a task with no more than IMAGES_MAX images."""
    drawn = (samples.draw_sample(task, random.Random(f"golden/{task}/{index}"), TRAIN) for index in count())
    return [next(s for s in drawn if len(s.scenes) <= IMAGES_MAX) for _ in range(PROMPTS_A_TASK)]


def store(scenes: tuple[Scene, ...], pictures: dict[str, bytes]) -> tuple[str, ...]:
    """Add the scenes to the pictures, repeated scenes once; returns their names."""
    names: dict[int, str] = {}
    for scene in scenes:
        if id(scene) not in names:
            name = f"{len(pictures):03}.webp"
            names[id(scene)] = name
            pictures[name] = drawn(scene)
    return tuple(names[id(scene)] for scene in scenes)


def drawn(scene: Scene) -> bytes:
    """The scene's picture as a lossless WebP file."""
    look = scene.look
    if look.kind == "noise":
        look = replace(look, side=min(look.side, GRAINY_SIDE_MAX))
    file = io.BytesIO()
    draw_scene(replace(scene, look=look)).save(file, "WEBP", lossless=True, method=6, quality=100)
    return file.getvalue()


def opened(picture: bytes) -> Image.Image:
    """The stored pixels."""
    return Image.open(io.BytesIO(picture)).convert("RGB")


if __name__ == "__main__":
    main()
