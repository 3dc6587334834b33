"""Saved timelines: a SHA-256 of all that follows, the fingerprint of the decoder it is of, and the arrays' bytes."""

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
    """The arrays' bytes, `most` of them. Raises InputError where the file is another decoder's, damaged or larger."""
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
