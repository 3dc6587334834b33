"""What a watch does with each new frame: ask a question at intervals, or check a rule.

A handler is called from one thread, frame by frame; no frame is added to its window until it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, Unpack

from edge_interleave.alerts.events import Answered, Checked, Event, EventFolder, now
from edge_interleave.answer import CANCELLED, UNLIKELY, Answer, Choice
from edge_interleave.errors import EdgeInterleaveError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edge_interleave.alerts.alarm import Alarm
    from edge_interleave.live.live import WindowFrame
    from edge_interleave.media.frame import Frame
    from edge_interleave.options import AnswerOptions

UNCHANGED_EVERY_S = 0.5
"""An unchanged picture counts as a check at most this often, by the source's time."""
DESCRIPTION_TOKENS = 64
"""The most tokens of an alert's description."""
_ROUNDING_S = 1e-6


class AnswerPieces(Iterator[str], Protocol):
    """An answer that comes in pieces, as `Live.stream` returns it."""

    @property
    def answer(self) -> Answer:
        """The whole answer, after its last piece."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class WatchedWindow(Protocol):
    """The parts of a live window that handlers use: `Live`, `RemoteLive`, or a window that shares the engine."""

    @property
    def frames(self) -> tuple[WindowFrame, ...]:
        """The frames in the window, oldest first."""
        ...

    @property
    def latest(self) -> Frame | None:
        """The newest frame in the window, with its picture."""
        ...

    def check(self, question: str) -> Choice:
        """How likely the answer is yes."""
        ...

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> AnswerPieces:
        """Ask about the frames in the window."""
        ...


class Reporter(Protocol):
    """Is told what a handler finds."""

    def piece(self, text: str) -> None:
        """The next piece of an answer."""
        ...

    def show(self, event: Event) -> None:
        """An event, after it was saved."""
        ...

    def note(self, line: str) -> None:
        """A line for people."""
        ...


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

    A file that is read faster than it plays therefore gives the same frames as a camera. Black frames at the beginning
    do not stand for the first interval: the first frame after them is selected too.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: 0 selects every frame."""
        self._seconds = seconds
        self._last: float | None = None
        self._only_black = True

    def due(self, time_s: float, timed: bool = True, image: Image | None = None) -> bool:
        """Whether a frame is selected; if so, the interval starts again.

        `timed`: whether a clock gave the time. If not, every frame is selected: its time is only a count. `image`: the
        frame's picture.
        """
        if not timed:
            return True
        last = self._last
        # A source that was reconnected may count from 0 again.
        over = last is None or not last <= time_s < last + self._seconds - _ROUNDING_S
        lit = self._only_black and not _is_black(image)
        if not over and not lit:
            return False
        self._only_black = self._only_black and not lit
        self._last = time_s
        return True


class PeriodicAsker:
    """Asks a question about the first frame, then at intervals, and once more about the frames left at the end."""

    def __init__(
        self,
        live: WatchedWindow,
        question: str,
        every_s: float,
        reporter: Reporter,
        folder: EventFolder | None,
        options: AnswerOptions,
        *,
        source: str | None = None,
        name: str | None = None,
    ) -> None:
        """`folder`: where answers are saved, if anywhere. `options`: of each answer; `cancel` ends the asking.

        `source`, `name`: of the source and of the question, for the events, where there are several.
        """
        self._live = live
        self._names = {"source": source, "rule": name}
        self.question = question
        self._interval = FrameInterval(every_s)
        self._reporter = reporter
        self._folder = folder
        self._options = options
        self._interrupted = options.get("cancel")
        self._last_asked = 0
        """Number of the frame that the latest question was about."""

    def frame(self, number: int) -> None:
        """Ask, if the interval is over."""
        newest, latest = self._live.frames[-1], self._live.latest
        if self._interval.due(newest.time_s, latest is None or latest.timed, latest.image if latest else None):
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
        with self._live.stream(self.question, **self._options) as stream:
            for piece in stream:
                self._reporter.piece(piece)
        answer = stream.answer
        if answer.finish_reason == CANCELLED:
            return
        event = Answered(
            time,
            self.question,
            newest.number,
            round(newest.time_s, 3),
            answer.text.strip(),
            answer.finish_reason,
            file=file,
            **self._names,
        )
        self._reporter.show(event)
        if self._folder is not None:
            self._folder.append(event)


class RuleWatcher:
    """Checks a rule on the frames and shows the alerts that it raises."""

    def __init__(
        self, live: WatchedWindow, alarm: Alarm, every_s: float, reporter: Reporter, interrupted: threading.Event
    ) -> None:
        """`interrupted`: when set, nothing more is checked."""
        self._live = live
        self._alarm = alarm
        self._interval = FrameInterval(every_s)
        self._reporter = reporter
        self._interrupted = interrupted
        self._warned = False
        self._unchanged_every_s = max(every_s, UNCHANGED_EVERY_S)
        self._last: Choice | None = None
        self._last_checked_s = 0.0

    def frame(self, number: int) -> None:
        """Check the rule, if the interval is over."""
        newest, latest = self._live.frames[-1], self._live.latest
        if self._interrupted.is_set():
            return
        if not self._interval.due(newest.time_s, latest is None or latest.timed, latest.image if latest else None):
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
        self._reporter.show(
            Checked(
                now(),
                self._alarm.rule.question,
                newest.number,
                round(time_s, 3),
                round(choice.probability, 6),
                self._alarm.raised,
                round(choice.total_probability, 6),
                file=file,
                source=self._alarm.source,
                rule=self._alarm.name,
            )
        )
        if alert is not None:
            self._reporter.show(alert)

    def _warn_if_unlikely(self, yes_or_no: float) -> None:
        """Warn once if the model would answer with neither yes nor no."""
        if yes_or_no < UNLIKELY and not self._warned:
            self._warned = True
            self._reporter.note(
                f"the model would answer with neither yes nor no ({yes_or_no:.2%} for both together), "
                "so alerts mean little; ask a question that is answered with yes or no"
            )


def describing(
    window: WatchedWindow, question: str, note: Callable[[str], None], interrupted: threading.Event
) -> Callable[[], str | None]:
    """A function that asks what is seen, for an alert: the answer, or None if there is none. Raises no error.

    `note` gets a line if the question fails. `interrupted`: when set, the answer ends where it is.
    """

    def describe() -> str | None:
        try:
            with window.stream(question, max_tokens=DESCRIPTION_TOKENS, cancel=interrupted) as pieces:
                return "".join(pieces).strip() or None
        except EdgeInterleaveError as error:
            note(f"an alert has no description: {error}")
            return None

    return describe


def _is_black(image: Image | None) -> bool:
    from edge_interleave.media.filters import is_black

    return image is not None and is_black(image)
