"""Files of saved timelines: a header, then an engine's KV state. Both are checked as untrusted."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from edge_interleave.backends.common.inputs import checked_ranges
from edge_interleave.backends.common.ranges import Ranges
from edge_interleave.decoding.decoder import DecoderFacts
from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file

MAGIC = b"EDGE-INTERLEAVE-KV-1\n"
HEADER_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class SavedState:
    """The content of a file."""

    decoder: str
    """Fingerprint of the weights and the cache's precision: the state fits no other decoder."""
    ranges: Ranges
    """Stored positions."""
    payload: bytes | bytearray = field(repr=False)
    """The engine's KV state."""


def write_state(path: Path, state: SavedState) -> None:
    """Write a file, atomically. Raises InputError, or ResourceError if the disk is full."""
    header = json.dumps(
        {
            "decoder": state.decoder,
            "ranges": state.ranges,
            "bytes": len(state.payload),
            "sha256": hashlib.sha256(state.payload).hexdigest(),
        }
    ).encode()
    with (
        atomic_file(path, private=True, remedy="choose another place") as temporary,
        temporary.open("wb") as file,
    ):
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        file.write(state.payload)


def read_state(path: Path, fingerprint: str, facts: DecoderFacts) -> SavedState:
    """Read a file. Raises InputError if it is damaged, does not fit, or was saved by another decoder."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path}: not a saved timeline of edge-interleave")
            size = int.from_bytes(file.read(8), "little")
            if size > HEADER_BYTES_MAX:
                raise InputError(f"{path}: damaged header; prefill again")
            try:
                header = json.loads(file.read(size))
                said, bytes_said, digest = str(header["decoder"]), int(header["bytes"]), str(header["sha256"])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                raise InputError(f"{path}: damaged header; prefill again") from error
            if said != fingerprint:
                raise InputError(f"{path}: saved by another model; prefill again")
            ranges = checked_ranges(path, header.get("ranges"), facts)
            if os.fstat(file.fileno()).st_size - file.tell() != bytes_said:
                raise InputError(f"{path}: cut off; prefill again")
            payload = file.read(bytes_said)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(payload).hexdigest() != digest:
        raise InputError(f"{path}: damaged (SHA-256 differs); prefill again")
    return SavedState(said, ranges, payload)
