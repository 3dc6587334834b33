"""Runs a bundle's vision tower and projector (`vision.onnx`) with ONNX Runtime: pixels to visual tokens."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from edge_interleave.bundle.manifest import FRAME_OUTPUT, VISION_BATCH, VISION_INPUT, VISION_OUTPUT, VisionInfo
from edge_interleave.bundle.onnx_check import check_onnx
from edge_interleave.errors import BackendError, BundleError, EdgeInterleaveError, InputError, UsageError, one_line
from edge_interleave.util.aborting import aborting
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.cpus import quota_limit
from edge_interleave.util.engine_lock import check_process, claim_process
from edge_interleave.util.onnx_runtime import (
    CPU_PROVIDER,
    int8_products_saturate,
    keep_at_fork,
    run_options,
    session_options,
)
from edge_interleave.util.providers import CPU, Provider
from edge_interleave.util.utf8_path import utf8_path

LOG = logging.getLogger(__name__)


class VisionTower:
    """An open vision tower. Several threads may call `encode`; a handle from `another` can be stopped by itself."""

    def __init__(
        self,
        path: Path | str,
        info: VisionInfo,
        threads: int | None = None,
        provider: Provider = CPU,
    ) -> None:
        """Open `path`, an ONNX graph of pixels (n, 3, H, W) -> visual_tokens (n, tokens, hidden), both float32.

        `threads`: CPU threads; None: ONNX Runtime's choice within the process's CPU quota. `provider`: runs the graph;
        the CPU runs operators that it does not support. If it cannot run the graph, a warning is logged and the CPU
        runs all of it.
        Raises BundleError if the file is not such a graph or does not fit `info`.
        """
        claim_process()
        self._path = Path(path)
        self._info = info
        self._session: Any = None
        self._run_options = run_options()
        if provider != CPU:
            reason = self._try_provider(provider, threads)
            if not reason:
                return
            LOG.warning("%s: %s cannot run it (%s); the CPU does", self._path, provider.name, reason)
        self._open(CPU, threads)

    def another(self) -> VisionTower:
        """A second handle on the same tower: it shares the weights, but `stop` and `close` affect only itself."""
        one = copy(self)
        one._run_options = run_options()
        return one

    @property
    def hidden_size(self) -> int:
        """The size of a visual token: the decoder's hidden size."""
        return self._hidden_size

    @property
    def provider(self) -> str:
        """The name of the execution provider that runs the graph, or most of it."""
        return self._provider

    def encode(self, pixels: FloatArray, cancel: threading.Event | None = None) -> FloatArray:
        """Preprocessed pixels, float32 (n, 3, H, W), to visual tokens, float32 (n, tokens, hidden_size).

        Images run one after the other. One image keeps all cores busy, so a batch would cost memory and save no time;
        and the int8 graph of an older bundle scales its activations over the whole batch, so that an image's tokens
        would depend on the others.

        `cancel`: aborts the encoding, in the middle of an image, when it is set.
        Raises UsageError for a wrong shape or type, when cancelled and once stopped, BackendError if ONNX Runtime
        fails, BundleError if the graph returns a wrong shape or values that are not finite.
        """
        return self._encoded(pixels, VISION_OUTPUT, self._info.tokens, cancel)

    def encode_frames(self, pixels: FloatArray, cancel: threading.Event | None = None) -> FloatArray:
        """As `encode`, for frames that the graph pools before the projector (`VideoInfo.before_projector`).

        Returns float32 (n, (grid // stride)**2, hidden_size), with the stride of training.
        """
        return self._encoded(pixels, FRAME_OUTPUT, _frame_output_tokens(self._info), cancel)

    def _encoded(self, pixels: FloatArray, output: str, tokens: int, cancel: threading.Event | None) -> FloatArray:
        check_process()
        if self._session is None or self._run_options.terminate:
            raise UsageError(f"{self._path}: the vision tower is closed")
        size = self._info.image_size
        if pixels.dtype != np.float32 or pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            raise UsageError(
                f"pixels are {pixels.dtype} {pixels.shape}; the vision tower takes float32 (n, 3, {size}, {size})"
            )
        out = np.empty((len(pixels), tokens, self._hidden_size), np.float32)
        for number in range(len(pixels)):
            part = slice(number, number + 1)
            row = np.ascontiguousarray(pixels[part])
            out[part] = self._run(row, (1, tokens, self._hidden_size), output, cancel)
        return out

    def stop(self) -> None:
        """Make `encode`, running or later, raise UsageError at once. Any thread may call it."""
        self._run_options.terminate = True

    def close(self) -> None:
        """Free the memory, unless another handle uses it. A second call does nothing."""
        self._session = None

    def _open(self, provider: Provider, threads: int | None) -> None:
        self._session = _open_session(self._path, threads, provider)
        keep_at_fork(self._session)
        self._hidden_size = _checked_signature(self._path, self._session, self._info, provider.fixed_shapes)
        self._provider = str(self._session.get_providers()[0])

    def _try_provider(self, provider: Provider, threads: int | None) -> str:
        """Open the graph with the provider and run it once; returns the error's text, empty if it runs."""
        import onnxruntime as ort

        size = self._info.image_size
        if provider.name not in ort.get_available_providers():
            return "it is not installed"
        try:
            self._open(provider, threads)
            self.encode(np.zeros((1, 3, size, size), np.float32))
        except EdgeInterleaveError as error:
            return str(error)
        return ""

    def _run(
        self,
        pixels: FloatArray,
        shape: tuple[int, ...],
        output: str = VISION_OUTPUT,
        cancel: threading.Event | None = None,
    ) -> FloatArray:
        stopped = self._run_options
        options = stopped if cancel is None else run_options()

        def terminate() -> None:
            options.terminate = True

        try:
            with nullcontext() if cancel is None else aborting(lambda: cancel.is_set() or stopped.terminate, terminate):
                rows: FloatArray = self._session.run([output], {VISION_INPUT: pixels}, options)[0]
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            if options.terminate:
                raise UsageError(f"{self._path}: the vision tower was stopped") from None
            raise BackendError(f"{self._path}: the vision tower failed: {one_line(error, 300)}") from error
        if rows.shape != shape:
            raise BundleError(
                f"{self._path}: gave visual tokens of shape {rows.shape} instead of {shape}; "
                "convert or pull the model again"
            )
        if not np.isfinite(rows).all():
            raise BundleError(f"{self._path}: gave visual tokens that are not finite; convert or pull the model again")
        return rows


def open_graph(graph: bytes) -> Any:
    """Open a trusted graph from memory, unchecked: an ONNX Runtime session on the CPU with a tower's options."""
    import onnxruntime as ort

    return ort.InferenceSession(graph, _tower_options(None), providers=[CPU_PROVIDER])


def _open_session(path: Path, threads: int | None, provider: Provider) -> Any:
    import onnxruntime as ort

    options = _tower_options(threads)
    if provider.fixed_shapes:
        options.add_free_dimension_override_by_name(VISION_BATCH, 1)  # `encode` runs one image at a time
    if not path.is_file():
        raise BundleError(f"{path}: missing; convert or pull the model again")
    check_onnx(path)
    try:
        with utf8_path(path) as name:
            return ort.InferenceSession(name, options, **provider.session_arguments())
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no other common base class
        raise BundleError(
            f"{path}: not a vision tower that ONNX Runtime can open ({one_line(error, 300)}); "
            "convert or pull the model again"
        ) from error


def _tower_options(threads: int | None) -> Any:
    options = session_options()
    threads = threads or quota_limit()
    if threads is not None:
        options.intra_op_num_threads = threads
    # Prepacked copies of the weights, and an arena that keeps the memory of a run, double a tower's memory. They save
    # no time here: a product has hundreds of rows, so packing the weights for each one costs little.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    # Threads that spin while they wait would take cores from the decoder, which runs at the same time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if int8_products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _checked_signature(path: Path, session: Any, info: VisionInfo, fixed: bool) -> int:
    """The hidden size. Raises BundleError unless the graph's inputs and outputs are those of a tower for `info`."""
    inputs = [(i.name, i.type, list(i.shape)) for i in session.get_inputs()]
    outputs = [(o.name, o.type, list(o.shape)) for o in session.get_outputs()]
    size = info.image_size
    hidden = outputs[0][2][-1] if outputs and outputs[0][2] else None
    wanted = {VISION_OUTPUT: info.tokens}
    if info.video is not None and info.video.before_projector:
        wanted[FRAME_OUTPUT] = _frame_output_tokens(info)
    if not (
        len(inputs) == 1
        and inputs[0][:2] == (VISION_INPUT, "tensor(float)")
        and inputs[0][2][1:] == [3, size, size]
        and (inputs[0][2][0] == 1 if fixed else not isinstance(inputs[0][2][0], int))
        and [output[:2] for output in outputs] == [(name, "tensor(float)") for name in wanted]
        and [output[2][1:] for output in outputs] == [[tokens, hidden] for tokens in wanted.values()]
        and isinstance(hidden, int)
        and hidden > 0
    ):
        gives = ", ".join(f"{name} (n, {tokens}, hidden size)" for name, tokens in wanted.items())
        raise BundleError(
            f"{path}: not the vision tower that bundle.json describes: takes {_signature(inputs)} and gives "
            f"{_signature(outputs)} instead of {VISION_INPUT} (n, 3, {size}, {size}) and {gives}, all float; "
            "convert or pull the model again"
        )
    return hidden


def _frame_output_tokens(info: VisionInfo) -> int:
    """Visual tokens of a frame that the graph pools: average and maximum drop what is left over at the far edges."""
    return (info.grid // (info.video.stride if info.video else 1)) ** 2


def _signature(values: list[tuple[str, str, list[Any]]]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, kind, shape in values[:4]) or "nothing"
