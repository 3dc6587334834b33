"""Reads and checks the header of a safetensors file.

The format: 8 bytes with the header's length (little-endian); the header, JSON of name to dtype, shape and byte range;
the data. After the check, every tensor lies inside the file, has as many bytes as its dtype and shape need, and shares
none of them with another. Only then is the data read, here or by a library in C++.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError, one_line, shown

HEADER_BYTES_MAX = 100_000_000
AXES_MAX = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
DTYPES = frozenset(_BITS)
"""All dtypes of the format."""


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the header."""

    dtype: str
    """In the format's spelling: `F32`, `F16`, `BF16`, `U32`, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    bytes: int


def read_header(
    path: Path,
    file: BufferedReader,
    error: type[InputError],
    *,
    remedy: str = "download it again",
    dtypes: Collection[str] = DTYPES,
) -> dict[str, Entry]:
    """Name to entry of the tensors of a file.

    `file`: `path`, open at its beginning; afterwards it is at the end of the header. Raises `error`, with the `remedy`,
    if the file is not a complete safetensors file or a tensor has none of the `dtypes`. OSErrors are not caught.
    """
    return _Header(path, file, error, remedy).entries(dtypes)


class _UnsoundError(Exception):
    """What is wrong with the file, without its name."""


@dataclass(frozen=True)
class _Header:
    path: Path
    file: BufferedReader
    error: type[InputError]
    remedy: str

    def entries(self, dtypes: Collection[str]) -> dict[str, Entry]:
        try:
            return self._entries(dtypes)
        except _UnsoundError as error:
            raise self.error(f"{self.path}: {error}; {self.remedy}") from error.__cause__

    def _entries(self, dtypes: Collection[str]) -> dict[str, Entry]:
        size = self.path.stat().st_size
        prefix = self.file.read(8)
        length = int.from_bytes(prefix, "little") if len(prefix) == 8 else 0
        if not 2 <= length <= min(HEADER_BYTES_MAX, size - 8):
            for start, kind in ((b"version ", "a Git LFS pointer"), (b"PK", "a PyTorch pickle"), (b"\x80", "a pickle")):
                if prefix.startswith(start):
                    raise _UnsoundError(f"{kind} and not safetensors")
            raise _UnsoundError(f"not a safetensors file, or cut off ({size} bytes)")
        try:
            raw: Any = json.loads(self.file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise _UnsoundError(f"header is not readable ({one_line(error, 100)})") from error
        if not isinstance(raw, dict):
            raise _UnsoundError("header is not an object")
        raw.pop("__metadata__", None)
        base = 8 + length
        entries = {name: _entry(name, value, base, size - base, dtypes) for name, value in raw.items()}
        _check_layout(entries, base, size)
        return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{shown(name)} occurs twice")
        result[name] = value
    return result


def _entry(name: str, raw: Any, base: int, data: int, dtypes: Collection[str]) -> Entry:
    fields = raw if isinstance(raw, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    bits = _BITS.get(dtype, 0) if isinstance(dtype, str) else 0
    size, odd = divmod(math.prod(shape or ()) * bits, 8)
    if not bits or shape is None or len(shape) > AXES_MAX or offsets is None or len(offsets) != 2 or odd:
        raise _UnsoundError(f"the header's entry of tensor {shown(name)} is damaged")
    if dtype not in dtypes:
        raise _UnsoundError(f"tensor {shown(name)} is of type {dtype}, not one of {', '.join(sorted(dtypes))}")
    start, end = offsets
    if end - start != size:
        raise _UnsoundError(f"tensor {shown(name)} of shape {shape} claims {end - start} bytes, not {size}")
    if end > data:
        raise _UnsoundError(f"cut off at {base + data} bytes, tensor {shown(name)} ends at {base + end}")
    return Entry(str(dtype), shape, base + start, size)


def _naturals(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value):
        return tuple(value)
    return None


def _check_layout(entries: dict[str, Entry], base: int, size: int) -> None:
    """Check for overlaps and holes. The format forbids both; they hide data or show that the file is damaged."""
    position = base
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != position:
            what = "overlaps another" if entry.start < position else "leaves a hole before it"
            raise _UnsoundError(f"tensor {shown(name)} {what}")
        position += entry.bytes
    if position != size:
        raise _UnsoundError(f"{size - position} bytes more than its header says")
