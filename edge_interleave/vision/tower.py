"""Runs the vision tower and projector of a bundle (`vision.onnx`) with ONNX Runtime: pixels to visual tokens.

Knows nothing about where pixels come from, how they are prepared, nor about what happens to the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..bundle import VISION_INPUT, VISION_OUTPUT, VisionInfo
from ..errors import BackendError, BundleError, UsageError

FloatArray = npt.NDArray[np.float32]

CPU_PROVIDER = "CPUExecutionProvider"
CHUNK = 4
"""Images encoded at once. Larger chunks cost memory and gain no time: one image already fills the cores."""
SILENT = 4
"""ONNX Runtime's log severity "fatal": what goes wrong comes as an exception, which is turned into one line."""


class VisionTower:
    """An open vision tower. `encode` may be called from several threads."""

    def __init__(
        self,
        path: Path | str,
        info: VisionInfo,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Open `path`, an ONNX graph of pixels (n, 3, H, W) -> visual_tokens (n, tokens, hidden), both float32.

        `threads` None leaves the number of CPU threads to ONNX Runtime. `providers` are ONNX Runtime's names of
        execution providers, best first; None means the CPU, which also takes what the given ones cannot.

        Raises BundleError where the file is not such a graph or not for `info`, BackendError where a provider is not
        installed.
        """
        self._path = Path(path)
        self._info = info
        self._session: Any = _open_session(self._path, threads, _checked_providers(providers))
        self._hidden_size = _checked_signature(self._path, self._session, info)
        self._provider = str(self._session.get_providers()[0])

    @property
    def hidden_size(self) -> int:
        """Columns of a visual token: the decoder's hidden size."""
        return self._hidden_size

    @property
    def provider(self) -> str:
        """The execution provider that runs the graph, or most of it."""
        return self._provider

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Pixels float32 (n, 3, H, W), prepared as the model wants them, to float32 (n, tokens, hidden_size).

        Raises UsageError for another shape or type, BackendError where the engine fails.
        """
        if self._session is None:
            raise UsageError(f"{self._path}: the vision tower is closed")
        size, tokens = self._info.image_size, self._info.tokens
        if pixels.dtype != np.float32 or pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise UsageError(
                f"pixels are {pixels.dtype} {pixels.shape}; the vision tower takes float32 (n, 3, {size}, {size})"
            )
        out = np.empty((len(pixels), tokens, self._hidden_size), np.float32)
        for start in range(0, len(pixels), CHUNK):
            part = out[start : start + CHUNK]
            part[...] = self._run(np.ascontiguousarray(pixels[start : start + CHUNK]), part.shape)
        return out

    def close(self) -> None:
        """Free the engine's memory. A second call does nothing."""
        self._session = None

    def _run(self, pixels: FloatArray, shape: tuple[int, ...]) -> FloatArray:
        try:
            rows: FloatArray = self._session.run([VISION_OUTPUT], {VISION_INPUT: pixels})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this.
            raise BackendError(f"{self._path}: the vision tower failed: {_one_line(error)}") from error
        if rows.shape != shape:
            raise BundleError(
                f"{self._path}: gave visual tokens of shape {rows.shape} where {shape} was promised; "
                "convert or pull the model again"
            )
        return rows


def _open_session(path: Path, threads: int | None, providers: list[str]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
    if not path.is_file():
        raise BundleError(f"{path}: missing; convert or pull the model again")
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this.
        raise BundleError(
            f"{path}: not a vision tower that ONNX Runtime can open ({_one_line(error)}); "
            "convert or pull the model again"
        ) from error


def _checked_providers(wanted: Sequence[str] | None) -> list[str]:
    import onnxruntime as ort

    if wanted is None:
        return [CPU_PROVIDER]
    there = ort.get_available_providers()
    for name in wanted:
        if name not in there:
            raise BackendError(f"execution provider {name!r} is not installed; installed: {', '.join(there)}")
    return [*wanted, *([] if CPU_PROVIDER in wanted else [CPU_PROVIDER])]


def _checked_signature(path: Path, session: Any, info: VisionInfo) -> int:
    """The hidden size, where the graph takes and gives what a bundle promises."""
    inputs = [(i.name, i.type, list(i.shape)) for i in session.get_inputs()]
    outputs = [(o.name, o.type, list(o.shape)) for o in session.get_outputs()]
    size = info.image_size
    hidden = outputs[0][2][-1] if len(outputs) == 1 and outputs[0][2] else None
    if not (
        len(inputs) == 1
        and inputs[0][:2] == (VISION_INPUT, "tensor(float)")
        and inputs[0][2][1:] == [3, size, size]
        and not isinstance(inputs[0][2][0], int)
        and len(outputs) == 1
        and outputs[0][:2] == (VISION_OUTPUT, "tensor(float)")
        and outputs[0][2][1:] == [info.tokens, hidden]
        and isinstance(hidden, int)
        and hidden > 0
    ):
        raise BundleError(
            f"{path}: not the vision tower that bundle.json describes: takes {_signature(inputs)} and gives "
            f"{_signature(outputs)} instead of {VISION_INPUT} (n, 3, {size}, {size}) and {VISION_OUTPUT} "
            f"(n, {info.tokens}, hidden size), both float; convert or pull the model again"
        )
    return hidden


def _signature(values: list[tuple[str, str, list[Any]]]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, kind, shape in values[:4]) or "nothing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
