"""Goals and presets of plans. Imports nothing, because the command line's help shows them."""

from __future__ import annotations

from dataclasses import dataclass

COVERAGE, DETAIL, LATENCY = "coverage", "detail", "latency"
GOALS = (COVERAGE, DETAIL, LATENCY)


@dataclass(frozen=True)
class Preset:
    """A row of the pooling ablation in the LLaVA-NeXT-Interleave paper."""

    frames: int
    stride: int
    """Pooling stride: 1 keeps all visual tokens, 2 a quarter."""


PRESETS = {
    "10-full": Preset(10, 1),
    "16-full": Preset(16, 1),
    "40-pooled": Preset(40, 2),
    "64-pooled": Preset(64, 2),
}
