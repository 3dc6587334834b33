"""Replaces files atomically: a temporary sibling is written, then renamed. Readers see the old file or the new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_interleave.errors import InputError
from edge_interleave.util.disk_space import writing
from edge_interleave.util.regular_file import display_name

_ENDING = ".partial"


@contextmanager
def atomic_file(
    path: Path, *, suffix: str = "", private: bool = False, durable: bool = False, remedy: str | None = None
) -> Iterator[Path]:
    """Yield the path of a temporary sibling; rename it to `path` if the block succeeds, delete it if the block fails.

    The block creates and writes the sibling. Its name is hidden, unique, and ends in `.partial` and `suffix`.
    `private`: only the owner can read the file. `durable`: sync the file to disk before the renaming, and its name
    afterwards.
    Raises OSError; with a `remedy` instead an InputError, "PATH: cannot be written (REASON); REMEDY", and for a full
    disk a ResourceError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_ENDING}{suffix}")
    with _refusals(path, remedy):
        try:
            if private:
                os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            yield temporary
            if durable:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    if durable:
        sync_folder(path.parent)


def check_writable(path: Path, remedy: str) -> None:
    """Raise InputError if `path` is a folder, or `atomic_file` could not write it.

    Writes and deletes an empty sibling.
    """
    if path.is_dir():
        raise InputError(f"{display_name(path)}: is a folder and cannot be replaced; {remedy}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_ENDING}")
    with _refusals(path, remedy):
        temporary.touch()
        temporary.unlink()


def is_temporary(path: Path, name: str) -> bool:
    """Whether `path` is a temporary sibling that a killed process left of a file called `name`."""
    return path.name.startswith(f".{name}.") and _ENDING in path.suffixes


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, if the system supports it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _refusals(path: Path, remedy: str | None) -> Iterator[None]:
    if remedy is None:
        yield
        return
    try:
        with writing(path):
            yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); {remedy}") from error
