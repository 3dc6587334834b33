"""Tries a decoder's graph on a GPU: it runs there if it gives the CPU's logits, and on the CPU otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import one_line
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.onnx_runtime import run_options
from edge_interleave.util.providers import Provider

LOG = logging.getLogger(__name__)
LEAST_COSINE = 0.99
"""Between the logits of CPU and GPU. GPUs round sums of products in another order, and some of them to float16."""
_ROWS = (7, 1)
"""Rows of the two runs of a trial: the second sees what the first one stored."""


def tried(path: Path, session: Any, rows: FloatArray, info: DecoderInfo, provider: Provider,
          open_session: Callable[[Provider], Any]) -> Any:  # fmt: skip
    """A session on `provider`, or `session`, which is the CPU's; a warning then says why.

    `rows`: embeddings to try both with, float32 (8 or more, hidden). `path` names the graph in the warning.
    """
    import onnxruntime as ort

    reason = "it is not installed"
    if provider.name in ort.get_available_providers():
        try:
            other = open_session(provider)
            reason = "" if provider.name in other.get_providers() else "it found no device"
            reason = reason or _difference(_logits(session, rows, info), _logits(other, rows, info))
            if not reason:
                return other
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this.
            # Providers say in the end what happened, after the places in their code.
            reason = one_line(error.__cause__ or error, 2000)[-200:]
    LOG.warning("%s: %s cannot run it (%s); the CPU does", path, provider.name, reason)
    return session


def _difference(wanted: FloatArray, found: FloatArray) -> str:
    """What is wrong with logits; empty if nothing is."""
    if not np.isfinite(found).all():
        return "it gives logits that are not finite"
    cosine = float(wanted @ found / max(float(np.linalg.norm(wanted) * np.linalg.norm(found)), 1e-30))
    return "" if cosine >= LEAST_COSINE else f"its logits differ from the CPU's: cosine {cosine:.3f}"


def _logits(session: Any, rows: FloatArray, info: DecoderInfo) -> FloatArray:
    """Logits after the last row, float32 (vocab_size,)."""
    count = sum(_ROWS)
    angles = np.arange(count)[:, np.newaxis] * 10000.0 ** (-np.arange(0, info.head_dim, 2) / info.head_dim)
    inputs: dict[str, Any] = {"cos": np.cos(angles).astype(np.float16), "sin": np.sin(angles).astype(np.float16)}
    caches = [value.name for value in session.get_inputs() if value.name.startswith(("keys.", "values."))]
    inputs |= dict.fromkeys(caches, np.zeros((1, info.kv_heads, count, info.head_dim), np.float16))
    done = 0
    for number in _ROWS:
        end = done + number
        inputs["rows"] = np.ascontiguousarray(rows[np.newaxis, done:end], np.float32)
        inputs["positions"] = np.arange(done, end, dtype=np.int64)[np.newaxis]
        inputs["last"], inputs["total"] = np.array([end - 1], np.int32), np.array([end], np.int32)
        logits, *stored = session.run(["logits", *(f"new_{name}" for name in caches)], inputs, run_options())
        inputs |= dict(zip(caches, stored, strict=True))
        done = end
    last: FloatArray = logits[0]
    return last
