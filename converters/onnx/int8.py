"""How a matrix and its input become whole numbers: which channels of the input are kept apart, which are evened out.

The input of a product is quantized with one step for each row (token). A channel that is far beyond the others would
set that step alone, so:

- a channel far beyond what nine in ten channels keep within is kept apart: its part of the product is computed in fp32
  (as in LLM.int8, arXiv 2208.07339, which has a fixed threshold);
- the others are divided by what brings input and weights to a like size, and the weights multiplied by it
  (SmoothQuant with its exponent of 0.5, arXiv 2211.10438), where a layer norm in front takes the division for nothing.

Knows matrices and the largest values of their inputs, nothing about towers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_interleave.util.arrays import FloatArray

APART_RATIO = 4.0
"""Times the channel that nine in ten do not pass. docs/decisions/0001-int8-tower.md has what other ratios do."""
APART_MOST = 32
"""Channels of one input. Each costs as much as four that are not apart."""
SMOOTH_MOST = 4.0
"""A divisor lies within this factor of the median: what was silent in the probe's pictures may speak up in others."""


@dataclass(frozen=True)
class Balance:
    """What the channels of one input, (..., channels), go through before they are quantized."""

    divisors: FloatArray
    """(channels,): the input is divided by them, and the weights are multiplied."""
    apart: tuple[int, ...]
    """Channels whose part of the product is not of whole numbers, ascending."""


def outlying(*sizes: FloatArray) -> list[int]:
    """Channels that are far beyond the others in one of the `sizes` (channels,): ascending, at most APART_MOST."""
    far = np.max([_beyond(values) for values in sizes], axis=0)
    farthest = np.argsort(-far, kind="stable")[:APART_MOST]
    return sorted(int(channel) for channel in farthest if far[channel] > APART_RATIO)


def balanced(peaks: FloatArray, reach: FloatArray, *, smooth: bool) -> Balance:
    """What to do with an input.

    `peaks` (channels,) is the largest absolute value that each channel was seen with, and `reach` (channels,) the
    largest absolute weight that it meets, in all products that take the input. `smooth`: something in front of these
    products can divide for nothing. Where nothing can, only channels that are apart are divided, by infinity, so that
    they vanish from the input that is quantized.
    """
    apart = outlying(peaks, reach)
    rest = np.ones(len(peaks), bool)
    rest[apart] = False
    divisors = np.ones_like(peaks)
    if not smooth:
        divisors[apart] = np.inf
        return Balance(divisors, tuple(apart))
    known = rest & (peaks > 0) & (reach > 0)
    if known.any():
        divisors[known] = np.sqrt(peaks[known] / reach[known])
        divisors[known] /= np.median(divisors[known])
        divisors[known] = divisors[known].clip(1 / SMOOTH_MOST, SMOOTH_MOST)
    # In the quantized input a channel that is apart meets weights of 0; it is only kept from setting the step.
    highest = (peaks / divisors)[rest].max(initial=0)
    if highest > 0:
        divisors[apart] = np.maximum(peaks[apart] / highest, 1)
    return Balance(divisors, tuple(apart))


def quantized(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """(out, in) float32 to (in, out) int8 and a scale for each output: weight.T = int8 * scale, nearly."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight.T / scale).astype(np.int8), scale


def _beyond(values: FloatArray) -> FloatArray:
    """How many times the value that nine in ten do not pass each of them is."""
    usual = np.quantile(values, 0.9)
    return values / usual if usual > 0 else np.where(values > 0, np.float32(np.inf), np.float32(0))
