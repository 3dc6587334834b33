"""Paths that are no UTF-8, for engines and files that take nothing else.

POSIX file names are bytes. Python keeps those that are no UTF-8 as lone surrogates, which its own calls turn back into
the bytes; ONNX Runtime, MLX and JSON refuse them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_interleave.errors import InputError


@contextmanager
def utf8_path(path: Path) -> Iterator[str]:
    """A path of the same file in UTF-8: the path itself, else a link to it that is gone after the block.

    The file need not be there yet, and the ending is kept. Raises InputError where no such link can be made.
    """
    if _is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="edge-interleave-") as folder:
        link = Path(folder, f"file{path.suffix if _is_utf8(path.suffix) else ''}")
        try:
            link.symlink_to(path.absolute())
        except OSError as error:
            raise InputError(f"{path}: the path is no UTF-8; rename the folder") from error
        yield str(link)


def utf8_text(text: str) -> str:
    """The text with `?` for what is no Unicode, as names of files may hold it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeError:
        return False
    return True
