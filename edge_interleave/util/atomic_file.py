"""A file that appears whole or not at all. Knows nothing about what is in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_interleave.errors import InputError


@contextmanager
def written(path: Path, ending: str = "") -> Iterator[Path]:
    """A file beside `path`, its name ending in `ending`, to be written inside the block; afterwards it is `path`.

    Where the block fails it is gone, and `path` is as it was. Raises InputError for what the file system refuses.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=ending, dir=path.parent)
        os.close(descriptor)
        beside = Path(name)
        try:
            yield beside
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
