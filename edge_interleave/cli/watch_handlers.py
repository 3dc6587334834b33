"""What `watch` does with each new frame: ask a question at intervals, or check a rule.

The live window calls a handler from one thread, frame by frame; no frame is added until the handler returns.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from edge_interleave.alerts.events import Answered, Checked, EventFolder, now
from edge_interleave.cli import output

if TYPE_CHECKING:
    from PIL.Image import Image

    from edge_interleave.alerts.alarm import Alarm
    from edge_interleave.answer import Choice
    from edge_interleave.cli.watch_views import View
    from edge_interleave.live.live import Live, WindowFrame
    from edge_interleave.options import AnswerOptions
    from edge_interleave.remote.live import RemoteLive

UNCHANGED_EVERY_S = 0.5
"""An unchanged picture counts as a check at most this often, by the source's time."""
_ROUNDING_S = 1e-6


class FrameHandler(Protocol):
    """Handles the frames of a watch."""

    def frame(self, number: int) -> None:
        """Handle a frame that was added to the window."""
        ...

    def unchanged(self, time_s: float) -> None:
        """Handle a frame that `--change` left out: at `time_s` the source still showed the window's newest frame."""
        ...

    def end(self) -> None:
        """Handle the end of the source."""
        ...


class FrameInterval:
    """Selects frames at least so many seconds apart, by the frames' own times.

    A file that is read faster than it plays therefore gives the same frames as a camera.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: 0 selects every frame."""
        self._seconds = seconds
        self._last: float | None = None

    def due(self, time_s: float, timed: bool = True) -> bool:
        """Whether a frame is selected; if so, the interval starts again.

        `timed`: whether a clock gave the time. If not, every frame is selected: its time is only a count.
        """
        if not timed:
            return True
        last = self._last
        # A source that was reconnected may count from 0 again.
        if last is not None and last <= time_s < last + self._seconds - _ROUNDING_S:
            return False
        self._last = time_s
        return True


class PeriodicAsker:
    """Asks a question about the first frame, then at intervals, and once more about the frames left at the end."""

    def __init__(
        self,
        live: Live | RemoteLive,
        question: str,
        every_s: float,
        view: View,
        folder: EventFolder | None,
        options: AnswerOptions,
    ) -> None:
        """`folder`: where answers are saved, if anywhere. `options`: of each answer; `cancel` ends the asking."""
        self._live = live
        self._question = question
        self._interval = FrameInterval(every_s)
        self._view = view
        self._folder = folder
        self._options = options
        self._interrupted = options.get("cancel")
        self._last_asked = 0
        """Number of the frame that the latest question was about."""

    def frame(self, number: int) -> None:
        """Ask, if the interval is over."""
        newest, latest = self._live.frames[-1], self._live.latest
        if self._interval.due(newest.time_s, latest is None or latest.timed):
            self._ask(newest)

    def unchanged(self, time_s: float) -> None:
        """Ask nothing: the last answer still holds."""

    def end(self) -> None:
        """Ask about the frames since the last question."""
        frames = self._live.frames
        if frames and frames[-1].number > self._last_asked:
            self._ask(frames[-1])

    def _ask(self, newest: WindowFrame) -> None:
        if self._interrupted is not None and self._interrupted.is_set():
            return
        self._last_asked = newest.number
        latest = self._live.latest
        file = latest.name if latest is not None else None
        time = now()
        with self._live.stream(self._question, **self._options) as stream:
            for piece in stream:
                self._view.piece(piece)
        answer = stream.answer
        if answer.finish_reason == "cancelled":
            return
        event = Answered(
            time,
            self._question,
            newest.number,
            round(newest.time_s, 3),
            answer.text.strip(),
            answer.finish_reason,
            file=file,
        )
        self._view.show(event)
        if self._folder is not None:
            self._folder.append(event)


class RuleWatcher:
    """Checks a rule on the frames and shows the alerts that it raises."""

    def __init__(
        self, live: Live | RemoteLive, alarm: Alarm, every_s: float, view: View, interrupted: threading.Event
    ) -> None:
        self._live = live
        self._alarm = alarm
        self._interval = FrameInterval(every_s)
        self._view = view
        self._interrupted = interrupted
        self._warned = False
        self._unchanged_every_s = max(every_s, UNCHANGED_EVERY_S)
        self._last: Choice | None = None
        self._last_checked_s = 0.0

    def frame(self, number: int) -> None:
        """Check the rule, if the interval is over."""
        newest, latest = self._live.frames[-1], self._live.latest
        if self._interrupted.is_set() or not self._interval.due(newest.time_s, latest is None or latest.timed):
            return
        self._last = self._live.check(self._alarm.rule.question)
        self._warn_if_unlikely(self._last.total_probability)
        self._check(self._last, newest.time_s, latest.image if latest else None)

    def unchanged(self, time_s: float) -> None:
        """Count the last result again: a rule needs several checks, and a still scene must be able to raise it."""
        last = self._last
        if last is None or self._interrupted.is_set() or 0 <= time_s - self._last_checked_s < self._unchanged_every_s:
            return
        if self._interval.due(time_s):
            self._check(last, time_s, None)

    def end(self) -> None:
        """Do nothing: every frame was checked when it came."""

    def _check(self, choice: Choice, time_s: float, image: Image | None) -> None:
        self._last_checked_s = time_s
        newest, latest = self._live.frames[-1], self._live.latest
        file = latest.name if latest is not None else None
        alert = self._alarm.check(choice.probability, newest.number, time_s, image, file)
        self._view.show(
            Checked(
                now(),
                self._alarm.rule.question,
                newest.number,
                round(time_s, 3),
                round(choice.probability, 6),
                self._alarm.raised,
                round(choice.total_probability, 6),
                file=file,
            )
        )
        if alert is not None:
            self._view.show(alert)

    def _warn_if_unlikely(self, yes_or_no: float) -> None:
        """Warn once if the model would answer with neither yes nor no."""
        from edge_interleave.answer import UNLIKELY

        if yes_or_no < UNLIKELY and not self._warned:
            self._warned = True
            self._view.note(
                f"the model would answer with neither yes nor no ({output.probability(yes_or_no)} for both together), "
                "so alerts mean little; ask a question that is answered with yes or no"
            )
