"""Shares the engines of one machine between several sources: one turn at a time, fairly by time.

Each source has its own KV cache, but all compute on the same cores, with the same weights. A turn is one frame, one
check, or one piece of an answer. Turns are granted by start-time fair queueing (Goyal et al., 1996): the source
that had the least time goes first, so that all get equal time while all want it. A source that was idle gets no credit
for that.

A source whose alert is pending goes before the others, but at most every second turn. So it waits for one running turn
and one other at most, and the others are slowed down to half, not stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class TurnsClosedError(Exception):
    """No more turns are granted."""


class Turns:
    """Grants turns. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, by which turns are counted."""
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._busy = False
        self._idle_busy = False
        self._urgent_before = False
        """Whether the latest turn went to a source with a pending alert."""
        self._now = 0.0
        """Virtual time: the start of the latest turn."""
        self._finished: dict[str, float] = {}
        """Virtual time at which each source's latest turn ended."""
        self._refused: list[Callable[[], None]] = []
        self._closed = False

    @contextmanager
    def turn(self, source: str, *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn and hold it. `urgent`: an alert of this source is pending. Raises TurnsClosedError."""
        ticket = self._take(source, urgent)
        began = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._finished[source] = ticket.start + max(self._clock() - began, 0.0)
                self._changed.notify_all()
            self._resume_idle_work()

    @contextmanager
    def idle_turn(self, resume: Callable[[], None]) -> Iterator[bool]:
        """Hold a turn for a step of idle work; yields False, without one, if another turn runs or waits.

        `resume`: called from any thread once a refused step may be tried again.
        """
        with self._changed:
            granted = not (self._busy or self._idle_busy or self._waiting or self._closed)
            if granted:
                self._idle_busy = True
            elif not self._closed and resume not in self._refused:
                self._refused.append(resume)
        try:
            yield granted
        finally:
            if granted:
                with self._changed:
                    self._idle_busy = False
                    self._changed.notify_all()
                self._resume_idle_work()

    def forget(self, source: str) -> None:
        """Drop a source that has ended."""
        with self._changed:
            self._finished.pop(source, None)

    def close(self) -> None:
        """Grant no more turns: all that wait raise TurnsClosedError. A turn that is held continues."""
        with self._changed:
            self._closed = True
            self._refused.clear()
            self._changed.notify_all()

    def _take(self, source: str, urgent: bool) -> _Ticket:
        with self._changed:
            ticket = _Ticket(urgent, max(self._now, self._finished.get(source, 0.0)))
            self._waiting.append(ticket)
            try:
                while not self._closed and (self._busy or self._idle_busy or self._next() is not ticket):
                    self._changed.wait()
                if self._closed:
                    raise TurnsClosedError
                self._busy = True
                self._urgent_before = ticket.urgent
                if not ticket.urgent:
                    self._now = max(self._now, ticket.start)
                return ticket
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _next(self) -> _Ticket:
        urgent = [ticket for ticket in self._waiting if ticket.urgent]
        others = [ticket for ticket in self._waiting if not ticket.urgent]
        first = urgent if urgent and (not others or not self._urgent_before) else others
        return min(first, key=lambda ticket: ticket.start)

    def _resume_idle_work(self) -> None:
        with self._changed:
            if self._busy or self._idle_busy or self._waiting:
                return
            refused, self._refused = self._refused, []
        for resume in refused:
            resume()


@dataclass(eq=False)
class _Ticket:
    """A place in the queue."""

    urgent: bool
    start: float
    """Virtual time at which the turn would begin."""
