"""Provides UTF-8 paths for files whose paths are not UTF-8, for engines and formats that accept nothing else.

POSIX file names are bytes. Python represents bytes that are not UTF-8 as lone surrogates, which ONNX Runtime, MLX and
JSON refuse.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_interleave.errors import InputError


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A UTF-8 path of the same file: the path itself, or a temporary link that is deleted after the block.

    The file need not exist yet. The link has the file's ending. Raises InputError if the link cannot be created.
    """
    if _is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="edge-interleave-") as folder:
        link = Path(folder, f"file{path.suffix if _is_utf8(path.suffix) else ''}")
        try:
            link.symlink_to(path.absolute())
        except OSError as error:
            raise InputError(f"{path}: the path is not UTF-8; rename the folder") from error
        yield str(link)


def utf8_text(text: str) -> str:
    """The text with `?` in place of lone surrogates, which file names may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeError:
        return False
    return True
