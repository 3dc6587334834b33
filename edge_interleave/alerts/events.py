"""Events on disk: a line of JSON each, and the pictures they name, written so that a crash loses nothing said before.

Knows nothing about models, rules or who is told.
"""

from __future__ import annotations

import json
import os
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
    """What is said of one frame."""

    time: str
    """When it was noticed: ISO 8601, UTC, to the millisecond."""
    question: str
    frame: int
    """Number of the frame, the newest one in the window."""
    frame_time_s: float
    """That frame's time, seconds from the source's beginning."""
    file: str | None = field(default=None, kw_only=True)
    """Name of the frame's file, where the source is a folder."""

    kind: ClassVar[str]

    def event(self) -> dict[str, Any]:
        """As the object that is written, posted and printed."""
        found = {"event": self.kind, **asdict(self)}
        if self.file is None:
            del found["file"]
        return found

    def line(self) -> str:
        """The object as one line of JSON, without the line's end."""
        return json.dumps(self.event(), ensure_ascii=False)


@dataclass(frozen=True)
class Answered(Event):
    """A question was answered."""

    answer: str
    finish_reason: str

    kind: ClassVar[str] = "answer"


@dataclass(frozen=True)
class Looked(Event):
    """A yes-or-no question was weighed."""

    probability: float
    """Of yes."""
    raised: bool
    """Whether an alert stands."""
    total_probability: float = 1.0
    """Of yes and no together. Where it is tiny, the model would answer something else."""

    kind: ClassVar[str] = "look"


@dataclass(frozen=True)
class Alert(Event):
    """What was watched for is there."""

    probability: float
    """Of yes, at the look that raised the alert."""
    frames: tuple[str, ...] = ()
    """Absolute paths of the saved pictures, oldest first: those of the looks that raised the alert."""

    kind: ClassVar[str] = "alert"


class EventFolder:
    """A folder with `events.jsonl` and the pictures in `frames/`. One process at a time, one thread at a time.

    What cannot be written later on (a full disk) is said once and counted: it is no reason to stop watching.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: None) -> None:
        """Make the folder where it is missing; what lies there stays. Raises InputError where it cannot be written."""
        # Whoever reads an event may be in another folder.
        self.path = folder.absolute() / EVENTS_NAME
        self.pictures = folder.absolute() / PICTURES_NAME
        self.unwritten = 0
        """Lines and pictures that could not be written."""
        self._say = say
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            # What a crash cut off keeps its line to itself.
            size = os.fstat(self._file).st_size
            self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
            sync_folder(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror}); give another folder") from error

    def append(self, event: Event) -> None:
        """Write one line, and have it on the disk before this returns."""
        line = event.line().encode("utf-8", "backslashreplace") + b"\n"
        if self._torn:
            line = b"\n" + line
        self._torn = True
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
            self._torn = False
            os.fsync(self._file)
        except OSError as error:
            self._count(self.path, error)

    def save(self, name: str, content: bytes) -> Path | None:
        """Write a picture, atomically and onto the disk; gives its path, or None where that did not work."""
        path = self.pictures / name
        try:
            with atomic_file(path, durable=True) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            self._count(path, error)
            return None
        return path

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _count(self, path: Path, error: OSError) -> None:
        self.unwritten += 1
        if self.unwritten == 1:
            self._say(f"{path}: could not be written ({error.strerror}); what follows is tried, and counted")


def now() -> str:
    """The time: ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
