"""Quantizes a matrix and its input to int8: separates outlier channels, and smooths the others.

The input of a product is quantized with one step for each row (token). An outlier channel would determine that step
alone, so:

- channels far above the 90th percentile are kept apart: their part of the product is computed in fp32 (like LLM.int8,
  arXiv 2208.07339, which has a fixed threshold);
- the other channels are divided, and their weights multiplied, by a factor that balances both (SmoothQuant with its
  exponent of 0.5, arXiv 2211.10438), if a layer norm in front can do the division for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_interleave.util.arrays import FloatArray

APART_RATIO = 4.0
"""A channel above this many times the 90th percentile is kept apart. See docs/decisions/0001-int8-tower.md."""
APART_MOST = 32
"""The greatest number of channels of an input kept apart. Each costs as much as four other channels."""
SMOOTH_MOST = 4.0
"""Divisors stay within this factor of their median, since a channel may be larger in other pictures."""


@dataclass(frozen=True)
class Balance:
    """The treatment of an input's channels, (..., channels), before quantization."""

    divisors: FloatArray
    """(channels,): divide the input, and multiply the weights, by them."""
    apart: tuple[int, ...]
    """Channels whose part of the product is computed in fp32, ascending."""


def outlying(*sizes: FloatArray) -> list[int]:
    """Outlier channels of any of the `sizes` (channels,): ascending, at most APART_MOST."""
    far = np.max([_beyond(values) for values in sizes], axis=0)
    farthest = np.argsort(-far, kind="stable")[:APART_MOST]
    return sorted(int(channel) for channel in farthest if far[channel] > APART_RATIO)


def balanced(peaks: FloatArray, reach: FloatArray, *, smooth: bool) -> Balance:
    """The balance of an input.

    `peaks` (channels,): the largest absolute value of each channel in the probe. `reach` (channels,): the largest
    absolute weight of each channel, in all products that take the input. `smooth`: whether a layer in front can divide
    for free. Otherwise only channels kept apart are divided, by infinity, which removes them from the quantized input.
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
    # A channel kept apart has weights of 0 in the quantized product; dividing it only keeps it from setting the step.
    highest = (peaks / divisors)[rest].max(initial=0)
    if highest > 0:
        divisors[apart] = np.maximum(peaks[apart] / highest, 1)
    return Balance(divisors, tuple(apart))


def quantized(weight: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """(out, in) float32 to (in, out) int8 and a scale (out,): weight.T is about int8 * scale."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight.T / scale).astype(np.int8), scale


def _beyond(values: FloatArray) -> FloatArray:
    """Each value as a multiple of the 90th percentile."""
    usual = np.quantile(values, 0.9)
    return values / usual if usual > 0 else np.where(values > 0, np.float32(np.inf), np.float32(0))
