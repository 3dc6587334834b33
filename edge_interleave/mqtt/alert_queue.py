"""A queue of alerts on disk: each is one file, written before it is sent and deleted after the broker has it.

A file is one line of JSON (topics and event), then the picture. Its name is a number, so names sort by age.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError
from edge_interleave.util.atomic_file import atomic_file, sync_folder
from edge_interleave.util.directory_lock import LockedError, locked

MAX_ALERTS = 1000
MAX_BYTES = 64 << 20
"""Limits of the queue; beyond them the oldest alerts are dropped."""
_ENDING = ".alert"
_DAMAGED = ".damaged"
_NAME = re.compile(r"(\d{16})\.alert")
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class QueuedAlert:
    """An alert with the topics that it is published to."""

    number: int
    """Orders the alerts by age."""
    topic: str
    event: Mapping[str, Any]
    """The alert as JSON, with its `id`."""
    picture_topic: str
    picture: bytes = b""
    """A JPEG, or empty."""


class AlertQueue:
    """The alerts that wait in one folder. Any thread may use it; one process at a time may open the folder."""

    def __init__(
        self,
        folder: Path,
        on_problem: Callable[[str], None],
        *,
        max_alerts: int = MAX_ALERTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Open the folder, which is created if it is missing. Alerts that an earlier process left are still queued.

        `on_problem` gets a line for each file that cannot be read, and one when alerts begin to be dropped or cannot be
        saved.
        Raises InputError if the folder cannot be used, or another process uses it.
        """
        self._folder = folder
        self._on_problem = on_problem
        self._max_alerts = max_alerts
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[int, int] = OrderedDict()
        self._unsaved: dict[int, QueuedAlert] = {}
        self._topics: dict[int, str] = {}
        """Topics of alerts, as far as they were read or added by this process."""
        self.dropped = 0
        """Alerts that were dropped because the queue was full."""
        self._reported_unsaved = False
        self._open = ExitStack()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            self._open.callback(os.close, descriptor)
            self._open.enter_context(locked(descriptor, folder, wait=False))
            found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
            for number, path in found:
                self._sizes[number] = path.stat().st_size
        except LockedError as error:
            self._open.close()
            raise InputError(f"{folder}: another process uses this outbox; {error.remedy}") from None
        except OSError as error:
            self._open.close()
            raise InputError(
                f"{folder}: cannot be used as an outbox ({error.strerror}); give another folder"
            ) from error
        self._next = max(self._sizes, default=0) + 1

    def __len__(self) -> int:
        """How many alerts wait."""
        with self._lock:
            return len(self._sizes)

    def add(self, topic: str, event: Mapping[str, Any], picture_topic: str, picture: bytes) -> None:
        """Save an alert, synced to disk. If that fails, the alert is kept in memory alone, and a line says so."""
        with self._lock:
            number = self._next
            self._next += 1
            self._topics[number] = topic
            alert = QueuedAlert(number, topic, event, picture_topic, picture)
            content = _encode(alert)
            try:
                self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
                with atomic_file(self._path(number), private=True, durable=True) as temporary:
                    temporary.write_bytes(content)
                self._reported_unsaved = False
            except OSError as error:
                self._unsaved[number] = alert
                if not self._reported_unsaved:
                    self._reported_unsaved = True
                    self._on_problem(
                        f"{self._folder}: an alert cannot be saved ({error.strerror}) and waits in memory alone; "
                        "make room, or make the folder writable"
                    )
            self._sizes[number] = len(content)
            while len(self._sizes) > self._max_alerts or sum(self._sizes.values()) > self._max_bytes:
                if len(self._sizes) == 1:
                    break
                self._drop_oldest()

    def first(self, without: Collection[str] = ()) -> QueuedAlert | None:
        """The oldest alert; None if none waits. A file that cannot be read is reported and skipped.

        `without`: topics whose alerts are left out.
        """
        while True:
            with self._lock:
                number = next((number for number in self._sizes if self._topics.get(number) not in without), None)
                if number is None:
                    return None
                found = self._unsaved.get(number)
                path = self._path(number)
            if found is None:
                try:
                    found = _decode(number, path.read_bytes())
                except (OSError, ValueError, KeyError, TypeError) as error:
                    self._set_aside(number, path, error)
                    continue
            self._topics[number] = found.topic
            if found.topic not in without:
                return found

    def remove(self, number: int) -> None:
        """Delete an alert that the broker has."""
        with self._lock:
            self._forget(number)

    def close(self) -> None:
        """Release the folder; alerts that wait stay in it. A second call does nothing."""
        self._open.close()

    def _drop_oldest(self) -> None:
        self._forget(next(iter(self._sizes)))
        self.dropped += 1
        if self.dropped == 1:
            self._on_problem(
                f"{self._folder}: more than {self._max_alerts} alerts or {self._max_bytes >> 20} MB wait; "
                "the oldest are dropped, and only counted from now on"
            )

    def _forget(self, number: int) -> None:
        self._sizes.pop(number, None)
        self._topics.pop(number, None)
        if self._unsaved.pop(number, None) is None:
            with suppress(OSError):
                self._path(number).unlink()
                sync_folder(self._folder)

    def _set_aside(self, number: int, path: Path, error: Exception) -> None:
        with self._lock:
            if self._sizes.pop(number, None) is None:
                return  # dropped meanwhile
            self._topics.pop(number, None)
        if isinstance(error, OSError):
            self._on_problem(f"{path}: cannot be read ({error.strerror}), so this alert is not sent")
            return
        with suppress(OSError):
            path.rename(path.with_suffix(_DAMAGED))
        self._on_problem(f"{path}: damaged, so this alert is not sent; renamed to {path.with_suffix(_DAMAGED).name}")

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016d}{_ENDING}"


def _encode(alert: QueuedAlert) -> bytes:
    header = {
        "topic": alert.topic,
        "event": alert.event,
        "picture_topic": alert.picture_topic,
        "picture_bytes": len(alert.picture),
    }
    return json.dumps(header).encode() + b"\n" + alert.picture


def _decode(number: int, content: bytes) -> QueuedAlert:
    """Raises ValueError, KeyError or TypeError if the content is not what `_encode` wrote."""
    line, _, picture = content.partition(b"\n")
    if len(line) > _HEADER_BYTES:
        raise ValueError("too long")
    header = json.loads(line)
    event = header["event"]
    if header["picture_bytes"] != len(picture) or not isinstance(event, dict) or not isinstance(event["id"], str):
        raise ValueError("cut off")
    topic, picture_topic = header["topic"], header["picture_topic"]
    if not isinstance(topic, str) or not isinstance(picture_topic, str):
        raise TypeError("no topic")
    return QueuedAlert(number, topic, event, picture_topic, picture)
