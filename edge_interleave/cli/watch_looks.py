"""What `watch` does when a frame has come into the window: ask a question now and then, or weigh one against a rule.

Called by the live window, frame after frame, from one thread; the window stands still meanwhile. Knows nothing about
terminals or sources.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ..events import Answered, EventFolder, Looked, now
from . import output

if TYPE_CHECKING:
    from ..alerts import Alarm
    from ..live import Live, SeenFrame
    from .watch_views import View

_ROUNDING_S = 1e-6


class Looks(Protocol):
    """What is done with the frames."""

    def frame(self, number: int) -> None:
        """A frame has come into the window."""
        ...

    def end(self) -> None:
        """No more frames come."""
        ...


class Pacer:
    """When the next look is due, by the frames' own times: a file that is read faster than it plays counts the same."""

    def __init__(self, every_s: float) -> None:
        """`every_s`: 0 for each frame."""
        self._every = every_s
        self._last: float | None = None

    def due(self, time_s: float) -> bool:
        """Whether to look at a frame of that time; if so it counts as looked at."""
        last = self._last
        # A source that came back may have begun to count anew.
        if last is not None and last <= time_s < last + self._every - _ROUNDING_S:
            return False
        self._last = time_s
        return True


class AskNowAndThen:
    """Asks at the first frame, then as often as was said, and once more about a short rest at the end."""

    def __init__(
        self,
        live: Live,
        question: str,
        every_s: float,
        view: View,
        folder: EventFolder | None,
        interrupted: threading.Event,
        max_tokens: int,
    ) -> None:
        """`folder`: where the answers are written as well. `max_tokens`: length of an answer at most."""
        self._live = live
        self._question = question
        self._pacer = Pacer(every_s)
        self._view = view
        self._folder = folder
        self._interrupted = interrupted
        self._max_tokens = max_tokens
        self._asked = 0
        """Number of the frame that was asked about last."""

    def frame(self, number: int) -> None:
        """Ask where it is time to."""
        newest = self._live.frames[-1]
        if self._pacer.due(newest.time_s):
            self._ask(newest)

    def end(self) -> None:
        """Ask about what came since."""
        frames = self._live.frames
        if frames and frames[-1].number > self._asked:
            self._ask(frames[-1])

    def _ask(self, newest: SeenFrame) -> None:
        if self._interrupted.is_set():
            return
        self._asked = newest.number
        time = now()
        with self._live.stream(self._question, max_tokens=self._max_tokens, cancel=self._interrupted) as stream:
            for piece in stream:
                self._view.piece(piece)
        answer = stream.answer
        if answer.finish_reason == "cancelled":
            return
        event = Answered(
            time, self._question, newest.number, round(newest.time_s, 3), answer.text.strip(), answer.finish_reason
        )
        self._view.show(event)
        if self._folder is not None:
            self._folder.append(event)


class LookOut:
    """Weighs a yes-or-no question against a rule."""

    def __init__(self, live: Live, alarm: Alarm, every_s: float, view: View, interrupted: threading.Event) -> None:
        self._live = live
        self._alarm = alarm
        self._pacer = Pacer(every_s)
        self._view = view
        self._interrupted = interrupted
        self._doubted = False

    def frame(self, number: int) -> None:
        """Look where it is time to."""
        newest = self._live.frames[-1]
        if self._interrupted.is_set() or not self._pacer.due(newest.time_s):
            return
        question = self._alarm.rule.question
        choice = self._live.check(question)
        self._doubt(choice.total_probability)
        probability = choice.probability
        latest = self._live.latest
        alert = self._alarm.look(probability, newest.number, newest.time_s, latest.image if latest else None)
        time_s = round(newest.time_s, 3)
        together = round(choice.total_probability, 6)
        self._view.show(
            Looked(now(), question, newest.number, time_s, round(probability, 6), self._alarm.raised, together)
        )
        if alert is not None:
            self._view.show(alert)

    def end(self) -> None:
        """Nothing is left to do."""

    def _doubt(self, yes_or_no: float) -> None:
        """Say once where the model would answer with neither yes nor no."""
        from ..session import UNLIKELY

        if yes_or_no < UNLIKELY and not self._doubted:
            self._doubted = True
            self._view.say(
                f"the model would answer this with neither yes nor no ({output.probability(yes_or_no)} for both "
                "together), so alerts mean little; ask a question that is answered by yes or no"
            )
