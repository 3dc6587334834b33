"""Matrices in groups of 4-bit numbers, as ONNX Runtime's `MatMulNBits` takes them. Knows no graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BytesArray = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights of a row that share a scale and an offset."""
_SHRINKS = (1.0, 0.95, 0.9, 0.85)
"""Shares of a group's span that are tried: leaving its extremes out makes finer steps for the rest."""


def group_bytes(rows: int, columns: int) -> int:
    """Bytes of a matrix with its scales and offsets."""
    groups = -(-columns // BLOCK)
    return rows * (groups * (BLOCK // 2 + 4) + -(-groups // 2))


def quantized_groups(weight: FloatArray) -> tuple[BytesArray, FloatArray, BytesArray]:
    """(out, in) float32 to packed numbers (out, groups, BLOCK / 2), scales (out, groups), offsets (out, groups / 2).

    weight = (number - offset) * scale, nearly; two numbers lie in a byte, the first in its lower half.
    """
    parts = [_quantized(weight[start : start + 4096]) for start in range(0, len(weight), 4096)]
    numbers, scales, offsets = (np.concatenate(part) for part in zip(*parts, strict=True))
    return numbers, scales, offsets


def _quantized(weight: FloatArray) -> tuple[BytesArray, FloatArray, BytesArray]:
    rows, columns = weight.shape
    count = -(-columns // BLOCK)
    padded = np.zeros((rows, count * BLOCK), np.float32)
    padded[:, :columns] = weight
    groups = padded.reshape(rows, count, BLOCK)
    high, low = groups.max(2, initial=0), groups.min(2, initial=0)
    best = np.full((rows, count), np.inf, np.float32)
    numbers = np.zeros(groups.shape, np.uint8)
    scales, offsets = np.ones((rows, count), np.float32), np.zeros((rows, count), np.uint8)
    for shrink in _SHRINKS:
        scale = (high - low) * np.float32(shrink / 15)
        scale[scale == 0] = 1
        offset = np.rint(-low * np.float32(shrink) / scale).clip(0, 15)
        number = (np.rint(groups / scale[..., np.newaxis]) + offset[..., np.newaxis]).clip(0, 15)
        error = (((number - offset[..., np.newaxis]) * scale[..., np.newaxis] - groups) ** 2).sum(2)
        better = error < best
        best[better], scales[better], offsets[better] = error[better], scale[better], offset[better]
        numbers[better] = number[better]
    packed: BytesArray = (numbers[..., 0::2] | numbers[..., 1::2] << 4).astype(np.uint8)
    if count % 2:
        offsets = np.concatenate((offsets, np.zeros((rows, 1), np.uint8)), axis=1)
    return packed, scales.astype(np.float32), (offsets[:, 0::2] | offsets[:, 1::2] << 4).astype(np.uint8)
