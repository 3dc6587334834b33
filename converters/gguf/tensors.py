"""Streams tensors into a GGUF file: their names and sizes come first, their values are read while being written.

Memory holds some rows of a tensor at a time.
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
    """A tensor whose name, shape and size are known before its values are read."""

    @property
    def gguf_name(self) -> str:
        """The name in the file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in NumPy's order, the slowest axis first."""
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
    """A tensor of the checkpoint."""

    checkpoint: Checkpoint
    name: str
    gguf_name: str
    type: str
    interleaved_heads: int = 0
    """Heads to reorder, or 0: llama.cpp's Llama rotates neighbouring rows, transformers the two halves."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the checkpoint."""
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
    """A computed f32 tensor that the checkpoint does not have."""

    values: FloatArray
    gguf_name: str
    type: str = "f32"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values."""
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
    """Write the file of a writer whose metadata is complete. `progress` gets the tensors' bytes: done, and in all.

    Raises CheckpointError if a tensor cannot be read.
    """
    for tensor in tensors:
        # With the fifth argument the writer ignores the third.
        writer.add_tensor_info(tensor.gguf_name, tensor.shape, np.dtype(np.float32), tensor.nbytes, _TYPES[tensor.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    for tensor in tensors:
        # The writer uses an array's size and `tofile` only, so any object with these can stream its rows.
        writer.write_tensor_data(cast("npt.NDArray[np.float32]", tensor))
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)


def stored_type(checkpoint: Checkpoint, name: str, matrix_type: str | None) -> str:
    """The type that a tensor gets if matrices get `matrix_type` (None: keep their own).

    Norms and biases are always f32. A matrix with values beyond the range of f16 keeps its type instead of f16.
    """
    own = checkpoint.dtype(name)
    if len(checkpoint.shape(name)) < 2:
        return "f32"
    if matrix_type == "f16" and own != "f16" and not fits_f16(checkpoint, name):
        return own
    return matrix_type or own


def fits_f16(checkpoint: Checkpoint, name: str) -> bool:
    """Whether all values of a tensor lie within the range of f16. Reads the tensor."""
    return all(np.abs(rows).max() <= _F16_MAX for rows in _chunks(checkpoint, name))


def type_bytes(shape: tuple[int, ...], kind: str) -> int | None:
    """Bytes of a tensor of a type, named in lower case (`q4_k`); None if ggml has no such type."""
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
    if kind == "bf16":  # exact: only bf16 tensors of the checkpoint come here
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype("<u2").tobytes()
    if kind == "q8_0":
        return bytes(gguf.quants.quantize(values, _TYPES[kind]).tobytes())
    return values.astype("<f2" if kind == "f16" else "<f4").tobytes()


def _interleave(values: FloatArray, heads: int) -> FloatArray:
    """Reorder each head's rows from two halves to pairs of one row of each half."""
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
