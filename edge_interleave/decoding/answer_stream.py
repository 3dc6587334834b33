"""An answer as an iterator of pieces of text, which are generated while it holds the scheduler's turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from edge_interleave.answer import Answer
from edge_interleave.decoding.generation import Generation, cancelled_answer, finished
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.util.engine_lock import check_process, is_forked


class AnswerStream(Iterator[str]):
    """An iterator of an answer's pieces of text; afterwards `answer` is the whole. Closing it early ends the answer.

    Other threads' questions, and the frames of a live window, wait from the first piece until the stream is exhausted,
    closed or dropped. Several threads may take pieces in turn. A question from the thread that took the latest piece
    raises UsageError, because it would wait for itself.
    """

    _has_turn = False

    def __init__(
        self,
        generate: Callable[[], Generation],
        scheduler: EngineScheduler,
        cancel: threading.Event | None = None,
        complete: Callable[[Answer], Answer] = lambda answer: answer,
    ) -> None:
        """Use `Model.stream`, `Chat.stream` or `Live.stream`.

        `generate` is called once the stream has the turn. `cancel` ends the answer, and also the wait for the turn.
        `complete` is called once, with the turn still held, unless an error ends the answer; it returns what `answer`
        becomes.
        """
        self._generate = generate
        self._scheduler = scheduler
        self._cancel = cancel
        self._complete = complete
        self._generation: Generation | None = None
        self._answer: Answer | None = None
        self._lock = threading.RLock()
        self._ended = self._computing = self._closing = False

    @property
    def answer(self) -> Answer:
        """The whole answer, once the stream is exhausted or closed. Raises UsageError before."""
        return finished(self._answer)

    def __next__(self) -> str:
        check_process()
        with self._lock:
            if self._ended or not self._take_turn():
                raise StopIteration
            self._computing = True
            try:
                return self._next_piece()
            finally:
                self._computing = False
                if self._closing:
                    self.close()

    def wait(self) -> Answer:
        """Generate the rest of the answer and return the whole."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End the answer here. From another thread or a signal handler: after the piece that is being computed.

        Does nothing in a forked child.
        """
        if is_forked():
            return
        self._closing = True
        with self._lock:
            if not self._computing:
                self._closing = False
                self._end(whole=True)

    def __del__(self) -> None:
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_turn(self) -> bool:
        """Take the turn unless it is held already; False if the answer is cancelled during the wait."""
        if not self._has_turn:
            self._has_turn = self._scheduler.begin_question(self._is_cancelled)
            if not self._has_turn:
                self._end(whole=False)
        return self._has_turn

    def _is_cancelled(self) -> bool:
        return self._closing or (self._cancel is not None and self._cancel.is_set())

    def _next_piece(self) -> str:
        try:
            self._scheduler.continue_question()
            if self._generation is None:
                self._generation = self._generate()
            return next(self._generation.pieces)
        except BaseException as error:
            self._end(whole=isinstance(error, StopIteration))
            raise

    def _end(self, *, whole: bool) -> None:
        """Set `answer` and end the turn. `whole`: no error ended the answer."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._generation is None:
                self._answer = cancelled_answer()
                return
            self._generation.close()
            self._answer = self._generation.answer
            if whole:
                self._answer = self._complete(self._answer)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._scheduler.end_question()
