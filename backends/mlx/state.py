"""Files of timelines saved by the MLX backend: safetensors with the stored keys and values, without gaps.

The metadata has the decoder's fingerprint, the stored positions and the SHA-256 of the arrays. Files are checked as
untrusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from edge_interleave.backends.common.inputs import checked_ranges
from edge_interleave.backends.common.ranges import Ranges, positions_in
from edge_interleave.bundle.safetensors_header import read_header
from edge_interleave.decoding.decoder import DecoderFacts
from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.utf8_path import utf8_path

KIND = "edge-interleave timeline 1"
_SUFFIX = ".safetensors"  # MLX requires it
_REMEDY = "prefill again"
_DTYPES = {mx.float16: "F16", mx.uint32: "U32"}
Stored = tuple[str, tuple[int, ...]]
"""An array's type, as safetensors spells it, and its shape."""


def write_arrays(path: Path, fingerprint: str, ranges: Ranges, arrays: Sequence[Any]) -> None:
    """Write a file, atomically. `arrays`: keys and values of the entries. Raises InputError, ResourceError."""
    metadata = {
        "kind": KIND,
        "decoder": fingerprint,
        "ranges": json.dumps(ranges),
        "sha256": _digest(arrays),
    }
    named = {_name(number): array for number, array in enumerate(arrays)}
    try:
        with (
            atomic_file(path, suffix=_SUFFIX, private=True, remedy="choose another place") as temporary,
            utf8_path(temporary) as name,
        ):
            mx.save_safetensors(name, named, metadata=metadata)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written ({str(error)[:100]}); choose another place") from error


def stored(array: Any) -> Stored:
    """Type and shape of the stored array of one entry, (1, kv heads, 1, size)."""
    return _DTYPES[array.dtype], array.shape


def read_arrays(path: Path, fingerprint: str, facts: DecoderFacts, kinds: Sequence[Stored]) -> tuple[Ranges, list[Any]]:
    """The positions and arrays of a file.

    `kinds`: type and shape of each array for one entry. Raises InputError if the file is damaged, does not fit, or was
    saved by another decoder.
    """
    try:
        with path.open("rb") as file:
            entries = read_header(path, file, InputError, remedy=_REMEDY)
        with utf8_path(path) as name:
            arrays, metadata = mx.load(name, format="safetensors", return_metadata=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except RuntimeError as error:
        raise InputError(f"{path}: MLX cannot read it ({str(error)[:100]}); {_REMEDY}") from error
    if metadata.get("kind") != KIND:
        raise InputError(f"{path}: not a saved timeline of edge-interleave")
    if metadata.get("decoder") != fingerprint:
        raise InputError(f"{path}: saved by another model; {_REMEDY}")
    ranges = checked_ranges(path, _parsed(metadata.get("ranges")), facts)
    length = positions_in(ranges)
    wanted = {
        _name(number): (dtype, (*shape[:2], length, shape[3]))
        for number, (dtype, shape) in enumerate(kinds if length else ())
    }
    if {name: (entry.dtype, entry.shape) for name, entry in entries.items()} != wanted:
        raise InputError(f"{path}: damaged, its arrays are not those of {length} entries; {_REMEDY}")
    ordered = [arrays[name] for name in wanted]
    if metadata.get("sha256") != _digest(ordered):
        raise InputError(f"{path}: damaged (SHA-256 differs); {_REMEDY}")
    # A matching digest proves nothing: whoever made the file could compute it.
    if not all(mx.isfinite(array).all().item() for array in ordered if array.dtype == mx.float16):
        raise InputError(f"{path}: damaged, not all of its keys and values are finite; {_REMEDY}")
    return ranges, ordered


def _name(number: int) -> str:
    return f"{number:04}"


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return None


def _digest(arrays: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
