"""Evaluates the model in training on fresh samples: exact match of the whole answer, by task.

    python examples/embedded_model/evaluate_in_torch.py examples/embedded_model/checkpoint --tasks "count three" story

Teacher-forced: greedy decoding gives the right answer exactly if every token's argmax is right given the right tokens
before it. Published figures come from `edge-interleave eval --world`: the runtime with the quantized bundle.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import build
import numpy as np
import packing
import pool
import torch
from answering import Batch, Student
from precision import DEVICE, autocast
from teach_tower import Teacher, extract
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from edge_interleave.world.benchmark import ALL_TASKS, draw_any
from edge_interleave.world.samples import Sample

PICTURELESS = ("unknown question", "no picture")
"""Tasks with samples that have no pictures; an exam draws none."""


class Exam:
    """Held-out samples of tasks, with their pixels; of all tasks that have pictures, unless some are given."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: Tokenizer,
        seed: int,
        count: int,
        tasks: Sequence[str] = (),
    ) -> None:
        self.model, self.tokenizer, self.names = model, tokenizer, packing.Names(tokenizer)
        tasks = tasks or [task for task in ALL_TASKS if task not in PICTURELESS]
        self.samples = {t: [draw_any(t, random.Random(f"exam/{seed}/{t}/{i}")) for i in range(count)] for t in tasks}
        scenes = [scene for samples in self.samples.values() for sample in samples for scene in sample.scenes]
        self.rows = {id(scene): row for row, scene in enumerate(scenes)}
        self.pixels = np.stack([pool.picture(scene) for scene in scenes])

    @torch.no_grad()
    def score(self, student: Student, samples: Sequence[Sample], stride: int) -> list[bool]:
        """For each sample, whether the whole answer is right."""
        right = []
        for first in range(0, len(samples), 20):
            part = samples[first : first + 20]
            talks = [
                packing.Conversation(
                    tuple(self.rows[id(s)] for s in sample.scenes), ((sample.question, sample.answer),)
                )
                for sample in part
            ]
            packed = packing.pack(talks, self.tokenizer, self.names, random.Random(0), stride, gap_share=0.0)
            batch = Batch.of(packed)
            features = extract(self.model, self.pixels[packed.images]).float()
            with autocast():
                visual = student.projector(features)
                last, *_ = student.hidden(batch, visual)
                guess = student.logits(last.flatten(0, 1)[batch.answer_at]).argmax(-1)
            wrong = set(packed.talk.flat[packed.answer_at[(guess != batch.answers).cpu().numpy()]])
            right += [talk not in wrong for talk in range(len(part))]
        return right

    def report(self, student: Student) -> str:
        """One line for each pooling stride: accuracy by task."""
        lines = []
        for stride in (1, 2):
            scores = {task: np.mean(self.score(student, samples, stride)) for task, samples in self.samples.items()}
            lines.append(f"  stride {stride}: " + ", ".join(f"{task} {score:.2f}" for task, score in scores.items()))
        return "\n".join(lines)


def main() -> None:
    """Print the accuracy of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tasks", nargs="*", default=(), help="only these tasks")
    parser.add_argument("--samples", type=int, default=40, help="samples of each task")
    arguments = parser.parse_args()
    tokenizer = build.load_tokenizer()
    model = build.load_checkpoint(arguments.checkpoint, tokenizer).to(DEVICE)
    teacher = Teacher(model.config.text_config.hidden_size, tokenizer)
    student = Student(model, tokenizer, teacher).to(DEVICE)
    print(Exam(model, tokenizer, 77, arguments.samples, arguments.tasks).report(student))


if __name__ == "__main__":
    main()
