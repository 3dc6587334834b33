"""Arbitrates one decoder between questions, incoming frames and idle work.

A question has the decoder until it is answered. Questions go before frames, except that a frame waiting when a question
ends goes before the next question. So neither starves: a frame waits for one question at most, and a question for one
frame more than the questions before it. Questions keep their order, frames keep theirs. Idle work goes last, step by
step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_interleave.errors import UsageError
from edge_interleave.util.engine_lock import check_process, is_forked

_CHECK_S = 0.1
"""How often a waiting question checks whether it is cancelled, or whether the reading thread has ended."""
_OPEN = (
    "this thread has an answer open, and nothing else can use the model until it ends; take its remaining pieces or "
    "close it first"
)
_ABANDONED = "an answer was left open by a thread that has ended; close that answer first"


class EngineScheduler:
    """Gives the turn to one question, one frame or one idle step at a time. Thread-safe."""

    def __init__(self, on_idle: Callable[[], None] = lambda: None) -> None:
        """`on_idle` is called, from any thread, whenever the last question or frame ends."""
        self.on_idle = on_idle
        self._state = threading.Condition()
        self._questions: deque[object] = deque()
        self._frames: deque[object] = deque()
        self._pending = 0
        self._busy = False
        self._reader: threading.Thread | None = None
        """The thread that reads the answer that has the turn."""
        self._frame_next = False
        """Whether the last turn was a question's, so that a waiting frame is next."""
        self._closed: str | None = None

    @contextmanager
    def frame_pending(self) -> Iterator[None]:
        """Keep idle work from starting while a frame is being encoded or added."""
        check_process()
        with self._state:
            self._pending += 1
        try:
            yield
        finally:
            with self._state:
                self._pending -= 1
            self._notify_if_idle()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Wait for a frame's turn and hold it. Raises UsageError once closed, and if this thread has an answer open."""
        with self.frame_pending():
            self._take(self._frames)
            try:
                yield
            finally:
                self._end_turn(question=False)

    @contextmanager
    def idle_step(self) -> Iterator[bool]:
        """Hold a turn for an idle step; yields False, without a turn, while a question or a frame waits or runs.

        Raises UsageError once closed.
        """
        check_process()
        with self._state:
            self._check()
            granted = not self._busy and self._is_idle()
            self._busy |= granted
        try:
            yield granted
        finally:
            if granted:
                with self._state:
                    self._busy = False
                    self._state.notify_all()

    @contextmanager
    def question(self) -> Iterator[None]:
        """Wait for a question's turn and hold it. Raises UsageError as `begin_question`."""
        self.begin_question()
        try:
            yield
        finally:
            self.end_question()

    def begin_question(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the turn and take it, until `end_question`; returns False, without the turn, if `given_up()`.

        Raises UsageError once closed, and if waiting would never end: this thread, or one that has ended, has an answer
        open.
        """
        return self._take(self._questions, given_up)

    def check_not_reading(self) -> None:
        """Raise UsageError if this thread has an answer open, because it would wait for itself."""
        with self._state:
            if self._reader is threading.current_thread():
                raise UsageError(_OPEN)

    def continue_question(self) -> None:
        """Record that this thread reads the answer: until the answer ends, it must not wait for another turn."""
        check_process()
        with self._state:
            self._check()
            self._reader = threading.current_thread()

    def end_question(self) -> None:
        """End the turn. Uses no engine, so it may be called when an answer is garbage-collected."""
        if not is_forked():
            self._end_turn(question=True)

    def close(self, reason: str) -> None:
        """Grant no more turns: waiting threads get UsageError with the reason. A turn that is held continues."""
        if not is_forked():
            with self._state:
                self._closed = self._closed or reason
                self._state.notify_all()

    def _take(self, queue: deque[object], given_up: Callable[[], bool] = lambda: False) -> bool:
        check_process()
        ticket = object()
        with self._state:
            queue.append(ticket)
            try:
                while not self._is_next(ticket):
                    self._check()
                    self._check_reader(queue)
                    if given_up():
                        return False
                    self._state.wait(_CHECK_S if queue is self._questions else None)
                self._check()
                self._busy = True
                self._reader = threading.current_thread() if queue is self._questions else None
                return True
            finally:
                queue.remove(ticket)
                self._state.notify_all()

    def _is_next(self, ticket: object) -> bool:
        if self._busy:
            return False
        frame_first = bool(self._frames) and (self._frame_next or not self._questions)
        return (self._frames if frame_first else self._questions)[0] is ticket

    def _end_turn(self, *, question: bool) -> None:
        with self._state:
            self._busy = False
            self._reader = None
            self._frame_next = question
            self._state.notify_all()
        self._notify_if_idle()

    def _is_idle(self) -> bool:
        return not (self._reader or self._questions or self._pending)

    def _notify_if_idle(self) -> None:
        with self._state:
            idle = self._is_idle()
        if idle:
            self.on_idle()

    def _check(self) -> None:
        if self._closed is not None:
            raise UsageError(self._closed)

    def _check_reader(self, queue: deque[object]) -> None:
        """Raise UsageError if waiting would never end. Frames may wait: an abandoned answer can be collected."""
        self.check_not_reading()
        if queue is self._questions and self._reader is not None and not self._reader.is_alive():
            raise UsageError(_ABANDONED)
