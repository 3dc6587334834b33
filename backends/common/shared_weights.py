"""Weights that several decoders share: loaded for the first, freed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedWeights(Generic[T]):
    """Open weights by key, with a count of their users. Thread-safe."""

    def __init__(self, free: Callable[[T], None]) -> None:
        """`free`: frees weights that nobody uses any more."""
        self._free = free
        self._open: dict[Hashable, T] = {}
        self._users: dict[Hashable, int] = {}
        self._lock = threading.RLock()  # reentrant: the garbage collector may release weights during `acquire`

    def __len__(self) -> int:
        """Number of open weights."""
        return len(self._open)

    def acquire(self, key: Hashable, load: Callable[[], T]) -> T:
        """The weights of a key; `load` is called unless they are open. The caller must `release` the key once."""
        with self._lock:
            if key not in self._open:
                self._open[key] = load()
            self._users[key] = self._users.get(key, 0) + 1
            return self._open[key]

    def release(self, key: Hashable) -> None:
        """Free the weights of a key if nobody else uses them."""
        with self._lock:
            self._users[key] -= 1
            if self._users[key] == 0:
                del self._users[key]
                self._free(self._open.pop(key))


def file_key(path: Path) -> tuple[str, int, int]:
    """What tells a file apart from other files and from other contents: path, modification time in ns, bytes."""
    stat = path.stat()
    return str(path.resolve()), stat.st_mtime_ns, stat.st_size
