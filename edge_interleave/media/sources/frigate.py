"""The source for a camera of Frigate: its latest picture, while Frigate tracks an object that moves.

Frigate reports tracked objects on its MQTT topic `frigate/events`; the pictures come by HTTP. Between events there are
no frames, so a model has nothing to do.
"""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.frame import Frame
from edge_interleave.media.sources.base import FrameDamaged, SourceLost
from edge_interleave.media.sources.frigate_api import CameraOffline, FrigateApi
from edge_interleave.media.sources.frigate_settings import FrigateSettings
from edge_interleave.media.sources.mjpeg import decode_picture
from edge_interleave.mqtt.connection import Connection, Link
from edge_interleave.util.regular_file import display_name

EVERY_S = 0.5
"""Seconds between two pictures while an object is tracked."""
FORGET_S = 300.0
"""An object without news for this long has ended, although Frigate's message about that is missing."""
CONNECT_WAIT_S = 10.0
_MAX_OBJECTS = 1000
_CAMERA = re.compile(r"[^/+#\s]{1,64}")


class FrigateSource:
    """The pictures of one of Frigate's cameras: one when it is opened, then some while objects move."""

    def __init__(self, camera: str, settings: FrigateSettings) -> None:
        """Raises UsageError for a camera's name that cannot be one, InputError if certificates cannot be read."""
        if not _CAMERA.fullmatch(camera) or not camera.isprintable():
            raise UsageError(f"frigate:{display_name(camera)}: not a camera's name; give it as in Frigate's settings")
        self.name = f"frigate:{camera}"
        self.live = True
        self._camera = camera
        self._settings = settings
        self._events: _Events | None = None
        self._closed = threading.Event()
        self._api = FrigateApi(settings, self.name)
        self._began: float | None = None
        self._index = 0
        self._last = 0.0
        self._first: bytes | None = None

    def open(self) -> None:
        """Get a picture, and connect to the broker. Raises MediaError."""
        self._leave()
        try:
            self._first = self._api.latest(self._camera)
        except CameraOffline:
            self._first = None
        events = _Events(self._camera, self._settings)
        self._events = events
        if self._closed.is_set():
            self._leave()
            raise MediaError(f"{self.name}: closed")
        events.start(CONNECT_WAIT_S)
        if events.problem:
            self._leave()
            raise MediaError(f"{self.name}: {events.problem}")
        if self._began is None:
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """Wait for an event, and return the camera's latest picture.

        Raises SourceLost if Frigate or the broker is gone, FrameDamaged for a picture that is old or damaged.
        """
        events = self._events
        if events is None or self._closed.is_set():
            return None
        content, self._first = self._first, None
        try:
            if content is None:
                if not events.wait(self._last + EVERY_S):
                    return None
                content = self._latest()
        except FrameDamaged:
            raise
        except MediaError as error:
            self._leave()
            if self._closed.is_set():
                return None
            raise SourceLost(str(error)) from error
        self._last = time.monotonic()
        index, self._index = self._index, self._index + 1
        return Frame(decode_picture(self.name, content), self._last - (self._began or 0.0), index)

    def close(self) -> None:
        """End a waiting `read` or `open`, and disconnect."""
        self._closed.set()
        self._api.close()
        self._leave()

    def _latest(self) -> bytes:
        self._last = time.monotonic()
        events = self._events
        try:
            if events is not None and events.camera_is_off:
                raise CameraOffline
            return self._api.latest(self._camera)
        except CameraOffline:
            raise FrameDamaged(f"{self.name}: Frigate has no new picture of the camera; check the camera") from None

    def _leave(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.close()


class _Events:
    """What Frigate reports about a camera. Implements the connection's `Handler`."""

    def __init__(self, camera: str, settings: FrigateSettings) -> None:
        self.problem = ""
        """Why no more events will come."""
        self.camera_is_off = False
        self._camera = camera
        self._topics = tuple(f"{settings.prefix}/{rest}" for rest in ("events", "available", f"{camera}/status/detect"))
        self._changed = threading.Condition()
        self._moving: dict[str, float] = {}
        """Ids of objects that move, and when Frigate last told of them."""
        self._new = False
        self._closed = False
        self._told = ""
        self._connection = Connection(settings.broker, self, self._topics)

    def start(self, timeout_s: float) -> None:
        """Connect; sets `problem` if that fails within the time."""
        self._connection.start()
        with self._changed:
            self._changed.wait_for(lambda: self._connection.is_up or self._told or self._closed, timeout_s)
            if not self._connection.is_up and not self.problem:
                self.problem = self._told or "the broker does not answer"

    def wait(self, not_before: float) -> bool:
        """Wait until an object moves, and until `not_before`. False if closed. Raises SourceLost."""
        with self._changed:
            while not (self._closed or self.problem):
                now = time.monotonic()
                self._moving = {name: told for name, told in self._moving.items() if now - told < FORGET_S}
                if self._new or self._moving:
                    if now >= not_before:
                        self._new = False
                        return True
                    self._changed.wait(not_before - now)
                else:
                    self._changed.wait()
            if self._closed:
                return False
            raise SourceLost(f"frigate:{self._camera}: {self.problem}")

    def close(self) -> None:
        """Disconnect."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._connection.close()

    def connected(self, link: Link) -> None:
        """Wake `start`; the connection counts as up from now on."""

    def acknowledged(self, number: int, refusal: str) -> None:
        """Nothing is published."""

    def received(self, topic: str, payload: bytes, retained: bool) -> None:
        """Note an object that moves or has ended, and whether Frigate and its camera run."""
        events, available, status = self._topics
        with self._changed:
            if topic == events:
                self._take_event(payload)
            elif topic == available and payload in (b"offline", b"stopped"):
                self.problem = "Frigate has stopped"
            elif topic == status:
                self.camera_is_off = payload != b"online"
            self._changed.notify_all()

    def work(self, link: Link) -> None:
        """Wake `start`."""
        with self._changed:
            self._changed.notify_all()

    def lost(self) -> None:
        """The reader opens the source again."""
        with self._changed:
            self.problem = self.problem or "the connection to the broker was lost"
            self._changed.notify_all()

    def status(self, line: str) -> None:
        """Take why the broker cannot be reached."""
        with self._changed:
            self._told = line.removesuffix("; trying again")
            self._changed.notify_all()

    def _take_event(self, payload: bytes) -> None:
        try:
            message: Any = json.loads(payload)
            kind, after = message["type"], message["after"]
            name, camera = str(after["id"])[:128], after["camera"]
            stands = bool(after.get("stationary")) or bool(after.get("false_positive"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        if camera != self._camera:
            return
        if kind == "end" or stands:
            self._moving.pop(name, None)
        elif len(self._moving) < _MAX_OBJECTS:
            self._moving[name] = time.monotonic()
        self._new = self._new or (kind == "new" and not after.get("false_positive"))
