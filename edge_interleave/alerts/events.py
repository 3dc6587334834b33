"""The events of a watch, and the folder that records them: one JSON line each, with the pictures they name.

Each line and picture is synced to disk before it is reported, so a crash loses no reported event.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file, sync_folder

EVENTS_NAME = "events.jsonl"
PICTURES_NAME = "frames"


@dataclass(frozen=True)
class Event:
    """Something that a watch reports about one frame."""

    time: str
    """Wall-clock time of the event: ISO 8601, UTC, milliseconds."""
    question: str
    frame: int
    """Number of the newest frame in the window."""
    frame_time_s: float
    """That frame's time, in seconds from the source's beginning."""
    file: str | None = field(default=None, kw_only=True)
    """Name of the frame's file, if the source is a folder."""
    source: str | None = field(default=None, kw_only=True)
    """Name of the source, if several are watched."""
    rule: str | None = field(default=None, kw_only=True)
    """Name of the rule or question, if several sources are watched."""

    kind: ClassVar[str]

    def event(self) -> dict[str, Any]:
        """The event as a JSON object, in the form that is written, posted and printed. Fields that are None are out."""
        return {"event": self.kind, **{name: value for name, value in asdict(self).items() if value is not None}}

    def line(self) -> str:
        """The JSON object on one line, without a newline."""
        return json.dumps(self.event(), ensure_ascii=False)


@dataclass(frozen=True)
class Answered(Event):
    """A question was answered."""

    answer: str
    finish_reason: str

    kind: ClassVar[str] = "answer"


@dataclass(frozen=True)
class Checked(Event):
    """A rule was checked."""

    probability: float
    """The share of yes among yes and no."""
    raised: bool
    """Whether the alert is raised."""
    total_probability: float = 1.0
    """Probability that the answer begins with yes or no. If it is tiny, the model would answer something else."""

    kind: ClassVar[str] = "check"


@dataclass(frozen=True)
class Alert(Event):
    """A rule raised an alert."""

    probability: float
    """The share of yes at the check that raised the alert."""
    frames: tuple[str, ...] = ()
    """Absolute paths of the saved pictures, oldest first: those of the checks that raised the alert."""
    best: str | None = None
    """Absolute path of the picture with the highest probability among those checks."""
    clip: str | None = None
    """Absolute path of a video (MP4) of the seconds before the alert."""
    description: str | None = None
    """What the model says it sees, if the rule has a question for that."""

    kind: ClassVar[str] = "alert"


class EventFolder:
    """A folder with `events.jsonl`, and pictures and videos in `frames/`.

    Use it from one thread at a time. Another process that uses the folder is refused: it would overwrite pictures.

    A later write that fails (a full disk) is counted, and the first of several in a row is reported; the watch
    continues. A folder that somebody deletes or renames while it is used is made again.
    """

    def __init__(self, folder: Path, on_failure: Callable[[str], None] = lambda line: None) -> None:
        """Create the folder if it is missing; keep its files.

        `on_failure` gets one line when writes begin to fail. Raises InputError if the folder cannot be written to, or
        another process uses it.
        """
        # Absolute, because programs in other folders read the events.
        self.path = folder.absolute() / EVENTS_NAME
        self.pictures = folder.absolute() / PICTURES_NAME
        self.unwritten = 0
        """Lines and pictures that could not be written."""
        self._on_failure = on_failure
        self._failing = False
        """Whether the latest write failed."""
        self._file = -1
        self._torn = False
        """Whether the last line was cut off."""
        try:
            self._open()
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror}); give another folder") from error
        if not _locked(self._file):
            self.close()
            raise InputError(f"{folder}: another watch saves its events there; stop it, or give another folder")

    def append(self, event: Event) -> None:
        """Write one line and sync it to disk. A failure is counted, not raised."""
        line = event.line().encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._open_again_if_moved()
            if self._torn:
                line = b"\n" + line
            self._torn = True
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
            self._torn = False
            os.fsync(self._file)
            self._failing = False
        except OSError as error:
            self.count_failure(self.path, error)

    def save(self, name: str, content: bytes) -> Path | None:
        """Write a picture or a video atomically and sync it to disk; return its path, or None if that failed."""
        path = self.pictures / name
        try:
            self._open_again_if_moved()
            with atomic_file(path, durable=True) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            self.count_failure(path, error)
            return None
        return path

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def count_failure(self, path: Path, error: Exception) -> None:
        """Count a file that could not be written; report the first of several in a row."""
        self.unwritten += 1
        first, self._failing = not self._failing, True
        if first:
            why = getattr(error, "strerror", None) or error
            self._on_failure(
                f"{path}: could not be written ({why}); further failures are only counted until a line is written"
            )

    def _open(self) -> None:
        """Make the folders and open the file. Raises OSError."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.close()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        # A crash may have cut the last line off; the next event then starts on a new line.
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        sync_folder(self.path.parent)

    def _open_again_if_moved(self) -> None:
        """Open a new file if the old one was deleted or renamed: lines would go where nobody reads them."""
        try:
            kept = os.path.samestat(os.stat(self.path), os.fstat(self._file)) and self.pictures.is_dir()
        except OSError:
            kept = False
        if not kept:
            self._open()
            _locked(self._file)


def _locked(descriptor: int) -> bool:
    """Lock a file for this process until it is closed. Returns False if another process holds the lock.

    A process never excludes itself, so that two sources may exchange their folders. Windows, and file systems without
    locks, lock nothing.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def now() -> str:
    """The current time: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
