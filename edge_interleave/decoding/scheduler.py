"""Decides who uses one decoder next: questions, frames, or work that can wait.

A question has the decoder to itself until it is answered. Questions go before frames, but for one thing: a frame that
waits when a question ends goes before the next question. So neither starves: a frame waits for at most one question,
a question for at most one frame more than the questions before it. Questions among each other keep their order, frames
too. What can wait goes last, a step at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_interleave.errors import UsageError
from edge_interleave.util.engine_lock import check_process, is_forked

_LOOK_S = 0.1
"""How often a waiting question looks whether it is cancelled, or the thread that it waits for has ended."""
_OPEN = (
    "this thread has an answer open, and nothing else can use the model until it is through; take its remaining "
    "pieces or close it first"
)
_ABANDONED = "an answer was left open by a thread that has ended; close that answer first"


class EngineScheduler:
    """Gives one question, one frame or one step of other work at a time its turn. Safe between threads."""

    def __init__(self, on_idle: Callable[[], None] = lambda: None) -> None:
        """`on_idle` is called, from any thread, whenever no question and no frame is under way any more."""
        self.on_idle = on_idle
        self._state = threading.Condition()
        self._questions: deque[object] = deque()
        self._frames: deque[object] = deque()
        self._coming = 0
        self._busy = False
        self._reader: threading.Thread | None = None
        """Who takes the pieces of the answer that has the turn."""
        self._frame_next = False
        """Whether the last turn was a question's."""
        self._closed: str | None = None

    @contextmanager
    def frame_pending(self) -> Iterator[None]:
        """A frame is being made, and the processor is busy with it: what can wait does so."""
        check_process()
        with self._state:
            self._coming += 1
        try:
            yield
        finally:
            with self._state:
                self._coming -= 1
            self._tell()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """A frame's turn. Raises UsageError once closed, and where this thread has an answer open."""
        with self.frame_pending():
            self._take(self._frames)
            try:
                yield
            finally:
                self._give_back(question=False)

    @contextmanager
    def idle_step(self) -> Iterator[bool]:
        """A turn for a step that can wait: False, and no turn, while a question or a frame is under way.

        Raises UsageError once closed.
        """
        check_process()
        with self._state:
            self._check()
            mine = not self._busy and self._nothing_under_way()
            self._busy |= mine
        try:
            yield mine
        finally:
            if mine:
                with self._state:
                    self._busy = False
                    self._state.notify_all()

    @contextmanager
    def question(self) -> Iterator[None]:
        """A question's turn, for one that is answered at once. Raises UsageError as `begin_question`."""
        self.begin_question()
        try:
            yield
        finally:
            self.end_question()

    def begin_question(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the turn and take it, until `end_question`; False, and no turn, where it is given up meanwhile.

        Raises UsageError once closed, and where waiting would never end: this thread, or one that has ended, has an
        answer open.
        """
        return self._take(self._questions, given_up)

    def check_not_reading(self) -> None:
        """Raise UsageError if this thread has an answer open: it must not wait for others then."""
        with self._state:
            if self._reader is threading.current_thread():
                raise UsageError(_OPEN)

    def continue_question(self) -> None:
        """This thread takes the answer's next piece: until it is through, it must not wait for another turn."""
        check_process()
        with self._state:
            self._check()
            self._reader = threading.current_thread()

    def end_question(self) -> None:
        """The turn is over. Uses no engine, so that it may be called whenever an answer is dropped."""
        if not is_forked():
            self._give_back(question=True)

    def close(self, reason: str) -> None:
        """No turn is given any more: who waits for one gets UsageError with the reason. Takes no turn away."""
        if not is_forked():
            with self._state:
                self._closed = self._closed or reason
                self._state.notify_all()

    def _take(self, line: deque[object], given_up: Callable[[], bool] = lambda: False) -> bool:
        check_process()
        me = object()
        with self._state:
            line.append(me)
            try:
                while not self._is_next(me):
                    self._check()
                    self._check_reader(line)
                    if given_up():
                        return False
                    self._state.wait(_LOOK_S if line is self._questions else None)
                self._check()
                self._busy = True
                self._reader = threading.current_thread() if line is self._questions else None
                return True
            finally:
                line.remove(me)
                self._state.notify_all()

    def _is_next(self, me: object) -> bool:
        if self._busy:
            return False
        frame_first = bool(self._frames) and (self._frame_next or not self._questions)
        return (self._frames if frame_first else self._questions)[0] is me

    def _give_back(self, *, question: bool) -> None:
        with self._state:
            self._busy = False
            self._reader = None
            self._frame_next = question
            self._state.notify_all()
        self._tell()

    def _nothing_under_way(self) -> bool:
        return not (self._reader or self._questions or self._coming)

    def _tell(self) -> None:
        with self._state:
            quiet = self._nothing_under_way()
        if quiet:
            self.on_idle()

    def _check(self) -> None:
        if self._closed is not None:
            raise UsageError(self._closed)

    def _check_reader(self, line: deque[object]) -> None:
        """Raise UsageError where waiting in this line would never end. Frames have time: the answer may be dropped."""
        self.check_not_reading()
        if line is self._questions and self._reader is not None and not self._reader.is_alive():
            raise UsageError(_ABANDONED)
