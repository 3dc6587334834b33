"""The source for folders: the pictures in it by name, then new and changed ones as they arrive, until it is closed.

Files stay until they are read, so the source is not live. The rules:

- A name is read again whenever its picture changed: replaced, rewritten in place, or linked to another file.
- A file that is being written is read once it has not changed for SETTLED_S. If it keeps changing, it is read whenever
  it can be decoded completely.
- A damaged file is skipped, and read again if it changes.
- A second name for a picture that was read already, such as a link to the latest one, is ignored.
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
"""A file is complete if its last change is this old by the file system's clock, or if it has not changed for this long
by ours."""
_LISTING_SHARE = 0.1
"""At most this share of the time is spent on listing: a folder of 100,000 files takes half a second."""
_COARSE_S = 3.0
"""Two writes within this time may have the same time stamp on a file system that counts whole seconds (FAT: two)."""


class _FileState(NamedTuple):
    """Identifies a file and its state. For a link: of the file that it leads to."""

    device: int
    inode: int
    size: int
    changed_ns: int
    """When the content changed."""
    entry_changed_ns: int
    """When the content or the metadata changed: owner, links, times."""

    @property
    def file(self) -> tuple[int, int]:
        """Identifies the file."""
        return self.device, self.inode

    @property
    def stamp(self) -> tuple[int, int]:
        """The part of the state that a new link to the file does not change."""
        return self.size, self.changed_ns


@dataclass
class _Known:
    """A name whose file was read, or found damaged."""

    state: _FileState
    digest: bytes | None
    """The picture's digest; None: the file is damaged."""


@dataclass
class _Waiting:
    """A file that may still be being written."""

    state: _FileState
    since: float
    """When this state was first seen, by `time.monotonic`."""
    changing_since: float
    """When the source started to wait for this file."""


class FolderSource:
    """The pictures of a folder. The initial ones count as a second each; later ones have the time of their arrival."""

    def __init__(self, folder: Path) -> None:
        self.name = display_name(folder)
        self.live = False
        self._folder = folder
        self._listed = PictureFolder(folder)
        self._closed = threading.Event()
        self._known: dict[str, _Known] = {}
        self._taken: dict[tuple[int, int], tuple[tuple[int, int], bytes]] = {}
        """The stamp and the picture's digest of each file that was read, by any name."""
        self._waiting: dict[str, _Waiting] = {}
        self._ready: deque[tuple[str, _FileState]] = deque()
        self._pause_s = POLL_S
        self._index = 0
        self._initial: set[str] | None = None
        self._initial_count = 0
        self._began = 0.0
        self._last_s = 0.0

    def open(self) -> None:
        """List the folder. Raises MediaError if that fails."""
        names = self._list()
        if self._initial is None:
            # Includes files that are still being written, which are read later.
            self._initial, self._initial_count = set(names), len(names)
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """Wait for the next picture and return it. Raises FrameDamaged, SourceLost if the folder is gone."""
        while not self._closed.is_set():
            if not self._ready:
                try:
                    self._list()
                except MediaError as error:
                    raise SourceLost(str(error)) from error
            if not self._ready:
                self._closed.wait(self._pause_s)
                continue
            name, state = self._ready.popleft()
            image = self._read(name, state)
            if image is None:
                continue
            index, self._index = self._index, self._index + 1
            timed = self._initial is None or name not in self._initial
            if self._initial is not None:
                self._initial.discard(name)
            return Frame(image, self._time(index, timed), index, name, timed)
        return None

    def close(self) -> None:
        """End a waiting `read`."""
        self._closed.set()

    def _read(self, name: str, state: _FileState) -> Image.Image | None:
        """The picture; None if the file is incomplete or was read already. Raises FrameDamaged."""
        path = self._folder / name
        before = self._known.get(name)
        taken = self._taken.get(state.file)
        is_other_file = before is None or before.state.file != state.file
        if is_other_file and taken is not None and taken[0] == state.stamp:
            self._known[name] = _Known(state, taken[1])
            return None
        try:
            image = open_image(path)
        except MediaError as error:
            # A file that was deleted or is still being written is read when it appears or changes again.
            reported = before is not None and before == _Known(state, None)
            if reported or name in self._waiting or _state_of(path) != state:
                return None
            self._known[name] = _Known(state, None)
            raise FrameDamaged(str(error), name) from error
        if _state_of(path) != state:
            return None
        digest = _digest(image)
        self._known[name] = _Known(state, digest)
        # Some file systems have no inode numbers.
        if state.inode:
            self._taken[state.file] = state.stamp, digest
        # With the same digest as before, only the metadata changed: owner, links, times.
        return None if before is not None and before.digest == digest else image

    def _list(self) -> list[str]:
        """Queue new and changed pictures in the order in which they changed; by name at the first call.

        Returns the names of all pictures of the folder.
        """
        started = time.monotonic()
        names = self._listed.names()
        present = set(names)
        self._known = {name: known for name, known in self._known.items() if name in present}
        self._waiting = {name: waiting for name, waiting in self._waiting.items() if name in present}
        # One name may refer to any number of files over time, so the table is bounded.
        while len(self._taken) > 2 * len(names) + 100:
            del self._taken[next(iter(self._taken))]
        due: list[tuple[str, _FileState]] = []
        for name in names:
            state = _state_of(self._folder / name)
            if state is not None and self._is_due(name, state):
                due.append((name, state))
        if self._initial is not None:
            due.sort(key=lambda picture: (picture[1].changed_ns, natural_order(picture[0])))
        self._ready.extend(due)
        self._pause_s = max(POLL_S, (time.monotonic() - started) / _LISTING_SHARE)
        return names

    def _is_due(self, name: str, state: _FileState) -> bool:
        """Whether to read a file: it is new or changed, and complete as far as its state tells."""
        known = self._known.get(name)
        age_s = time.time() - state.changed_ns / 1e9
        may_hide_a_write = state.changed_ns % 10**9 == 0 and 0 <= age_s < _COARSE_S
        if known is not None and known.state == state and not may_hide_a_write:
            self._waiting.pop(name, None)
            return False
        if age_s >= SETTLED_S and state.size:
            self._waiting.pop(name, None)
            return True
        # This branch also serves a file system whose clock is ahead of ours.
        now = time.monotonic()
        waiting = self._waiting.get(name)
        if waiting is None:
            self._waiting[name] = _Waiting(state, now, now)
            return False
        if waiting.state != state:
            waiting.state, waiting.since = state, now
            # A file that changes too often to settle: only reading it tells whether it is complete.
            return now - waiting.changing_since >= SETTLED_S and state.size > 0
        if now - waiting.since < SETTLED_S:
            return False
        del self._waiting[name]
        return True

    def _time(self, index: int, timed: bool) -> float:
        time_s = self._initial_count + time.monotonic() - self._began if timed else float(index)
        self._last_s = max(self._last_s, time_s)
        return self._last_s


def _state_of(path: Path) -> _FileState | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _FileState(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=repr(image.size).encode()).digest()
