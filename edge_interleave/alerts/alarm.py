"""Applies a rule to frames: saves each alert with its pictures, then hands it to the outboxes."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_interleave.alerts.events import Alert, EventFolder, now
from edge_interleave.alerts.outbox import Outbox
from edge_interleave.alerts.ring import FrameRing, RingPicture, mp4
from edge_interleave.alerts.rule import Hysteresis, NearMiss, Rule

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 8
"""Pictures saved with one alert: those of its latest checks."""
PICTURE_BYTES_PER_PIXEL = 0.3
"""More than such a picture usually takes."""
_JPEG_QUALITY = 90


class Alarm:
    """Turns checked frames into alerts. Use it from one thread at a time."""

    def __init__(
        self,
        rule: Rule,
        folder: EventFolder | None = None,
        outboxes: Sequence[Outbox] = (),
        *,
        ring: FrameRing | None = None,
        describe: Callable[[], str | None] | None = None,
        source: str | None = None,
        name: str | None = None,
    ) -> None:
        """`folder`: where alerts and their pictures are saved; None: nowhere.

        `ring`: the source's last seconds, saved as a video with each alert. `describe`: says what is seen, when an
        alert is raised. `source`, `name`: of the source and of the rule, for the events, where there are several.
        """
        self.rule = rule
        self.alerts = 0
        self.near_miss = NearMiss(rule)
        self.best_picture: bytes | None = None
        """The latest alert's best picture, a JPEG file; None without pictures."""
        self._state = Hysteresis(rule)
        self._folder = folder
        self._outboxes = outboxes
        self._ring = ring
        self._describe = describe
        self._describing = False
        self.source, self.name = source, name
        self._pictures: deque[_Picture] = deque(maxlen=MAX_PICTURES)
        self._best: _Picture | None = None

    @property
    def raised(self) -> bool:
        """Whether the latest alert is still raised."""
        return self._state.raised

    @property
    def pending(self) -> bool:
        """Whether an alert is in the making: the latest check was positive, or a raised alert is being described."""
        return self._state.pending or self._describing

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
        raises = self._state.update(probability, time_s)
        self.near_miss.update(probability, self._state.streak, raises)
        if raises:
            self._keep_picture(probability, frame, picture)
            return self._raise_alert(probability, frame, time_s, file)
        if self._state.pending:
            self._keep_picture(probability, frame, picture)
        else:
            self._forget_pictures()
        return None

    def _keep_picture(self, probability: float, frame: int, picture: Image | None) -> None:
        """Keep the picture as JPEG, because decoded pictures are large."""
        if picture is None:
            return
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY)
        kept = _Picture(frame, probability, file.getvalue())
        self._pictures.append(kept)
        if self._best is None or probability >= self._best.probability:
            self._best = kept

    def _forget_pictures(self) -> None:
        self._pictures.clear()
        self._best = None

    def _raise_alert(self, probability: float, frame: int, time_s: float, file: str | None) -> Alert:
        self.alerts += 1
        alert = Alert(
            now(),
            self.rule.question,
            frame,
            round(time_s, 3),
            round(probability, 6),
            file=file,
            source=self.source,
            rule=self.name,
        )
        # Before the description, which may take longer than the ring is.
        before = [] if self._ring is None else self._ring.pictures()
        if self._describe is not None:
            self._describing = True
            try:
                alert = replace(alert, description=self._describe())
            finally:
                self._describing = False
        self.best_picture = None if self._best is None else self._best.jpeg
        if self._folder is not None:
            alert = self._saved(alert, self._folder, before)
        for outbox in self._outboxes:
            outbox.offer(alert)
        self._forget_pictures()
        return alert

    def _saved(self, alert: Alert, folder: EventFolder, before: Sequence[RingPicture]) -> Alert:
        """Save the pictures, then the alert with their paths: a line never names a picture that does not exist."""
        stamp = "-".join(filter(None, (re.sub("[-:]", "", alert.time), alert.rule)))
        kept = {picture.frame: picture for picture in (*self._pictures, *([self._best] if self._best else []))}
        paths = {
            number: str(path)
            for number, picture in sorted(kept.items())
            if (path := folder.save(f"{stamp}-frame-{number:06d}.jpg", picture.jpeg)) is not None
        }
        clip = _save_clip(folder, f"{stamp}-before.mp4", before)
        alert = replace(
            alert,
            frames=tuple(paths[picture.frame] for picture in self._pictures if picture.frame in paths),
            best=None if self._best is None else paths.get(self._best.frame),
            clip=None if clip is None else str(clip),
        )
        folder.append(alert)
        return alert


@dataclass(frozen=True)
class _Picture:
    """The picture of a positive check."""

    frame: int
    probability: float
    jpeg: bytes


def _save_clip(folder: EventFolder, name: str, pictures: Sequence[RingPicture]) -> Path | None:
    if not pictures:
        return None
    try:
        return folder.save(name, mp4(pictures))
    except Exception as error:  # of FFmpeg: the alert must still be raised
        folder.count_failure(folder.pictures / name, error)
        return None
