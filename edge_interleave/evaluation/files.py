"""Folders and small result files, written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file


def make_folder(folder: Path) -> None:
    """Create a folder if it is missing. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created ({error.strerror}); give another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a file atomically. Raises InputError, or ResourceError if the disk is full."""
    with atomic_file(path, remedy="give another folder") as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically. Raises InputError, ResourceError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
