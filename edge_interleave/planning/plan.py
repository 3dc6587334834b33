"""A plan for a live window: what it holds, what it costs, and how it is opened. `budget` makes them.

Knows nothing about how plans are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_interleave.bundle.manifest import VisionInfo
from edge_interleave.planning.system_memory import give_back, limit_allocator
from edge_interleave.vision.pooling import image_tokens

if TYPE_CHECKING:
    from edge_interleave.model import Model


@dataclass(frozen=True)
class Preset:
    """A row of the paper's pooling ablation."""

    frames: int
    stride: int

    def visual_tokens(self, vision: VisionInfo, mode: str) -> int:
        """In the whole window. 729 of a 27 x 27 grid pooled to 1/4 are 196 (14 x 14, `bilinear`), or 169 (13 x 13)."""
        return self.frames * image_tokens(vision, self.stride, mode)


PRESETS = {
    "10-full": Preset(10, 1),
    "16-full": Preset(16, 1),
    "40-pooled": Preset(40, 2),
    "64-pooled": Preset(64, 2),
}


@dataclass(frozen=True)
class Cost:
    """What one part takes at the peak."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A live window that fits. Give `frames` and `pool` to `Model.live`, of the model that `open` gives."""

    folder: Path
    backend: str
    threads: int | None
    goal: str
    """`coverage`, `detail`, `latency`, or a preset's name."""
    why: str
    memory: int | None
    """Bytes that were given; None: no limit."""
    frames: int
    pool: tuple[int, ...]
    """Pooling strides of the frames, a pattern that repeats."""
    frame_tokens: tuple[int, ...]
    """Visual tokens of a frame at each of those strides."""
    visual_tokens: int
    """In the full window, at most."""
    context: int
    """Entries of the KV cache."""
    kv_precision: str
    batch: int
    keep_answers: bool
    costs: tuple[Cost, ...]
    seconds_per_frame: float | None
    """From a new frame to its place in the full window; None where it was not measured."""

    @property
    def estimate(self) -> int:
        """Bytes resident at the peak: the sum of the costs."""
        return sum(cost.bytes for cost in self.costs)

    def open(self) -> Model:
        """Load the model as planned. The process should hold nothing else of size. Raises as `load`."""
        from edge_interleave.model import load

        limit_allocator()
        model = load(
            self.folder,
            backend=self.backend,
            context=self.context,
            threads=self.threads,
            kv_precision=self.kv_precision,
            batch=self.batch,
        )
        give_back()
        return model
