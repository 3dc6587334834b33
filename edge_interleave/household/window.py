"""A live window that takes a turn for each frame, each check and each piece of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, Unpack

from edge_interleave.answer import Answer, Choice
from edge_interleave.decoding.answer_stream import AnswerStream
from edge_interleave.household.turns import Turns
from edge_interleave.live.live import Live, WindowFrame
from edge_interleave.media.frame import Frame
from edge_interleave.options import AnswerOptions


class SharedWindow:
    """The window of one source. Use it from one thread, except `close`."""

    def __init__(self, source: str, live: Live, turns: Turns, is_urgent: Callable[[], bool]) -> None:
        """`source`: its name. `is_urgent`: whether an alert is pending. The window owns `live` from now on."""
        self._source = source
        self._live = live
        self._turns = turns
        self._is_urgent = is_urgent
        self._latest: Frame | None = None
        live.idle_turn = lambda: turns.idle_turn(live.resume_idle_work)

    def add(self, frame: Frame, newer: Callable[[], Frame | None]) -> int:
        """Add a frame; returns its number. Raises MediaError, BackendError, TurnsClosedError.

        `newer`: called when the turn comes; returns a frame that came during the wait and replaces this one, or None.
        """
        with self._turn():
            frame = newer() or frame
            number = self._live.add(frame.image, frame.time_s)
            self._latest = frame
        return number

    @property
    def number(self) -> int:
        """The newest frame's number; 0 before the first."""
        return self._live.number

    @property
    def frames(self) -> tuple[WindowFrame, ...]:
        """The frames in the window, oldest first."""
        return self._live.frames

    @property
    def latest(self) -> Frame | None:
        """The newest frame, with its picture."""
        return self._latest

    def check(self, question: str) -> Choice:
        """As `Live.check`. Raises TurnsClosedError."""
        with self._turn():
            return self._live.check(question)

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> _SharedAnswer:
        """As `Live.stream`: each piece takes a turn of its own, so that a long answer delays no other source."""
        return _SharedAnswer(self._live.stream(question, **options), self._turn)

    def close(self) -> None:
        """Abort what runs, and free the KV cache. Any thread may call it, and again."""
        self._live.close()

    def _turn(self) -> AbstractContextManager[None]:
        return self._turns.turn(self._source, urgent=self._is_urgent())


class _SharedAnswer(Iterator[str]):
    """An answer whose pieces take turns."""

    def __init__(self, pieces: AnswerStream, turn: Callable[[], AbstractContextManager[None]]) -> None:
        self._pieces = pieces
        self._turn = turn

    @property
    def answer(self) -> Answer:
        """The whole answer, after its last piece."""
        return self._pieces.answer

    def __next__(self) -> str:
        with self._turn():
            return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pieces.close()
