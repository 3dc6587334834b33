"""Files of saved timelines: a SHA-256 of the rest, the decoder's fingerprint, the arrays' bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file

_DIGEST = 32


def write_timeline(path: Path, fingerprint: bytes, body: bytes) -> None:
    """Write a file, atomically. Raises InputError, or ResourceError if the disk is full."""
    with atomic_file(path, private=True, remedy="choose another place") as temporary:
        temporary.write_bytes(hashlib.sha256(fingerprint + body).digest() + fingerprint + body)


def read_timeline(path: Path, fingerprint: bytes, most: int) -> bytes:
    """The arrays' bytes, at most `most`. Raises InputError if the file is damaged, larger or another decoder's."""
    try:
        with path.open("rb") as file:
            data = file.read(2 * _DIGEST + most + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > 2 * _DIGEST + most:
        raise InputError(f"{path}: more entries than this context holds; use a larger one")
    digest, of, body = data[:_DIGEST], data[_DIGEST : 2 * _DIGEST], data[2 * _DIGEST :]
    if hashlib.sha256(of + body).digest() != digest:
        raise InputError(f"{path}: not a saved timeline of this backend, or damaged; prefill again")
    if of != fingerprint:
        raise InputError(f"{path}: saved by another model; prefill again")
    return body
