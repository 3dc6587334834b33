"""Tensors on their way into a GGUF file: named and sized before they are read, read while they are written.

Of a tensor some rows are in memory at a time, whatever its size. Knows neither what the tensors mean nor the file's
metadata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol, cast

import gguf
import numpy as np
import numpy.typing as npt

from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.util.arrays import FloatArray

_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
_CHUNK_VALUES = 1 << 23
_F16_MAX = 65504.0


class Tensor(Protocol):
    """What the writer needs to know of a tensor before it is read."""

    @property
    def gguf_name(self) -> str:
        """Its name in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy has it: the slowest axis first."""
        ...

    @property
    def type(self) -> str:
        """`f32`, `f16`, `bf16` or `q8_0`."""
        ...

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        ...

    def tofile(self, file: BinaryIO) -> None:
        """Write the values."""
        ...


@dataclass(frozen=True)
class Stored:
    """A tensor of the checkpoint, read while it is written."""

    checkpoint: Checkpoint
    name: str
    gguf_name: str
    type: str
    interleaved_heads: int = 0
    """Not 0: the rows are rotated in pairs of neighbours by llama.cpp's Llama, in halves by transformers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As the checkpoint has it."""
        return self.checkpoint.shape(self.name)

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return _bytes(self.shape, self.type)

    def tofile(self, file: BinaryIO) -> None:
        """Write the values, some rows at a time."""
        if self.interleaved_heads:
            file.write(_narrow(_interleave(self.checkpoint.tensor(self.name), self.interleaved_heads), self.type))
            return
        for rows in _chunks(self.checkpoint, self.name):
            file.write(_narrow(rows, self.type))


@dataclass(frozen=True)
class Computed:
    """A tensor that the checkpoint does not have, in f32."""

    values: FloatArray
    gguf_name: str
    type: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.values.nbytes

    def tofile(self, file: BinaryIO) -> None:
        """Write the values."""
        file.write(self.values.astype("<f4").tobytes())


def stream_tensors(
    writer: gguf.GGUFWriter, tensors: Sequence[Tensor], progress: Callable[[int, int], None] | None
) -> None:
    """Write the whole file of a writer that has its metadata; `progress` hears of the tensors' bytes, done and all.

    Raises CheckpointError where a tensor cannot be read.
    """
    for tensor in tensors:
        # The writer takes the type from the third argument only where the fifth is not given.
        writer.add_tensor_info(tensor.gguf_name, tensor.shape, np.dtype(np.float32), tensor.nbytes, _TYPES[tensor.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        # Of an array the writer takes the size and `tofile`; so rows can be streamed past it.
        writer.write_tensor_data(cast("npt.NDArray[np.float32]", tensor))
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)


def stored_type(checkpoint: Checkpoint, name: str, matrix_type: str | None) -> str:
    """What type a tensor gets where matrices shall have one (None: their own).

    Norms and biases are always f32. f16 is not for values beyond its range: such a matrix keeps its type.
    """
    own = checkpoint.dtype(name)
    if len(checkpoint.shape(name)) < 2:
        return "f32"
    if matrix_type == "f16" and own != "f16" and not fits_f16(checkpoint, name):
        return own
    return matrix_type or own


def fits_f16(checkpoint: Checkpoint, name: str) -> bool:
    """Whether all of a tensor's values lie within the range of f16. Reads it."""
    return all(np.abs(rows).max() <= _F16_MAX for rows in _chunks(checkpoint, name))


def type_bytes(shape: tuple[int, ...], kind: str) -> int | None:
    """Size of a tensor of that type, by its name in lower case (`q4_k`); None for one that ggml does not have."""
    types = {member.name.lower(): member for member in gguf.GGMLQuantizationType}
    if kind not in types:
        return None
    block, size = gguf.GGML_QUANT_SIZES[types[kind]]
    return math.prod(shape) // block * int(size)


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    block, size = gguf.GGML_QUANT_SIZES[_TYPES[kind]]
    return math.prod(shape) // block * size


def _chunks(checkpoint: Checkpoint, name: str) -> Iterator[FloatArray]:
    shape = checkpoint.shape(name)
    step = max(1, _CHUNK_VALUES // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield checkpoint.rows(name, start, min(start + step, shape[0]))


def _narrow(values: FloatArray, kind: str) -> bytes:
    if kind == "bf16":  # exact: only tensors that are bf16 in the checkpoint come here
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype("<u2").tobytes()
    if kind == "q8_0":
        return bytes(gguf.quants.quantize(values, _TYPES[kind]).tobytes())
    return values.astype("<f2" if kind == "f16" else "<f4").tobytes()


def _interleave(values: FloatArray, heads: int) -> FloatArray:
    """Rows of each head: first half, second half -> pairs of one each."""
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
