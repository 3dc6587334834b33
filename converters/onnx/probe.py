"""Tries a vision tower on a dozen pictures before it is written: what is lost to a precision, and whether it fits.

Random weights lose nothing to 8 bits; trained towers have a few channels and tokens hundreds of times beyond the others
("massive activations"), which a precision may not hold. So the pictures go through the tower in fp32 and, beside that,
in the precision that was asked for, stage by stage, with the weights of one stage in memory. On the way, the largest
value of every channel is noted: int8 chooses from those what it keeps apart, fp16 and mtmd are refused, or given other
types, where they would overflow.
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
"""Of any token to the same in fp32: below, a part of a picture becomes another."""
MEAN_COSINE = 0.99
"""Over all tokens: below, the whole picture does."""
F16_MAX = 65504.0
VISUAL_TOKENS = 384
_HEADROOM = 2.0
"""Other pictures than the probe's may have values this much larger."""


@dataclass(frozen=True)
class Activations:
    """The largest absolute values, in fp32, over all pictures and tokens."""

    channels: Mapping[str, FloatArray]
    """Of each input of linear layers, by the first of the layers that take it: (channels,)."""
    takers: Mapping[str, tuple[str, ...]]
    """All layers that take the input."""
    others: Mapping[str, float]
    """Of every other tensor that must be held, by its name in the graph."""

    def beyond_f16(self) -> tuple[str, float] | None:
        """The tensor that passes f16's range the most, allowing for other pictures, and its largest value; or None."""
        peaks = {**{name: float(values.max()) for name, values in self.channels.items()}, **self.others}
        name = max(peaks, key=lambda name: peaks[name])
        return (name, peaks[name]) if passes_f16(peaks[name]) else None


@dataclass(frozen=True)
class Found:
    """What a precision does to the tower."""

    activations: Activations
    balances: Mapping[str, Balance]
    """Of int8, for `write_vision_onnx`."""
    cosine: float
    """To fp32, the least of all tokens of all pictures; NaN where a token is no number."""
    mean_cosine: float
    """The mean over them."""
    tokens: FloatArray
    """Visual tokens of some pictures in fp32, (n, decoder's hidden size), at most VISUAL_TOKENS."""


def passes_f16(value: float) -> bool:
    """Whether a value of that size, or one of another picture, may be more than f16 can hold."""
    return not value * _HEADROOM <= F16_MAX


class VisionProbe:
    """The probe of one checkpoint, run when something first asks for it."""

    def __init__(self, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        """`progress` is called after each stage of the tower, as stage `probe`."""
        self._checkpoint = checkpoint
        self._progress = progress
        self._found: dict[str, Found] = {}

    def activations(self) -> Activations:
        """What the tower's values come to in fp32. Raises CheckpointError where some are no numbers even there."""
        known = next(iter(self._found.values()), None)
        return (known or self.found("fp32")).activations

    def visual_tokens(self) -> FloatArray:
        """What the tower gives in fp32, as `Found.tokens`. Raises CheckpointError as `found`."""
        known = next(iter(self._found.values()), None)
        return (known or self.found("fp32")).tokens

    def found(self, precision: str) -> Found:
        """What the precision does to the tower. Raises CheckpointError where even fp32 gives what are no numbers."""
        if precision not in self._found:
            self._found[precision] = _run(self._checkpoint, precision, self._progress)
        return self._found[precision]

    def accepted(self, precision: str) -> Found:
        """The same. Raises CheckpointError, naming what to take instead, where the precision cannot hold the tower."""
        found = self.found(precision)
        beyond = found.activations.beyond_f16()
        if precision == "fp16" and beyond is not None:
            raise CheckpointError(
                f"{self._checkpoint.folder}: {beyond[0]} of the vision tower reaches {beyond[1]:.3g}, and fp16 ends at "
                f"{F16_MAX:.0f}; take --vision-precision fp32"
            )
        if not (found.cosine >= LEAST_COSINE and found.mean_cosine >= MEAN_COSINE):
            instead = "fp32" if precision == "fp16" or beyond is not None else "fp32 or fp16"
            raise CheckpointError(
                f"{self._checkpoint.folder}: in {precision} the vision tower gives visual tokens whose cosine to those "
                f"of fp32 is {found.cosine:.3f} at least and {found.mean_cosine:.3f} in the mean, and usable are "
                f"{LEAST_COSINE} and {MEAN_COSINE}; take --vision-precision {instead}"
            )
        return found


def _run(checkpoint: Checkpoint, precision: str, progress: Progress | None) -> Found:
    info = read_vision_info(checkpoint.folder, checkpoint.config.vision, 0)
    exact = [preprocess(picture, info)[np.newaxis] for picture in probe_pictures(info.image_size)]
    rounded = exact
    channels: dict[str, FloatArray] = {}
    takers: dict[str, tuple[str, ...]] = {}
    others: dict[str, float] = {}
    balances: dict[str, Balance] = {}
    count = stages(checkpoint)
    for stage in range(count):
        session, found = _opened(checkpoint, stage, "fp32", {}, watched=True)
        exact, peaks = _through(session, exact)
        takers |= found
        channels |= {name: peaks[name] for name in found}
        others |= {name: float(values) for name, values in peaks.items() if name not in found}
        if not all(np.isfinite(values).all() for values in (*peaks.values(), *exact)):
            raise CheckpointError(
                f"{checkpoint.folder}: the vision tower gives values that are no finite numbers, even in fp32; "
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
    return Found(
        Activations(channels, takers, others), balances, float(cosines.min()), float(cosines.mean()), _some(exact)
    )


def _opened(
    checkpoint: Checkpoint, stage: int, precision: str, balances: Mapping[str, Balance], watched: bool = False
) -> tuple[Any, dict[str, tuple[str, ...]]]:
    """A session of one stage, which holds its weights alone, and the linear layers that take one input."""
    graph, takers = stage_graph(checkpoint, stage, precision, balances, watched=watched)
    return open_graph(graph), takers


def _through(session: Any, inputs: list[FloatArray]) -> tuple[list[FloatArray], dict[str, FloatArray]]:
    """Each input, one after the other, through a stage; the outputs, and over them all the peaks that it tells of."""
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
    """Behind a layer norm, which can divide, are the first layers of a block's two halves."""
    reach = [np.abs(checkpoint.tensor(f"{linear}.weight")).max(axis=0) for linear in linears]
    return balanced(peaks, np.max(reach, axis=0), smooth=linears[0].endswith((".q_proj", ".fc1")))


def _some(tokens: list[FloatArray]) -> FloatArray:
    """Of each picture as many rows."""
    rows = np.concatenate(tokens, axis=1)[0]
    return np.ascontiguousarray(rows[:: -(-len(rows) // VISUAL_TOKENS)])


def _cosines(exact: FloatArray, rounded: FloatArray) -> npt.NDArray[np.float64]:
    """Of each token, (1, tokens, width) to (1, tokens); NaN where it is no number."""
    a, b = exact.astype(np.float64), rounded.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore"):
        cosines: npt.NDArray[np.float64] = (a * b).sum(axis=-1) / np.maximum(lengths, 1e-300)
    return np.where(lengths == 0, (a == b).all(axis=-1), cosines)
