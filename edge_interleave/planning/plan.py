"""A plan for a live window: its size, what each part costs in bytes, and how to open the model for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_interleave.planning.system_memory import limit_allocator, release_freed_memory

if TYPE_CHECKING:
    from edge_interleave.model import Model


@dataclass(frozen=True)
class Cost:
    """Bytes that one part takes at the peak."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """A live window that fits the memory limit. Pass `frames`, `pool` and `keep_answers` to `plan.open().live(...)`."""

    folder: Path
    """The bundle's."""
    backend: str
    threads: int | None
    """CPU threads; None leaves it to the backend."""
    goal: str
    """`coverage`, `detail`, `latency`, or a preset's name."""
    why: str
    """What the goal prefers, as a line for people."""
    memory: int | None
    """The limit in bytes; None: no limit."""
    frames: int
    pool: tuple[int, ...]
    """Pooling strides of the frames, a pattern that repeats."""
    frame_tokens: tuple[int, ...]
    """Visual tokens of a frame at each of those strides."""
    visual_tokens: int
    """Visual tokens of the full window, at most."""
    context: int
    """KV entries."""
    kv_precision: str
    batch: int
    """KV entries that the decoder computes at a time."""
    keep_answers: bool
    costs: tuple[Cost, ...]
    seconds_per_frame: float | None
    """Time to encode a new frame and add it to the full window; None if it was not measured."""

    @property
    def estimate(self) -> int:
        """Resident bytes at the peak: the sum of the costs."""
        return sum(cost.bytes for cost in self.costs)

    def open(self) -> Model:
        """Load the model as planned. The costs do not cover other large data in this process. Errors as `load`."""
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
        release_freed_memory()
        return model
