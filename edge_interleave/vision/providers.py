"""What runs the vision tower: which of ONNX Runtime's execution providers, and what it is told.

Knows nothing about towers but the precision they were exported in.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

CPU_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """An execution provider."""

    name: str
    """ONNX Runtime's."""
    options: tuple[tuple[str, str], ...] = ()
    fixed_shapes: bool = False
    """It wants to know all sizes when it opens the graph."""


CPU = Provider(CPU_PROVIDER)
CORE_ML = Provider(
    "CoreMLExecutionProvider",
    # An ML program computes in halves on the GPU and the Neural Engine; the older format knows too few operators.
    (("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL"), ("RequireStaticInputShapes", "1")),
    fixed_shapes=True,
)
"""https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html"""


def provider_for(precision: str | None) -> Provider:
    """What runs a tower of that precision best here. Imports ONNX Runtime on Apple Silicon only.

    CoreML has no products of whole numbers: an `int8` tower is for CPUs.
    """
    if (sys.platform, platform.machine()) != ("darwin", "arm64") or precision not in ("fp16", "fp32"):
        return CPU
    import onnxruntime as ort

    return CORE_ML if CORE_ML.name in ort.get_available_providers() else CPU
