"""Reads and rewrites safetensors files, for tests of files that must be refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U32": 4, "I64": 8, "F64": 8}

Tensors = dict[str, Any]
"""Name to (dtype, shape, bytes); bytes None stand for zeros."""


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """The header's entries, and the data after the header."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def rewrite(path: Path, change: Callable[[Tensors], object]) -> None:
    """Apply `change` to a file's tensors, and rewrite the file as a valid safetensors file."""
    header, data = header_of(path)
    header.pop("__metadata__", None)
    tensors: Tensors = {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }
    change(tensors)
    entries, parts, offset = {}, [], 0
    for name, (dtype, shape, values) in tensors.items():
        part = bytes(math.prod(shape) * _BYTES[dtype]) if values is None else values
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(part)]}
        parts.append(part)
        offset += len(part)
    raw = json.dumps(entries).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(parts))
