"""An answer that holds its turn: from its first piece until it is through, closed or dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

from edge_interleave.decoding.generation import Answer, Generation, nothing_said
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.errors import UsageError
from edge_interleave.util.engine_lock import check_process, is_forked

_Self = TypeVar("_Self", bound="HeldAnswer")


class HeldAnswer(Iterator[str]):
    """An iterator of pieces of text, then `answer`. Closing it early ends the answer.

    Its pieces may be taken by one thread after another. Other threads' questions wait from the first piece on; a
    question of the thread that took the latest piece raises UsageError, for it would wait for itself.
    """

    _begun = False

    def __init__(
        self, generate: Callable[[], Generation], scheduler: EngineScheduler, cancel: threading.Event | None
    ) -> None:
        """`generate` is called once this has the turn. `cancel` ends the waiting for it, too."""
        self._generate = generate
        self._scheduler = scheduler
        self._cancel = cancel
        self._generation: Generation | None = None
        self._answer: Answer | None = None
        self._lock = threading.RLock()
        self._ended = self._computing = self._closing = False

    @property
    def answer(self) -> Answer:
        """The whole answer, once the pieces are through or the stream is closed. Raises UsageError before."""
        if self._answer is None:
            raise UsageError("the answer is not finished; go through its pieces first, or close it")
        return self._answer

    def __next__(self) -> str:
        check_process()
        with self._lock:
            if self._ended or not self._has_turn():
                raise StopIteration
            self._computing = True
            try:
                return self._next_piece()
            finally:
                self._computing = False
                if self._closing:
                    self.close()

    def wait(self) -> Answer:
        """Go through the pieces that are left and give the answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End the answer here. From another thread, or a signal handler, it ends after the piece being computed.

        In a forked child it does nothing.
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

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finished(self, answer: Answer) -> Answer:
        """Called once, with the turn still held, unless an error ends the answer; gives what `answer` shall be."""
        return answer

    def _has_turn(self) -> bool:
        """Take the turn, where this does not have it yet; False where the answer ends while it waits."""
        if not self._begun:
            self._begun = self._scheduler.begin_question(self._given_up)
            if not self._begun:
                self._end(whole=False)
        return self._begun

    def _given_up(self) -> bool:
        return self._closing or (self._cancel is not None and self._cancel.is_set())

    def _next_piece(self) -> str:
        try:
            self._scheduler.continue_question()
            if self._generation is None:
                self._generation = self._generate()
            return next(self._generation)
        except BaseException as error:
            self._end(whole=isinstance(error, StopIteration))
            raise

    def _end(self, *, whole: bool) -> None:
        """Settle the answer and give the turn back. `whole`: no error ends it."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._generation is None:
                self._answer = nothing_said()
                return
            self._generation.close()
            self._answer = self._generation.answer
            if whole:
                self._answer = self._finished(self._answer)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._begun:
            self._begun = False
            self._scheduler.end_question()
