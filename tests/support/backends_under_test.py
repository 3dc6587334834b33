"""The backends for the Decoder protocol's tests: ours, or those named by `pytest --backend NAME`."""

import platform
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.decoding.decoder import KV_PRECISIONS, DecoderOptions
from edge_interleave.decoding.registry import find_backend
from edge_interleave.errors import BackendError

OURS = ("llama-cpp", "mlx", "onnx")
KV_PRECISIONS_OF = {"onnx": ("f16", "q8_0")}
"""Of those of ours that have not all."""
MLX_WHEELS = {("darwin", "arm64"), ("linux", "x86_64"), ("linux", "aarch64")}
"""Platforms with MLX wheels, on which the test extra installs MLX."""
MLX_HERE = (sys.platform, platform.machine()) in MLX_WHEELS or find_spec("mlx") is not None


def backends_of(config: pytest.Config) -> list[Any]:
    """The backends' names. MLX is skipped on platforms without wheels, unless it is named."""
    named = config.getoption("backend")
    without_mlx = pytest.mark.skipif(not MLX_HERE, reason="MLX has no wheels for this machine")
    return named or [pytest.param(name, marks=without_mlx if name == "mlx" else ()) for name in OURS]


def has_precision(backend: str, bundle: Bundle, precision: str) -> bool:
    """Whether the tests of a KV precision apply. `f16` every backend must have, and ours those that they are known for.

    Another's may refuse one with BackendError, when it is asked what it would take as when it is opened.
    """
    if backend in OURS:
        return precision in KV_PRECISIONS_OF.get(backend, KV_PRECISIONS)
    if precision == "f16":
        return True
    try:
        find_backend(backend).memory(bundle, DecoderOptions(context=200, kv_precision=precision))
    except BackendError:
        return False
    return True
