"""Chooses ONNX Runtime's execution provider for a graph, with its options.

A GPU is used where the installed ONNX Runtime has a provider for it and the precision suits it. `docs/platforms.md`
says which of them were ever tried.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Any

from edge_interleave.util.onnx_runtime import CPU_PROVIDER


@dataclass(frozen=True)
class Provider:
    """An execution provider."""

    name: str
    """ONNX Runtime's name."""
    options: tuple[tuple[str, str], ...] = ()
    """ONNX Runtime's provider options."""
    fixed_shapes: bool = False
    """Whether the graph's batch size must be fixed before it is opened."""

    def session_arguments(self) -> dict[str, Any]:
        """Arguments of ONNX Runtime's `InferenceSession`; the CPU runs operators that the provider lacks.

        If the provider cannot open the graph, that is an error: ONNX Runtime's own way out is to print it and go on.
        """
        own = (self.name, dict(self.options))
        return {"providers": [own] if self.name == CPU_PROVIDER else [own, CPU_PROVIDER], "enable_fallback": 0}


CPU = Provider(CPU_PROVIDER)
CORE_ML = Provider(
    "CoreMLExecutionProvider",
    # An ML program runs in float16 on the GPU and the Neural Engine; the older format lacks operators.
    (("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL"), ("RequireStaticInputShapes", "1")),
    fixed_shapes=True,
)
"""https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html"""
GPUS = (Provider("CUDAExecutionProvider"), Provider("DmlExecutionProvider"), Provider("WebGpuExecutionProvider"))
"""NVIDIA's, Windows' DirectML and WebGPU, the fastest first."""


def tower_provider(precision: str | None) -> Provider:
    """The best provider on this machine for a vision tower of that precision. Imports ONNX Runtime, but not for `int8`.

    The CPU runs `int8`: the others lack its products.
    """
    if precision not in ("fp16", "fp32"):
        return CPU
    apple = (sys.platform, platform.machine()) == ("darwin", "arm64")
    return _first_available((CORE_ML,) if apple else GPUS)


def decoder_provider(precision: str | None) -> Provider:
    """The best provider on this machine for a decoder of that precision. Imports ONNX Runtime, but not for `int8`.

    The CPU runs `int8`: the others lack its products. CoreML and QNN are never chosen: they lack `GroupQueryAttention`.
    """
    return CPU if precision not in ("int4", "f16", "f32") else _first_available(GPUS)


def _first_available(providers: tuple[Provider, ...]) -> Provider:
    import onnxruntime as ort

    available = ort.get_available_providers()
    return next((provider for provider in providers if provider.name in available), CPU)
