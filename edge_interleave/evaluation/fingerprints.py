"""Which pictures and clips a question was about: a fingerprint of each file, kept with the answer.

A run that goes on compares the files with what its answers say: by size, times and place in the file system, which
costs a look into the folder, and by content only where those differ. So a folder that was copied, or files that were
touched, are taken for what they are, and a picture changed in place is not.
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
    """What tells a picture or a clip from another."""

    state: str
    """Size in bytes, time of change and of the last change of anything about it (ns), number in the file system.

    Of a folder of pictures a digest of those of its pictures."""
    digest: str
    """BLAKE2b of the content, 32 hex digits; of a folder, of its pictures' names and contents."""


def state_of(path: Path) -> str:
    """A file's, or a folder's, state: see `Fingerprint`. Raises MediaError."""
    try:
        if not path.is_dir():
            return _state(path)
        names = picture_names(path)
        return _joined(f"{name} {_state(path / name)}" for name in names)
    except OSError as error:
        raise _unreadable(path, error) from error


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a picture, a clip or a folder of pictures. Reads all of it. Raises MediaError."""
    state = state_of(path)
    try:
        return Fingerprint(state, _digest(path, state))
    except OSError as error:
        raise _unreadable(path, error) from error


def is_same(path: Path, before: Fingerprint) -> bool:
    """Whether what lies there has the content that it had. Raises MediaError where nothing can be read."""
    return state_of(path) == before.state or fingerprint(path).digest == before.digest


def to_json(media: Mapping[str, Fingerprint]) -> dict[str, list[str]]:
    """By name, as results keep them."""
    return {name: [one.state, one.digest] for name, one in media.items()}


def from_json(value: Any) -> dict[str, Fingerprint] | None:
    """What `to_json` made; None where it is something else."""
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
    """The content's digest. Benchmarks show a picture again and again; while its state is the same, so is this."""
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
