"""A source that watches a folder: the pictures in it by name, then new ones as they come, for as long as it is open.

It can wait for who reads, for files stay; so it is not live. A name is looked at again each time that another picture
lies behind it: replaced, rewritten in place, or linked to another file. A file that is still being written is waited
for: it is taken once it has not changed for a while, or, where it changes more often than that, whenever it can be read
whole. One that is damaged is skipped, and looked at again should it change. A second name of a picture that was taken
(a link to the latest one, say) is none of its own.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame
from edge_interleave.media.pictures.folder import PictureFolder
from edge_interleave.media.pictures.image import open_image
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.util.natural_order import natural_order
from edge_interleave.util.regular_file import display_name

POLL_S = 0.25
SETTLED_S = 1.0
"""A file last changed so long ago is whole, by the file system's clock; by ours, it has to stay the same this long."""
_LISTING_SHARE = 0.1
"""Of the time, at most, that goes into listing: a folder of 100,000 files takes half a second."""
_COARSE_S = 3.0
"""Two writes within so long may have the same time stamp where a file system counts whole seconds (FAT: two)."""


class _Print(NamedTuple):
    """What tells that the file behind a name is the same, and as it was; of the file behind a link."""

    device: int
    inode: int
    size: int
    changed_ns: int
    """When its content changed."""
    entry_changed_ns: int
    """When anything about it changed: its owner, its links, its times."""

    @property
    def file(self) -> tuple[int, int]:
        """Which file it is."""
        return self.device, self.inode

    @property
    def stamp(self) -> tuple[int, int]:
        """What a further name of the file leaves alone."""
        return self.size, self.changed_ns


@dataclass
class _Known:
    """What is known of a name whose file was taken, or found damaged."""

    print: _Print
    digest: bytes | None
    """Of the picture; None: it is damaged."""


@dataclass
class _Waiting:
    """A file that changed a moment ago."""

    print: _Print
    since: float
    """Since when it has been as it is now, by our clock."""
    changing_since: float
    """Since when it has been waited for."""


class FolderSource:
    """Pictures of a folder. Those that are there at first count as a second each, then time runs as it does."""

    def __init__(self, folder: Path) -> None:
        self.name = display_name(folder)
        self.live = False
        self._folder = folder
        self._listed = PictureFolder(folder)
        self._closed = threading.Event()
        self._known: dict[str, _Known] = {}
        self._taken: dict[tuple[int, int], tuple[tuple[int, int], bytes]] = {}
        """Of each file that was taken, by whatever name: its stamp, and its picture's digest."""
        self._waiting: dict[str, _Waiting] = {}
        self._ready: deque[tuple[str, _Print]] = deque()
        self._pause_s = POLL_S
        self._index = 0
        self._at_first: set[str] | None = None
        self._first = 0
        self._began = 0.0
        self._last_s = 0.0

    def open(self) -> None:
        """List the folder. Raises MediaError where that cannot be done."""
        names = self._look()
        if self._at_first is None:
            # Those that were written just now as well, though they are waited for.
            self._at_first, self._first = set(names), len(names)
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
                self._closed.wait(self._pause_s)
                continue
            name, print_ = self._ready.popleft()
            image = self._read(name, print_)
            if image is None:
                continue
            index, self._index = self._index, self._index + 1
            timed = self._at_first is None or name not in self._at_first
            if self._at_first is not None:
                self._at_first.discard(name)
            return Frame(image, self._time(index, timed), index, name, timed)
        return None

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _read(self, name: str, print_: _Print) -> Image.Image | None:
        """The picture; None where it is not whole, or was taken already. Raises FrameDamaged."""
        path = self._folder / name
        before = self._known.get(name)
        taken = self._taken.get(print_.file)
        is_other = before is None or before.print.file != print_.file
        if is_other and taken is not None and taken[0] == print_.stamp:
            self._known[name] = _Known(print_, taken[1])
            return None
        try:
            image = open_image(path)
        except MediaError as error:
            # It went away or is being written: what it becomes is looked at then.
            told = before is not None and before == _Known(print_, None)
            if told or name in self._waiting or _print_of(path) != print_:
                return None
            self._known[name] = _Known(print_, None)
            raise FrameDamaged(str(error), name) from error
        if _print_of(path) != print_:
            return None
        digest = _digest(image)
        self._known[name] = _Known(print_, digest)
        # Some file systems number no files.
        if print_.inode:
            self._taken[print_.file] = print_.stamp, digest
        # Its entry alone changed: its owner, its links, its times.
        return None if before is not None and before.digest == digest else image

    def _look(self) -> list[str]:
        """Line up the pictures that came or changed, in the order in which they did; at the first look, by name.

        Gives the names of all pictures that are there, new or not.
        """
        started = time.monotonic()
        names = self._listed.names()
        there = set(names)
        self._known = {name: known for name, known in self._known.items() if name in there}
        self._waiting = {name: waiting for name, waiting in self._waiting.items() if name in there}
        # Files come and go under one name, so what is kept of them is bounded.
        while len(self._taken) > 2 * len(names) + 100:
            del self._taken[next(iter(self._taken))]
        came: list[tuple[str, _Print]] = []
        for name in names:
            print_ = _print_of(self._folder / name)
            if print_ is not None and self._is_due(name, print_):
                came.append((name, print_))
        if self._at_first is not None:
            came.sort(key=lambda picture: (picture[1].changed_ns, natural_order(picture[0])))
        self._ready.extend(came)
        self._pause_s = max(POLL_S, (time.monotonic() - started) / _LISTING_SHARE)
        return names

    def _is_due(self, name: str, print_: _Print) -> bool:
        """Whether a file is to be read: new or changed, and whole, as far as one can tell without reading it."""
        known = self._known.get(name)
        age_s = time.time() - print_.changed_ns / 1e9
        may_hide_a_write = print_.changed_ns % 10**9 == 0 and 0 <= age_s < _COARSE_S
        if known is not None and known.print == print_ and not may_hide_a_write:
            self._waiting.pop(name, None)
            return False
        if age_s >= SETTLED_S and print_.size:
            self._waiting.pop(name, None)
            return True
        # Also where the clock of the file system runs ahead of ours.
        now = time.monotonic()
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = _Waiting(print_, now, now)
            return False
        if waiting.print != print_:
            waiting.print, waiting.since = print_, now
            # It changes so often that it never settles: reading it tells whether it is whole.
            return now - waiting.changing_since >= SETTLED_S and print_.size > 0
        if now - waiting.since < SETTLED_S:
            return False
        del self._waiting[name]
        return True

    def _time(self, index: int, timed: bool) -> float:
        time_s = self._first + time.monotonic() - self._began if timed else float(index)
        self._last_s = max(self._last_s, time_s)
        return self._last_s


def _print_of(path: Path) -> _Print | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _Print(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=repr(image.size).encode()).digest()
