"""A source that watches a folder: the pictures in it by name, then new ones as they come, for as long as it is open.

It can wait for who reads, for files stay; so it is not live. A file that is still being written is waited for: it is
taken once it has not changed for a while. One that is damaged is skipped, and looked at again should it change.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path

from ..errors import MediaError
from ..natural_order import natural_order
from ..vision.image import describe, open_image
from .frame import Frame
from .pictures import PictureFolder
from .source import FrameDamaged, SourceLost

POLL_S = 0.25
SETTLED_S = 1.0
"""A file last changed so long ago is whole, by the file system's clock; by ours, it has to stay the same this long."""

_Print = tuple[int, int]
"""A file's size and time of change: what tells that it is the same still."""


class FolderSource:
    """Pictures of a folder. Those that are there at first count as a second each, then time runs as it does."""

    def __init__(self, folder: Path) -> None:
        self.name = describe(folder)
        self.live = False
        self._folder = folder
        self._listed = PictureFolder(folder)
        self._closed = threading.Event()
        self._seen: set[str] = set()
        self._damaged: dict[str, _Print] = {}
        self._waiting: dict[str, tuple[_Print, float]] = {}
        self._ready: deque[tuple[str, _Print]] = deque()
        self._index = 0
        self._first: int | None = None
        self._began = 0.0
        self._last_s = 0.0

    def open(self) -> None:
        """List the folder. Raises MediaError where that cannot be done."""
        found = self._look()
        if self._first is None:
            # Those that were written just now as well, though they are waited for.
            self._first = found
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """The next picture. Raises FrameDamaged, SourceLost where the folder goes away."""
        while not self._closed.is_set():
            if not self._ready:
                try:
                    self._look()
                except MediaError as error:
                    raise SourceLost(str(error)) from error
            if not self._ready:
                self._closed.wait(POLL_S)
                continue
            name, print_ = self._ready.popleft()
            path = self._folder / name
            try:
                image = open_image(path)
            except MediaError as error:
                if not path.exists():
                    continue
                self._damaged[name] = print_
                raise FrameDamaged(str(error)) from error
            index, self._index = self._index, self._index + 1
            return Frame(image, self._time(index), index)
        return None

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> int:
        """Line up the pictures that came, in the order in which they changed last; at the first look, by name.

        Gives how many pictures there are, new or not.
        """
        names = self._listed.names()
        there = set(names)
        self._seen &= there
        self._damaged = {name: print_ for name, print_ in self._damaged.items() if name in there}
        self._waiting = {name: since for name, since in self._waiting.items() if name in there}
        came: list[tuple[str, _Print]] = []
        for name in names:
            if name in self._seen and name not in self._damaged:
                continue
            print_ = self._settled(name)
            if print_ is not None and self._damaged.get(name) != print_:
                came.append((name, print_))
                self._seen.add(name)
                self._damaged.pop(name, None)
        if self._first is not None:
            came.sort(key=lambda picture: (picture[1][1], natural_order(picture[0])))
        self._ready.extend(came)
        return len(names)

    def _settled(self, name: str) -> _Print | None:
        """A file's print once it is whole, as far as one can tell."""
        try:
            status = os.stat(self._folder / name)
        except OSError:
            return None
        print_ = (status.st_size, status.st_mtime_ns)
        if time.time() - status.st_mtime < SETTLED_S or status.st_size == 0:
            # Also where the clock of the file system runs ahead of ours.
            before, since = self._waiting.get(name, (None, 0.0))
            now = time.monotonic()
            if before != print_:
                self._waiting[name] = (print_, now)
                return None
            if now - since < SETTLED_S:
                return None
        self._waiting.pop(name, None)
        return print_

    def _time(self, index: int) -> float:
        first = self._first or 0
        time_s = float(index) if index < first else first + time.monotonic() - self._began
        self._last_s = max(self._last_s, time_s)
        return self._last_s
