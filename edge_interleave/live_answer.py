"""An answer about a live window, piece by piece. Knows nothing about frames or sources."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from .errors import UsageError
from .generation import CANCELLED, Answer, Generation
from .turns import Turns


class LiveAnswer(Iterator[str]):
    """An iterator of pieces of text, then `answer`. Closing it early cancels the answer.

    From the first piece on the window stands still: take the pieces, or close the answer.
    """

    def __init__(self, generation: Generation, turns: Turns, finished: Callable[[Answer], None]) -> None:
        """Use `Live.stream`. `finished` is called, engine in hand, once the answer is whole."""
        self.thread = threading.get_ident()
        self._generation = generation
        self._turns = turns
        self._finished = finished
        self._begun = self._done = False

    @property
    def answer(self) -> Answer:
        """The whole answer, once the pieces are through or the stream is closed. Raises UsageError before."""
        return self._generation.answer

    def __next__(self) -> str:
        if self._done:
            raise StopIteration
        if not self._begun:
            self._turns.begin_question()
            self._begun = True
        try:
            with self._turns.step():
                try:
                    return next(self._generation)
                except StopIteration:
                    if self.answer.finish_reason != CANCELLED:
                        self._finished(self.answer)
                    raise
        except BaseException as error:
            self._end()
            if isinstance(error, UsageError):
                self._generation.close()
            raise

    def wait(self) -> Answer:
        """Go through the pieces that are left and give the answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End the answer here. It is not remembered."""
        self._generation.close()
        self._end()

    def __del__(self) -> None:
        self._end()

    def __enter__(self) -> LiveAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        if self._begun and not self._done:
            self._turns.end_question()
        self._done = True
