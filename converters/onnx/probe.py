"""Runs a vision tower on a dozen pictures before it is written, to measure the error of a precision.

Random weights lose nothing in 8 bits. Trained towers have a few channels and tokens hundreds of times larger than the
others ("massive activations"), which a precision may not hold. So the pictures go through the tower in fp32 and in the
requested precision, stage by stage, with the weights of one stage in memory. The largest value of each channel is
recorded: int8 keeps outlier channels apart, and fp16 and mtmd are refused, or get other types, if they would overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.converters.checkpoint.preprocessor import read_vision_info
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.converters.onnx.int8 import Balance, balanced
from edge_interleave.converters.onnx.probe_pictures import probe_pictures
from edge_interleave.converters.onnx.vision import PEAK, STAGE_OUTPUT, stage_graph, stages
from edge_interleave.converters.progress import Progress
from edge_interleave.errors import CheckpointError
from edge_interleave.util.arrays import FloatArray
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tower import open_graph

STAGE = "probe"
LEAST_COSINE = 0.9
"""Lowest accepted cosine of a token to the same token in fp32. Below it, part of a picture is wrong."""
MEAN_COSINE = 0.99
"""Lowest accepted mean cosine over all tokens. Below it, the whole picture is wrong."""
F16_MAX = 65504.0
VISUAL_TOKENS = 384
_HEADROOM = 2.0
"""Other pictures may have values larger by this factor."""


@dataclass(frozen=True)
class Activations:
    """The largest absolute values in fp32, over all pictures and tokens."""

    channels: Mapping[str, FloatArray]
    """First linear layer of an input to the input's values by channel, (channels,)."""
    linears_by_input: Mapping[str, tuple[str, ...]]
    """First linear layer of an input to all layers that take the input."""
    others: Mapping[str, float]
    """Name of any other tensor in the graph to its value."""

    def beyond_f16(self) -> tuple[str, float] | None:
        """The tensor that exceeds the range of f16 most, with headroom, and its value; None if none does."""
        peaks = {**{name: float(values.max()) for name, values in self.channels.items()}, **self.others}
        name = max(peaks, key=lambda name: peaks[name])
        return (name, peaks[name]) if passes_f16(peaks[name]) else None


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe in a precision."""

    activations: Activations
    balances: Mapping[str, Balance]
    """For `write_vision_onnx` in int8."""
    cosine: float
    """The lowest cosine of a token to fp32, over all pictures; NaN if a token is not finite."""
    mean_cosine: float
    """The mean cosine over all tokens."""
    tokens: FloatArray
    """Visual tokens of some pictures in fp32, (n, decoder's hidden size), at most VISUAL_TOKENS."""


def passes_f16(value: float) -> bool:
    """Whether a value, with headroom for other pictures, exceeds the range of f16."""
    return not value * _HEADROOM <= F16_MAX


class VisionProbe:
    """The probe of a checkpoint; it runs at the first request for its result."""

    def __init__(self, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        """`progress` gets the stage `probe`, in stages of the tower."""
        self._checkpoint = checkpoint
        self._progress = progress
        self._found: dict[str, ProbeResult] = {}

    def activations(self) -> Activations:
        """The tower's largest values in fp32. Raises CheckpointError if some are not finite."""
        known = next(iter(self._found.values()), None)
        return (known or self.found("fp32")).activations

    def visual_tokens(self) -> FloatArray:
        """What the tower gives in fp32, as `ProbeResult.tokens`. Raises CheckpointError as `found`."""
        known = next(iter(self._found.values()), None)
        return (known or self.found("fp32")).tokens

    def found(self, precision: str) -> ProbeResult:
        """The result in a precision. Raises CheckpointError if values are not finite even in fp32."""
        if precision not in self._found:
            self._found[precision] = _run(self._checkpoint, precision, self._progress)
        return self._found[precision]

    def accepted(self, precision: str) -> ProbeResult:
        """The result in a precision. Raises CheckpointError, naming a better one, if the error is too large."""
        found = self.found(precision)
        beyond = found.activations.beyond_f16()
        if precision == "fp16" and beyond is not None:
            raise CheckpointError(
                f"{self._checkpoint.folder}: {beyond[0]} of the vision tower reaches {beyond[1]:.3g}, beyond fp16's "
                f"{F16_MAX:.0f}; use --vision-precision fp32"
            )
        if not (found.cosine >= LEAST_COSINE and found.mean_cosine >= MEAN_COSINE):
            instead = "fp32" if precision == "fp16" or beyond is not None else "fp32 or fp16"
            raise CheckpointError(
                f"{self._checkpoint.folder}: {precision} is too coarse for the vision tower: the cosine of visual "
                f"tokens to fp32 is {found.cosine:.3f} at worst and {found.mean_cosine:.3f} on average, and must be "
                f"{LEAST_COSINE} and {MEAN_COSINE}; use --vision-precision {instead}"
            )
        return found


def _run(checkpoint: Checkpoint, precision: str, progress: Progress | None) -> ProbeResult:
    info = read_vision_info(checkpoint.folder, checkpoint.config, 0)
    exact = [preprocess(picture, info)[np.newaxis] for picture in probe_pictures(info.image_size)]
    rounded = exact
    channels: dict[str, FloatArray] = {}
    linears_by_input: dict[str, tuple[str, ...]] = {}
    others: dict[str, float] = {}
    balances: dict[str, Balance] = {}
    count = stages(checkpoint)
    for stage in range(count):
        session, found = _opened(checkpoint, stage, "fp32", {}, watched=True)
        exact, peaks = _through(session, exact)
        linears_by_input |= found
        channels |= {name: peaks[name] for name in found}
        others |= {name: float(values) for name, values in peaks.items() if name not in found}
        if not all(np.isfinite(values).all() for values in (*peaks.values(), *exact)):
            raise CheckpointError(
                f"{checkpoint.folder}: the vision tower gives values that are not finite, even in fp32; "
                "download the checkpoint again"
            )
        if precision == "int8":
            balances |= {name: _balance(checkpoint, linears, channels[name]) for name, linears in found.items()}
        if precision != "fp32":
            session, _ = _opened(checkpoint, stage, precision, balances)
            rounded, _ = _through(session, rounded)
        del session
        if progress is not None:
            progress(STAGE, stage + 1, count)
    if precision == "fp32":
        rounded = exact
    cosines = np.concatenate([_cosines(a, b) for a, b in zip(exact, rounded, strict=True)])
    return ProbeResult(
        Activations(channels, linears_by_input, others),
        balances,
        float(cosines.min()),
        float(cosines.mean()),
        _some(exact),
    )


def _opened(
    checkpoint: Checkpoint, stage: int, precision: str, balances: Mapping[str, Balance], watched: bool = False
) -> tuple[Any, dict[str, tuple[str, ...]]]:
    """A session with the weights of one stage, and first linear layer to all layers that take the same input."""
    graph, linears_by_input = stage_graph(checkpoint, stage, precision, balances, watched=watched)
    return open_graph(graph), linears_by_input


def _through(session: Any, inputs: list[FloatArray]) -> tuple[list[FloatArray], dict[str, FloatArray]]:
    """Run a stage on each input. Returns the outputs, and the largest values of watched tensors over all inputs."""
    taken = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()]
    outputs: list[FloatArray] = []
    peaks: dict[str, FloatArray] = {}
    for x in inputs:
        values: dict[str, Any] = dict(zip(names, session.run(names, {taken: x}), strict=True))
        outputs.append(values.pop(STAGE_OUTPUT))
        for name, peak in values.items():
            key = name.removeprefix(PEAK)
            peaks[key] = np.maximum(peaks[key], peak) if key in peaks else peak
    return outputs, peaks


def _balance(checkpoint: Checkpoint, linears: tuple[str, ...], peaks: FloatArray) -> Balance:
    """The balance of an input. The first layers of a block's two halves follow a layer norm, which can divide."""
    reach = [np.abs(checkpoint.tensor(f"{linear}.weight")).max(axis=0) for linear in linears]
    return balanced(peaks, np.max(reach, axis=0), smooth=linears[0].endswith((".q_proj", ".fc1")))


def _some(tokens: list[FloatArray]) -> FloatArray:
    """Of each picture as many rows."""
    rows = np.concatenate(tokens, axis=1)[0]
    return np.ascontiguousarray(rows[:: -(-len(rows) // VISUAL_TOKENS)])


def _cosines(exact: FloatArray, rounded: FloatArray) -> npt.NDArray[np.float64]:
    """The cosine of each token, (1, tokens, width) to (1, tokens); NaN if it is not finite."""
    a, b = exact.astype(np.float64), rounded.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore"):
        cosines: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / np.maximum(lengths, 1e-300)
    return np.where(lengths == 0, (a == b).all(axis=-1), cosines)
