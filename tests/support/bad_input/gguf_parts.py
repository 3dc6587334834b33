"""Reads and rewrites GGUF files: well-formed, with any settings and tensors."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclass
class Parts:
    """The content of a GGUF file."""

    settings: dict[str, tuple[int, Any]]
    """Key to type and value; for an array, the bytes after its type."""
    tensors: dict[str, dict[str, Any]]
    """Name to `shape`, `type`, `data` and, if it is wrong on purpose, `offset`."""

    def set(self, name: str, value: int) -> None:
        """Change a whole number."""
        self.settings[name] = (4, value)


def edited(path: Path, change: Callable[[Parts], object]) -> None:
    """Change a file."""
    parts = _apart(path)
    change(parts)
    path.write_bytes(_together(parts))


def _apart(path: Path) -> Parts:
    reader = gguf.GGUFReader(path)
    settings: dict[str, tuple[int, Any]] = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        kind = int(field.types[0])
        # An array's parts: the key's length, the key, the type, then what is kept.
        value = b"".join(part.tobytes() for part in field.parts[3:]) if kind == _ARRAY else field.contents()
        settings[key] = (kind, value)
    tensors = {
        tensor.name: {
            "shape": tuple(int(length) for length in tensor.shape),
            "type": int(tensor.tensor_type),
            "data": tensor.data.tobytes(),
        }
        for tensor in reader.tensors
    }
    return Parts(settings, tensors)


def _together(parts: Parts) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(parts.tensors), len(parts.settings))
    for key, (kind, value) in parts.settings.items():
        head += _text(key) + struct.pack("<I", kind)
        if kind == _STRING:
            head += _text(value)
        else:
            head += value if kind == _ARRAY else struct.pack(_SCALARS[kind], value)
    body = b""
    for name, tensor in parts.tensors.items():
        shape = tensor["shape"]
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", tensor["type"], tensor.get("offset", len(body)))
        body += tensor["data"] + bytes(-len(tensor["data"]) % 32)
    return head + bytes(-len(head) % 32) + body


def _text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw
