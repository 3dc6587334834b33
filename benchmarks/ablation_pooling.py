"""The pooling ablation: variants trained on few unpooled or many pooled frames, each asked with both."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

import edge_interleave as ei
from edge_interleave.bundle.manifest import MANIFEST_NAME
from edge_interleave.converters.convert import convert
from edge_interleave.evaluation.intervals import wilson_interval
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.world.drawing import draw
from edge_interleave.world.long_clips import KINDS, draw_video, sampled
from edge_interleave.world.vocabulary import TRAIN

TRAINER = Path(__file__).parent.parent / "examples" / "embedded_model" / "train_on_videos.py"
TRAINED = {"4 frames": (4, 1), "16 frames, pooled to 1/4": (16, 2)}
"""Frames and stride of each variant; the numbers of visual tokens are equal."""
ASKED = ((4, 1), (6, 1), (16, 2), (24, 2))
"""Frames and stride: the paper's 10, 16, 40 and 64 frames in their proportions."""


@dataclass(frozen=True)
class Clips:
    """One variant, asked one way, on one task."""

    trained: str
    frames: int
    stride: int
    visual_tokens: int
    task: str
    answers: int
    right: float
    interval: tuple[float, float]
    """95 % (Wilson)."""


def measure_pooling(checkpoint: Path, out: Path, samples: int) -> list[Clips]:
    """Train the missing variants, and ask all of them."""
    rows: list[Clips] = []
    work = [(name, asked) for name in TRAINED for asked in ASKED]
    for name, (frames, stride) in track(work, "clips", console=Console(stderr=True)):
        bundle = _variant(checkpoint, out, *TRAINED[name])
        kept = bundle.parent / f"asked-{frames}-{stride}-{samples}.json"
        if not kept.exists():
            found = [asdict(row) for row in _ask(name, bundle, frames, stride, samples)]
            with atomic_file(kept) as temporary:
                temporary.write_text(json.dumps(found), encoding="utf-8")
        rows += [Clips(**row) for row in json.loads(kept.read_text(encoding="utf-8"))]
    return rows


def _variant(checkpoint: Path, out: Path, frames: int, stride: int) -> Path:
    folder = out / f"trained-{frames}-{stride}"
    if not (folder / "bundle" / MANIFEST_NAME).exists():
        command = [sys.executable, str(TRAINER), "--runs", str(out / "videos"), "--out", str(folder)]
        command += ["--frames", str(frames), "--stride", str(stride), "--start", str(checkpoint)]
        subprocess.run(command, check=True)
        convert(folder / "checkpoint", folder / "bundle", backends=["llama-cpp"])
    return folder / "bundle"


def _ask(name: str, bundle: Path, frames: int, stride: int, samples: int) -> list[Clips]:
    rows = []
    with ei.load(bundle, backend="llama-cpp", threads=1) as model:
        for task in KINDS:
            right = tokens = 0
            for number in range(samples):
                clip = draw_video(task, random.Random(f"ablation/{task}/{number}"), TRAIN)
                shown = [draw(scene) for scene in sampled(clip.scenes, frames)]
                answer = model.ask([*shown, clip.question], pool=stride, max_tokens=100)
                right += answer.text == clip.answer
                tokens = answer.stats.visual_tokens
            interval = wilson_interval(right, samples) or (0.0, 1.0)
            rows.append(Clips(name, frames, stride, tokens, task, samples, right / samples, interval))
    return rows
