"""Ways to damage a file in a folder; each returns a function of the folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], object]
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
PICKLE = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03."
HTML = b"<!doctype html><html><body>404 Not Found</body></html>"


def content(name: str, data: bytes) -> Damage:
    """Replace the content."""
    return lambda folder: (folder / name).write_bytes(data)


def keep(name: str, share: float) -> Damage:
    """Cut the file off after a number of bytes."""

    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return cut


def swap(name: str, old: bytes, new: bytes) -> Damage:
    """Replace the first occurrence of some bytes."""

    def swapped(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return swapped


def without(name: str) -> Damage:
    """Delete the file."""
    return lambda folder: (folder / name).unlink()


def a_folder(name: str) -> Damage:
    """Put a folder in the file's place."""

    def replaced(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")

    return replaced


def a_link(name: str, target: str) -> Damage:
    """Put a symbolic link in the file's place; `{outside}` in the target is a valid copy outside the folder."""

    def linked(folder: Path) -> None:
        outside = folder.parent / f"outside-{Path(name).name}"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(target.format(outside=outside))

    return linked


def fields(name: str, *path: str | int, **values: Any) -> Damage:
    """Set fields of the object at `path` in a JSON file; `...` deletes a field."""

    def changed(folder: Path) -> None:
        raw = json.loads((folder / name).read_text("utf-8"))
        inner = raw
        for key in path:
            inner = inner[key]
        for key, value in values.items():
            if value is ...:
                inner.pop(key)
            else:
                inner[key] = value
        (folder / name).write_text(json.dumps(raw), "utf-8")

    return changed
