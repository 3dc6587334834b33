"""Reads the tensors of a safetensors file some rows at a time.

The `safetensors` package has no NumPy type for bf16 and maps the whole file. Here only the requested rows are in
memory, also of files larger than memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_interleave.bundle.safetensors_header import read_header
from edge_interleave.errors import CheckpointError
from edge_interleave.util.arrays import FloatArray

_FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


class SafetensorsFile:
    """An open file with a checked header. Raises CheckpointError if the file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); download it again") from error
        try:
            self.entries = read_header(path, self._file, CheckpointError)
        except BaseException:
            self._file.close()
            raise

    def rows(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows start <= i < stop of a tensor's first axis, widened to float32. A scalar has one row."""
        entry = self.entries[name]
        shape = entry.shape or (1,)
        row = entry.bytes // shape[0] if shape[0] else 0
        raw = np.empty((stop - start) * row, np.uint8)
        self._file.seek(entry.start + start * row)
        if self._file.readinto(raw.data) != raw.nbytes:
            raise CheckpointError(f"{self.path}: cut off while being read; download it again")
        values = widen(raw, entry.dtype).reshape(stop - start, *shape[1:])
        return values if entry.shape else values.reshape(())

    def kind(self, name: str) -> str | None:
        """A tensor's type: `f32`, `f16` or `bf16`; None for any other."""
        return _FLOATS.get(self.entries[name].dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def widen(raw: npt.NDArray[np.uint8], dtype: str) -> FloatArray:
    """Bytes of `F32`, `F16` or `BF16` values as float32, without rounding."""
    if dtype == "BF16":
        # bf16 is the upper half of float32.
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4").astype(np.float32, copy=False)
