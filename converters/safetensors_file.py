"""One safetensors file: its header, checked before anything is believed, and its tensors, read one at a time.

The format: 8 bytes, the header's length (little-endian); the header, JSON of name to dtype, shape and byte range; the
data. The `safetensors` package has no NumPy type for bf16 and maps the whole file; here ranges are read into the
caller's memory, so that a file larger than memory costs no more than the rows in hand. Knows nothing about models.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import CheckpointError

from .config_reader import shown

FloatArray = npt.NDArray[np.float32]

HEADER_BYTES_MAX = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
_FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True)
class Entry:
    """What the header says about one tensor."""

    dtype: str
    """As the format spells it: `F32`, `F16`, `BF16`, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    bytes: int

    @property
    def kind(self) -> str | None:
        """`f32`, `f16` or `bf16`; None for a type that weights of these models do not have."""
        return _FLOATS.get(self.dtype)


class SafetensorsFile:
    """An open file; the header was checked. Raises CheckpointError where the file is not what it should be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); download it again") from error
        try:
            self.entries = _read_header(path, self._file)
        except BaseException:
            self._file.close()
            raise

    def rows(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows start <= i < stop of a tensor (of its first axis; a scalar counts as one row), widened to float32."""
        entry = self.entries[name]
        shape = entry.shape or (1,)
        row = entry.bytes // shape[0] if shape[0] else 0
        raw = np.empty((stop - start) * row, np.uint8)
        self._file.seek(entry.start + start * row)
        if self._file.readinto(raw.data) != raw.nbytes:
            raise CheckpointError(f"{self.path}: cut off while it was read; download it again")
        values = widen(raw, entry.dtype).reshape(stop - start, *shape[1:])
        return values if entry.shape else values.reshape(())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def widen(raw: npt.NDArray[np.uint8], dtype: str) -> FloatArray:
    """Bytes of `F32`, `F16` or `BF16` values as float32, exactly."""
    if dtype == "BF16":
        # bf16 is the upper half of float32.
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4").astype(np.float32, copy=False)


def _read_header(path: Path, file: BufferedReader) -> dict[str, Entry]:
    size = path.stat().st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little") if len(prefix) == 8 else 0
    if not 2 <= length <= min(HEADER_BYTES_MAX, size - 8):
        for start, kind in ((b"version ", "a Git LFS pointer"), (b"PK", "a PyTorch pickle"), (b"\x80", "a pickle")):
            if prefix.startswith(start):
                raise CheckpointError(f"{path}: {kind} and not safetensors; download the safetensors file itself")
        raise CheckpointError(f"{path}: not a safetensors file, or cut off ({size} bytes); download it again")
    try:
        raw: Any = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise CheckpointError(f"{path}: header is not readable ({reason}); download it again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: header is not an object; download it again")
    raw.pop("__metadata__", None)
    data = size - 8 - length
    entries = {name: _entry(path, name, value, 8 + length, data) for name, value in raw.items()}
    _check_layout(path, entries, 8 + length, size)
    return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{shown(name)} is there twice")
        result[name] = value
    return result


def _entry(path: Path, name: str, raw: Any, base: int, data: int) -> Entry:
    fields = raw if isinstance(raw, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    bits = _BITS.get(dtype, 0) if isinstance(dtype, str) else 0
    size, odd = divmod(math.prod(shape or ()) * bits, 8)
    if not bits or shape is None or len(shape) > 8 or offsets is None or len(offsets) != 2 or odd:
        raise CheckpointError(f"{path}: header entry of tensor {shown(name)} makes no sense; download the file again")
    start, end = offsets
    if end - start != size:
        raise CheckpointError(
            f"{path}: tensor {shown(name)} of shape {shape} claims {end - start} bytes, not {size}; download it again"
        )
    if end > data:
        raise CheckpointError(
            f"{path}: cut off at {base + data} bytes, tensor {shown(name)} ends at {base + end}; download it again"
        )
    return Entry(str(dtype), shape, base + start, size)


def _naturals(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value):
        return tuple(value)
    return None


def _check_layout(path: Path, entries: dict[str, Entry], base: int, size: int) -> None:
    """The format allows neither overlaps nor holes: both hide something, or show that the file is damaged."""
    position = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != position:
            what = "overlaps another" if entry.start < position else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {shown(name)} {what}; download the file again")
        position += entry.bytes
    if position != size:
        raise CheckpointError(f"{path}: {size - position} bytes more than its header says; download it again")
