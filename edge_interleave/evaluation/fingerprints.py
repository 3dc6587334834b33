"""Fingerprints of the images and videos that a question was about, stored with the answer.

A resumed run compares its files with the stored fingerprints: size, times and inode first, which costs one `stat`, and
the content only if those differ. So copied or touched files are accepted, and a file with other content is not.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_interleave.errors import MediaError
from edge_interleave.media.pictures.folder import picture_names
from edge_interleave.util.regular_file import display_name

_DIGEST_BYTES = 16
_KEPT = 4096


@dataclass(frozen=True)
class Fingerprint:
    """Identifies an image or a video."""

    state: str
    """Size in bytes, mtime and ctime in nanoseconds, and inode. For a folder, a digest of its pictures' states."""
    digest: str
    """BLAKE2b of the content, 32 hex digits; for a folder, of its pictures' names and contents."""


def state_of(path: Path) -> str:
    """The state of a file or a folder: see `Fingerprint`. Raises MediaError."""
    try:
        if not path.is_dir():
            return _state(path)
        names = picture_names(path)
        return _joined(f"{name} {_state(path / name)}" for name in names)
    except OSError as error:
        raise _unreadable(path, error) from error


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of an image, a video or a folder of pictures; reads the whole content. Raises MediaError."""
    state = state_of(path)
    try:
        return Fingerprint(state, _digest(path, state))
    except OSError as error:
        raise _unreadable(path, error) from error


def is_same(path: Path, before: Fingerprint) -> bool:
    """Whether the path still has the fingerprint's content. Raises MediaError if it cannot be read."""
    return state_of(path) == before.state or fingerprint(path).digest == before.digest


def to_json(media: Mapping[str, Fingerprint]) -> dict[str, list[str]]:
    """The form in which results store fingerprints, by name."""
    return {name: [one.state, one.digest] for name, one in media.items()}


def from_json(value: Any) -> dict[str, Fingerprint] | None:
    """The inverse of `to_json`; None for anything else."""
    if not isinstance(value, dict):
        return None
    if not all(isinstance(pair, list) and [type(part) for part in pair] == [str, str] for pair in value.values()):
        return None
    return {name: Fingerprint(*pair) for name, pair in value.items()}


def _state(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}"


@lru_cache(maxsize=_KEPT)
def _digest(path: Path, _state: str) -> str:
    """The content's digest, cached by state: benchmarks show the same image many times."""
    if path.is_dir():
        return _joined(f"{name} {_digest_of_file(path / name)}" for name in picture_names(path))
    return _digest_of_file(path)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()


def _joined(parts: Iterable[str]) -> str:
    whole = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        whole.update(os.fsencode(part) + b"\0")
    return whole.hexdigest()


def _unreadable(path: Path, error: OSError) -> MediaError:
    return MediaError(f"{display_name(path)}: cannot be read ({error.strerror}); check --images")
