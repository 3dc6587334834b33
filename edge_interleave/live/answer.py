"""An answer about a live window, piece by piece. Contains nothing about frames or sources."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge_interleave.decoding.generation import CANCELLED, Answer, Generation
from edge_interleave.decoding.held_answer import HeldAnswer
from edge_interleave.decoding.scheduler import EngineScheduler


class LiveAnswer(HeldAnswer):
    """An iterator of pieces of text, then `answer`. Closing it early cancels the answer; it is not remembered.

    From the first piece on the window stands still: take the pieces, or close the answer.
    """

    def __init__(
        self,
        generate: Callable[[], Generation],
        scheduler: EngineScheduler,
        cancel: threading.Event | None,
        finished: Callable[[Answer], None],
    ) -> None:
        """Use `Live.stream`. `finished` is called, with the turn still held, once the answer is whole."""
        super().__init__(generate, scheduler, cancel)
        self._remember = finished

    def _finished(self, answer: Answer) -> Answer:
        if answer.finish_reason != CANCELLED:
            self._remember(answer)
        return answer
