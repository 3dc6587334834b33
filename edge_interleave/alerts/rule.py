"""When what is watched for is there: probabilities, look by look, to alerts that are raised once and written down.

Knows nothing about models or sources: it is given a probability and the picture it was seen in. Where alerts are
delivered to is `deliveries`' business.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_interleave.alerts.events import Alert, EventFolder, now
from edge_interleave.alerts.outbox import Outbox
from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

BELOW = 0.5
KEPT_PICTURES = 8
"""Pictures saved with one alert at most: those of its latest looks."""
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Rule:
    """When an alert is raised, and when the next one may be."""

    question: str
    """To be answered with yes or no."""
    above: float = 0.8
    """A look counts where the probability of yes is at least this."""
    looks: int = 3
    """So many looks in a row raise the alert."""
    below: float | None = None
    """The next alert can be raised after a look below this; None: 0.5, or `above` where that is less."""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError("the question to watch for is empty")
        if not 0 <= self.above <= 1:
            raise UsageError(f"'above' must be a probability from 0 to 1, not {self.above:g}")
        if self.looks < 1:
            raise UsageError(f"an alert needs 1 look or more, not {self.looks}")
        if self.below is not None and not 0 <= self.below <= self.above:
            raise UsageError(f"'below' must be from 0 to 'above' ({self.above:g}), not {self.below:g}")

    @property
    def clears(self) -> float:
        """`below`, with its default filled in."""
        return min(BELOW, self.above) if self.below is None else self.below


class Hysteresis:
    """Whether the alarm is raised, probability after probability."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.raised = False
        self.streak = 0
        """Looks in a row, up to the last, that were at or above."""

    def look(self, probability: float) -> bool:
        """Take the next probability; True where it raises the alarm."""
        self.streak = self.streak + 1 if probability >= self._rule.above else 0
        if self.raised:
            self.raised = not probability < self._rule.clears
            return False
        self.raised = self.streak >= self._rule.looks
        return self.raised


class Alarm:
    """Looks to alerts: raised, written to disk with their pictures, handed to the outboxes. One thread at a time."""

    def __init__(self, rule: Rule, folder: EventFolder | None = None, outboxes: Sequence[Outbox] = ()) -> None:
        """`folder`: where alerts are kept; None: nowhere."""
        self.rule = rule
        self.alerts = 0
        self._state = Hysteresis(rule)
        self._folder = folder
        self._outboxes = outboxes
        self._pictures: deque[tuple[int, bytes]] = deque(maxlen=KEPT_PICTURES)

    @property
    def raised(self) -> bool:
        """Whether the last alert still stands."""
        return self._state.raised

    def look(
        self,
        probability: float,
        frame: int,
        time_s: float,
        picture: Image | None = None,
        file: str | None = None,
    ) -> Alert | None:
        """Take the probability of yes for a frame (its number, time, picture and file); gives the alert it raises."""
        if self._state.look(probability):
            self._keep(frame, picture)
            return self._raise(probability, frame, time_s, file)
        if self._state.raised or not self._state.streak:
            self._pictures.clear()
        else:
            self._keep(frame, picture)
        return None

    def _keep(self, frame: int, picture: Image | None) -> None:
        """As JPEG at once: a streak may be long, and a decoded picture is large."""
        if self._folder is None or picture is None:
            return
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=_JPEG_QUALITY)
        self._pictures.append((frame, file.getvalue()))

    def _raise(self, probability: float, frame: int, time_s: float, file: str | None) -> Alert:
        self.alerts += 1
        alert = Alert(now(), self.rule.question, frame, round(time_s, 3), round(probability, 6), file=file)
        if self._folder is not None:
            alert = self._written(alert, self._folder)
        for outbox in self._outboxes:
            outbox.offer(alert)
        self._pictures.clear()
        return alert

    def _written(self, alert: Alert, folder: EventFolder) -> Alert:
        """The alert with its pictures' paths, on disk as far as that works."""
        stamp = re.sub("[-:]", "", alert.time)
        # The pictures first: a line never names one that is not there.
        saved = [folder.save(f"{stamp}-frame-{number:06d}.jpg", content) for number, content in self._pictures]
        alert = replace(alert, frames=tuple(str(path) for path in saved if path is not None))
        folder.append(alert)
        return alert
