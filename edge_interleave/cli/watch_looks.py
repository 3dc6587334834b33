"""What `watch` does when a frame has come into the window: ask a question now and then, or weigh one against a rule.

Called by the live window, frame after frame, from one thread; the window stands still meanwhile. Knows nothing about
terminals or sources.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from edge_interleave.alerts.events import Answered, EventFolder, Looked, now
from edge_interleave.cli import output

if TYPE_CHECKING:
    from PIL.Image import Image

    from edge_interleave.alerts.rule import Alarm
    from edge_interleave.answer import Choice
    from edge_interleave.cli.watch_views import View
    from edge_interleave.live.live import Live, SeenFrame

UNCHANGED_EVERY_S = 0.5
"""What stands still counts as a look so often at most, by the source's time."""
_ROUNDING_S = 1e-6


class Looks(Protocol):
    """What is done with the frames."""

    def frame(self, number: int) -> None:
        """A frame has come into the window."""
        ...

    def unchanged(self, time_s: float) -> None:
        """At that time the source still showed what the newest frame in the window shows (`--change`)."""
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

    def due(self, time_s: float, timed: bool = True) -> bool:
        """Whether to look at a frame of that time; if so it counts as looked at.

        `timed`: the time is by a clock. Where it is not, every frame is due: a pace of one a second is made up.
        """
        if not timed:
            return True
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
        newest, latest = self._live.frames[-1], self._live.latest
        if self._pacer.due(newest.time_s, latest is None or latest.timed):
            self._ask(newest)

    def unchanged(self, time_s: float) -> None:
        """Nothing to ask: the last answer stands."""

    def end(self) -> None:
        """Ask about what came since."""
        frames = self._live.frames
        if frames and frames[-1].number > self._asked:
            self._ask(frames[-1])

    def _ask(self, newest: SeenFrame) -> None:
        if self._interrupted.is_set():
            return
        self._asked = newest.number
        latest = self._live.latest
        file = latest.name if latest is not None else None
        time = now()
        with self._live.stream(self._question, max_tokens=self._max_tokens, cancel=self._interrupted) as stream:
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


class LookOut:
    """Weighs a yes-or-no question against a rule."""

    def __init__(self, live: Live, alarm: Alarm, every_s: float, view: View, interrupted: threading.Event) -> None:
        self._live = live
        self._alarm = alarm
        self._pacer = Pacer(every_s)
        self._view = view
        self._interrupted = interrupted
        self._doubted = False
        self._unchanged_every_s = max(every_s, UNCHANGED_EVERY_S)
        self._found: Choice | None = None
        self._looked_s = 0.0

    def frame(self, number: int) -> None:
        """Look where it is time to."""
        newest, latest = self._live.frames[-1], self._live.latest
        if self._interrupted.is_set() or not self._pacer.due(newest.time_s, latest is None or latest.timed):
            return
        self._found = self._live.check(self._alarm.rule.question)
        self._doubt(self._found.total_probability)
        self._look(self._found, newest.time_s, latest.image if latest else None)

    def unchanged(self, time_s: float) -> None:
        """Look again at what stands still, by what was found about it: time counts, and not only change."""
        found = self._found
        if found is None or self._interrupted.is_set() or 0 <= time_s - self._looked_s < self._unchanged_every_s:
            return
        if self._pacer.due(time_s):
            self._look(found, time_s, None)

    def _look(self, found: Choice, time_s: float, image: Image | None) -> None:
        self._looked_s = time_s
        newest, latest = self._live.frames[-1], self._live.latest
        file = latest.name if latest is not None else None
        alert = self._alarm.look(found.probability, newest.number, time_s, image, file)
        self._view.show(
            Looked(
                now(),
                self._alarm.rule.question,
                newest.number,
                round(time_s, 3),
                round(found.probability, 6),
                self._alarm.raised,
                round(found.total_probability, 6),
                file=file,
            )
        )
        if alert is not None:
            self._view.show(alert)

    def end(self) -> None:
        """Nothing is left to do."""

    def _doubt(self, yes_or_no: float) -> None:
        """Say once where the model would answer with neither yes nor no."""
        from edge_interleave.answer import UNLIKELY

        if yes_or_no < UNLIKELY and not self._doubted:
            self._doubted = True
            self._view.say(
                f"the model would answer this with neither yes nor no ({output.probability(yes_or_no)} for both "
                "together), so alerts mean little; ask a question that is answered by yes or no"
            )
