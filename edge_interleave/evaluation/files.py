"""Small files, written so that a reader sees the old one or the new one, whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError
from edge_interleave.util.disk_space import writing


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a file atomically. Raises InputError, ResourceError where the disk is full."""
    # Parts of one evaluation may end at the same time.
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            beside.write_text(text, "utf-8", "backslashreplace")
            beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another folder") from error
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically. Raises InputError, ResourceError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
