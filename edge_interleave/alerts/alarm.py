"""Applies a rule to frames: saves each alert with its pictures, then hands it to the outboxes."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_interleave.alerts.events import Alert, EventFolder, now
from edge_interleave.alerts.outbox import Outbox
from edge_interleave.alerts.rule import Hysteresis, Rule

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 8
"""Pictures saved with one alert: those of its latest checks."""
_JPEG_QUALITY = 90


class Alarm:
    """Turns checked frames into alerts. Use it from one thread at a time."""

    def __init__(self, rule: Rule, folder: EventFolder | None = None, outboxes: Sequence[Outbox] = ()) -> None:
        """`folder`: where alerts and their pictures are saved; None: nowhere."""
        self.rule = rule
        self.alerts = 0
        self._state = Hysteresis(rule)
        self._folder = folder
        self._outboxes = outboxes
        self._pictures: deque[tuple[int, bytes]] = deque(maxlen=MAX_PICTURES)

    @property
    def raised(self) -> bool:
        """Whether the latest alert is still raised."""
        return self._state.raised

    def check(
        self,
        probability: float,
        frame: int,
        time_s: float,
        picture: Image | None = None,
        file: str | None = None,
    ) -> Alert | None:
        """Apply the rule to a frame; return the alert that it raises, already saved and handed to the outboxes.

        `probability`: of yes. `frame`: the frame's number. `time_s`: seconds from the source's beginning. `picture`:
        the frame's image. `file`: the name of its file.
        """
        if self._state.update(probability):
            self._keep_picture(frame, picture)
            return self._raise_alert(probability, frame, time_s, file)
        if self._state.raised or not self._state.streak:
            self._pictures.clear()
        else:
            self._keep_picture(frame, picture)
        return None

    def _keep_picture(self, frame: int, picture: Image | None) -> None:
        """Keep the picture as JPEG, because decoded pictures are large."""
        if self._folder is None or picture is None:
            return
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY)
        self._pictures.append((frame, file.getvalue()))

    def _raise_alert(self, probability: float, frame: int, time_s: float, file: str | None) -> Alert:
        self.alerts += 1
        alert = Alert(now(), self.rule.question, frame, round(time_s, 3), round(probability, 6), file=file)
        if self._folder is not None:
            alert = self._saved(alert, self._folder)
        for outbox in self._outboxes:
            outbox.offer(alert)
        self._pictures.clear()
        return alert

    def _saved(self, alert: Alert, folder: EventFolder) -> Alert:
        """Save the pictures, then the alert with their paths: a line never names a picture that does not exist."""
        stamp = re.sub("[-:]", "", alert.time)
        paths = [folder.save(f"{stamp}-frame-{number:06d}.jpg", content) for number, content in self._pictures]
        alert = replace(alert, frames=tuple(str(path) for path in paths if path is not None))
        folder.append(alert)
        return alert
