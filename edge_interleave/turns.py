"""Whose turn it is at one decoder: frames come in from one thread, questions from others. Knows neither.

A question has the window to itself until it is answered, and goes before frames that wait. Within its turn the engine
is held step by step, so that closing need not wait for a reader who takes the answer's pieces slowly. What can wait
goes last, a step at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import BackendError, UsageError


class Turns:
    """Lets one question, or one frame, at a time to the engine."""

    def __init__(self, quiet: Callable[[], None] = lambda: None) -> None:
        """`quiet` is called, from any thread, whenever no question and no frame is under way any more."""
        self._quiet = quiet
        self._state = threading.Condition()
        self._engine = threading.Lock()
        self._waiting = self._coming = 0
        self._asked = False
        self._closed = False

    @contextmanager
    def coming(self) -> Iterator[None]:
        """A frame is on its way, and the processor busy with it: what can wait does so."""
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
        """The engine, for a frame: after all questions. Raises UsageError once closed."""
        with self.coming():
            while True:
                with self._state:
                    self._state.wait_for(lambda: self._closed or not (self._asked or self._waiting))
                with self._engine:
                    # A question may have begun between the two locks: its turn comes first.
                    with self._state:
                        mine = self._closed or not (self._asked or self._waiting)
                    if mine:
                        with self._checked():
                            yield
                        return

    @contextmanager
    def spare(self) -> Iterator[bool]:
        """The engine, for a step that can wait: False, and no engine, while a question or a frame is under way.

        Raises UsageError once closed.
        """
        if not self._engine.acquire(blocking=False):
            yield False
            return
        try:
            with self._state:
                mine = self._nothing_under_way()
            with self._checked():
                yield mine
        finally:
            self._engine.release()

    def begin_question(self) -> None:
        """Wait for the questions before and take the turn, until `end_question`. Raises UsageError once closed."""
        with self._state:
            self._waiting += 1
            try:
                self._state.wait_for(lambda: self._closed or not self._asked)
                self._check()
                self._asked = True
            finally:
                self._waiting -= 1
                self._state.notify_all()

    def end_question(self) -> None:
        """The turn is over. Takes no engine, so that it may be called whenever an answer is dropped."""
        with self._state:
            self._asked = False
            self._state.notify_all()
        self._tell()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The engine, for one step of the question whose turn it is. Raises UsageError once closed."""
        with self._engine, self._checked():
            yield

    @contextmanager
    def closing(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """The engine, for the last time: nobody gets it afterwards.

        `interrupt` has the engine fail at what it is at; who used it gets UsageError.
        """
        with self._state:
            self._closed = True
            self._state.notify_all()
        interrupt()
        with self._engine:
            yield

    def _nothing_under_way(self) -> bool:
        return not (self._asked or self._waiting or self._coming)

    def _tell(self) -> None:
        with self._state:
            quiet = self._nothing_under_way()
        if quiet:
            self._quiet()

    @contextmanager
    def _checked(self) -> Iterator[None]:
        self._check()
        try:
            yield
        except BackendError:
            self._check()
            raise

    def _check(self) -> None:
        if self._closed:
            raise UsageError("the window is closed; open another one")
