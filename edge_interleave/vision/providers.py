"""Chooses ONNX Runtime's execution provider for the vision tower, with its options."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """An execution provider."""

    name: str
    """ONNX Runtime's name."""
    options: tuple[tuple[str, str], ...] = ()
    """ONNX Runtime's provider options."""
    fixed_shapes: bool = False
    """Whether the graph's batch size must be fixed before it is opened."""


CPU = Provider(CPU_PROVIDER)
CORE_ML = Provider(
    "CoreMLExecutionProvider",
    # An ML program runs in float16 on the GPU and the Neural Engine; the older format lacks operators.
    (("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL"), ("RequireStaticInputShapes", "1")),
    fixed_shapes=True,
)
"""https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html"""


def provider_for(precision: str | None) -> Provider:
    """The best provider on this machine for a tower of that precision. Imports ONNX Runtime on Apple Silicon only.

    CoreML has no integer products, so an `int8` tower always runs on the CPU.
    """
    if (sys.platform, platform.machine()) != ("darwin", "arm64") or precision not in ("fp16", "fp32"):
        return CPU
    import onnxruntime as ort

    return CORE_ML if CORE_ML.name in ort.get_available_providers() else CPU
